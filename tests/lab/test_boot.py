from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from guestclock.errors import UserError
from guestclock.lab import Lab, LabError
from guestclock.lab.boot import parse_results
from guestclock.lab.setup import setup
from guestclock.scenario import load


def facts(results: list[dict]) -> dict[str, dict]:
    return {line["fact"]: line for line in results}


def boundary(index: int) -> str:
    return f'{{"guestclock_lab": "program", "index": {index}}}\n'


def failed(kind: str, message: str) -> str:
    line = {"guestclock_lab": "error", "kind": kind, "message": message, "traceback": f"Traceback\n{kind}: {message}"}
    return json.dumps(line) + "\n"


def test_results_are_the_lines_between_the_boundaries():
    text = boundary(0) + '{"a": 1}\n{"b": 2}\n' + boundary(1) + boundary(2) + '{"c": 3}\n#end 6 ok\n'
    assert parse_results(text, 3) == [[{"a": 1}, {"b": 2}], [], [{"c": 3}]]


def test_a_program_that_failed_has_its_error_in_its_place():
    text = boundary(0) + '{"a": 1}\n' + failed("UserError", "no such step") + boundary(1) + failed("KeyError", "'x'")
    first, second, third = parse_results(text + boundary(2) + '{"c": 3}\n#end 7 ok\n', 3)
    assert isinstance(first, UserError)
    assert str(first) == "no such step"
    assert isinstance(second, LabError)
    assert str(second).splitlines()[0] == "lab: the program inside failed 2 of 3: KeyError: 'x'"
    assert "| Traceback" in str(second)
    assert third == [{"c": 3}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no end marker after 0 lines"),
        (boundary(0) + '{"a": 1}\n{"b"', "no end marker after 2 lines"),
        (boundary(0) + '{"a": 1}\n#end 3 ok\n', "2 lines of results arrived, 3 were written"),
        (boundary(0) + "#end 1 ok\n", "results of 1 programs, expected 2"),
        (boundary(0) + boundary(0) + "#end 2 ok\n", "results of 1 programs, expected 2"),
        ('{"a": 1}\n#end 1 ok\n', "results of no program"),
    ],
)
def test_results_that_are_not_whole_are_refused(text, message):
    with pytest.raises(LabError, match=message):
        parse_results(text, 2)


def test_a_kernel_that_is_not_set_up_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("guestclock.lab.emulator.command", lambda: ["a QEMU"])
    monkeypatch.setenv("GUESTCLOCK_LAB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"kernel 6\.12 is not set up: run 'guestclock lab setup --kernel 6\.12'"):
        Lab("6.12").run({"program": "probe"})


# ---- one boot, many programs (`programs.PROGRAMS`)


@pytest.mark.lab
def test_a_real_kernel_shows_what_a_scenario_rests_on(boot):
    found = facts(boot.lines("probe"))
    assert found["uname"]["release"].startswith(f"{boot.kernel}.")
    assert found["tsc_khz"]["kvm"] == 2_596_122
    assert found["clocksource"]["current"] == "tsc"
    assert found["get_clock"]["flags"] == 14
    assert found["get_clock"]["clock_ns"] >= 1_000_000_000
    assert found["capabilities"]["TSC_CONTROL"] == 0
    readings_ns = found["monotonic_raw"]["readings_ns"]
    assert readings_ns == sorted(set(readings_ns))


@pytest.mark.lab
def test_a_program_that_fails_is_told_and_the_others_run(boot):
    unknown, mistaken = boot.outcomes["unknown"], boot.outcomes["mistaken"]
    assert isinstance(unknown, LabError)
    assert "ValueError: lab: unknown program 'nonsense'" in str(unknown)
    assert isinstance(mistaken, UserError)
    assert str(mistaken) == "program: unknown option 'no-such' (known: host_ops_allowed, trace)"
    assert facts(boot.lines("probe again"))["uname"] == facts(boot.lines("probe"))["uname"]


@pytest.mark.lab
def test_a_program_meets_the_host_as_the_boot_left_it(boot):
    """Whatever the one before it did to it, and did not undo."""
    before, after = facts(boot.lines("probe")), facts(boot.lines("probe again"))
    assert boot.trace("unfinished").of("op")
    assert after["clocksource"] == before["clocksource"]
    assert after["frequency"] == before["frequency"]
    realtime_ns = after["get_clock"]["realtime_ns"] - before["get_clock"]["realtime_ns"]
    assert 0 < realtime_ns < 4 * 10**9, "the 5 s that it was set ahead"


# ---- boots of their own


@pytest.mark.lab
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_two_boots_of_one_scenario_are_the_same_to_the_last_byte(kernel):
    setup([kernel])
    played = load("threads/2023-masterclock").variations[0].program
    first, second = Lab(kernel), Lab(kernel)
    with ThreadPoolExecutor(2) as pool:
        results, again = pool.map(lambda lab: lab.run({"program": "steps", **played}), (first, second))
    assert len(results) > 50
    assert again == results
    assert second.console == first.console


@pytest.mark.lab
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_two_cpus_come_up_on_every_kernel(kernel):
    setup([kernel])
    found = facts(Lab(kernel, smp=2).run({"program": "probe"}))
    assert found["cpus"]["online"] == 2
    assert found["get_clock"]["flags"] == 14


@pytest.mark.lab
def test_a_kernel_that_panics_is_quoted():
    setup(["6.12"])
    with pytest.raises(LabError, match=r"(?s)no end marker.*Kernel panic"):
        Lab("6.12", deterministic=False, extra_cmdline="rdinit=/nothing").run({"program": "probe"})
