from __future__ import annotations

import shutil

import pytest

from guestclock.errors import UserError
from guestclock.lab import Lab, LabError
from guestclock.lab.boot import parse_results
from guestclock.lab.setup import setup

KERNELS = ("6.1", "6.12")


def facts(results: list[dict]) -> dict[str, dict]:
    return {line["fact"]: line for line in results}


def test_results_are_the_lines_before_the_marker():
    assert parse_results('{"a": 1}\n{"b": 2}\n#end 2 ok\n') == [{"a": 1}, {"b": 2}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no end marker after 0 lines"),
        ('{"a": 1}\n{"b"', "no end marker after 1 lines"),
        ('{"a": 1}\n#end 2 ok\n', "1 lines of results arrived, 2 were written"),
        ("#end 0 failed\n", "the program inside failed"),
    ],
)
def test_results_that_are_not_whole_are_refused(text, message):
    with pytest.raises(LabError, match=message):
        parse_results(text)


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="no qemu-system-x86_64 here")
def test_a_kernel_that_is_not_set_up_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("GUESTCLOCK_LAB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"kernel 6\.12 is not set up: run 'guestclock lab setup --kernel 6\.12'"):
        Lab("6.12").run({"program": "probe"})


@pytest.fixture(scope="module", params=KERNELS)
def kernel(request) -> str:
    setup([request.param])
    return request.param


@pytest.mark.lab
def test_a_real_kernel_shows_what_a_scenario_rests_on_twice_the_same(kernel):
    first, second = Lab(kernel), Lab(kernel)
    results = first.run({"program": "probe"})
    found = facts(results)
    assert found["uname"]["release"].startswith(f"{kernel}.")
    assert found["tsc_khz"]["kvm"] == 2_596_122
    assert found["clocksource"]["current"] == "tsc"
    assert found["get_clock"]["flags"] == 14
    assert found["get_clock"]["clock_ns"] >= 1_000_000_000
    assert found["capabilities"]["TSC_CONTROL"] == 0
    readings_ns = found["monotonic_raw"]["readings_ns"]
    assert readings_ns == sorted(set(readings_ns))
    assert second.run({"program": "probe"}) == results
    assert second.console == first.console


@pytest.mark.lab
def test_two_cpus_come_up_on_every_kernel(kernel):
    found = facts(Lab(kernel, smp=2).run({"program": "probe"}))
    assert found["cpus"]["online"] == 2
    assert found["get_clock"]["flags"] == 14


@pytest.mark.lab
def test_a_failure_inside_is_quoted_from_the_console(kernel):
    with pytest.raises(LabError, match=r"(?s)the program inside failed.*unknown program 'nonsense'"):
        Lab(kernel, deterministic=False).run({"program": "nonsense"})


@pytest.mark.lab
def test_a_kernel_that_panics_is_quoted(kernel):
    with pytest.raises(LabError, match=r"(?s)no end marker.*Kernel panic"):
        Lab(kernel, deterministic=False, extra_cmdline="rdinit=/nothing").run({"program": "probe"})
