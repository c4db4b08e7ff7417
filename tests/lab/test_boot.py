from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from guestclock.errors import UserError
from guestclock.lab import Lab, LabError
from guestclock.lab.boot import program_sleeps
from guestclock.lab.setup import setup
from guestclock.scenario import load
from tests.lab.programs import OUR_HOST, PROGRAMS


def facts(results: list[dict]) -> dict[str, dict]:
    return {line["fact"]: line for line in results}


@pytest.mark.parametrize(("arch", "command"), [("x86", "lab setup"), ("arm64", "lab setup --arch arm64")])
def test_a_kernel_that_is_not_set_up_is_named(monkeypatch, tmp_path, arch, command):
    monkeypatch.setattr("guestclock.lab.emulator.command", lambda arch: ["a QEMU"])
    monkeypatch.setenv("GUESTCLOCK_LAB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as told:
        Lab("6.12", arch=arch).run({"program": "probe"})
    assert str(told.value) == f"lab: kernel 6.12 is not set up: run 'guestclock {command} --kernel 6.12'"


@pytest.mark.parametrize(
    ("program", "sleeps"),
    [
        ({"program": "probe"}, False),
        ({"program": "steps", "steps": [{"actor": "vmm", "do": "wait"}, {"actor": "guest", "do": "sleep"}]}, False),
        ({"program": "steps", "steps": [{"actor": "vmm", "do": "wait"}, {"actor": "host", "do": "sleep"}]}, True),
        ({"program": "script", "source": "", "sleeps": True}, True),
    ],
)
def test_a_program_that_puts_its_host_to_sleep_is_known_by_its_steps_or_by_its_word(program, sleeps):
    assert program_sleeps(program) is sleeps


# ---- many programs on each kernel (`programs.PROGRAMS`)


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


@pytest.mark.lab
def test_a_program_meets_the_host_as_the_boot_left_it(boot):
    """To the last bit, whatever the one before it did to another copy of it."""
    assert boot.trace("upheaval").of("op")
    assert boot.lines("probe again") == boot.lines("probe")


# ---- the same bytes, whenever

TEN = (
    "bugs/clocksource-switch", "bugs/defeated-1s-rule", "bugs/first-write-of-a-young-guest", "bugs/stale-page",
    "bugs/stable-while-unmatched", "threads/2010-tsc-writes", "threads/2010-tscs-apart", "threads/2021-idempotent-x86",
    "threads/2023-masterclock", "threads/2023-single-vcpu",
)  # fmt: skip
SLEEPS = 300


def of_scenario(name: str) -> dict:
    return {"program": "steps", **load(name).variations[0].program, **OUR_HOST}


@pytest.mark.lab
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_every_run_of_a_scenario_gives_the_same_bytes(kernel):
    """Side by side, on a busy machine, from a snapshot that was found or has just been made."""
    setup([kernel])
    programs = [of_scenario(name) for name in TEN]
    results = Lab(kernel).run_many(programs * 3)
    texts = [json.dumps(lines) for lines in results]
    assert texts[:10] == texts[10:20] == texts[20:]
    assert len(set(texts)) == 10


@pytest.mark.lab
def test_a_thousand_sleeps_end_at_the_same_instants_in_every_run():
    """QEMU skips idle time; where a run is not recorded, it does so a little too far now and then."""
    setup(["6.12"])
    sleep = {"actor": "vmm", "do": "wait", "say": "wait", "value": [["ns", 10**8]]}
    program = {"program": "steps", "vcpus": 1, "boot": False, "look": False, "steps": [sleep] * SLEEPS, **OUR_HOST}
    first, *others = Lab("6.12").run_many([program] * 4)
    assert len(first) > SLEEPS
    assert all(lines == first for lines in others)


@pytest.mark.lab
def test_a_snapshot_just_made_and_one_found_are_one(monkeypatch, tmp_path):
    """And one process uses it while another makes it."""
    setup(["6.12"])
    program = of_scenario("threads/2023-masterclock")
    from guestclock.lab.tools import cache_dir

    for kept in ("images", "qemu", "code"):
        if (cache_dir() / kept).exists():
            (tmp_path / kept).symlink_to(cache_dir() / kept)
    monkeypatch.setenv("GUESTCLOCK_LAB_CACHE", str(tmp_path))
    told: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(Lab("6.12", progress=told.append).run, program) for _ in range(2)]
        first, second = (future.result() for future in both)
    assert len(told) == 1, "one of them boots"
    assert first == second == Lab("6.12", progress=told.append).run(program)
    (place,) = (tmp_path / "snapshots").iterdir()
    (place / "ram").write_bytes(b"damaged")
    monkeypatch.setattr("guestclock.lab.snapshots._checked", set())
    assert len(Lab("6.12", progress=told.append).run(program)) == len(first)
    assert [line.partition(": ")[0] for line in told].count(f"lab: {place}") == 0
    assert any("damaged (ram: not what was written there), is made again" in line for line in told)
    assert len(list((tmp_path / "snapshots").iterdir())) == 1
    shutil.rmtree(tmp_path / "snapshots")


# ---- other machines


@pytest.mark.lab
@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_two_cpus_come_up_on_every_kernel(kernel):
    setup([kernel])
    found = facts(Lab(kernel, smp=2).run({"program": "probe"}))
    assert found["cpus"]["online"] == 2
    assert found["get_clock"]["flags"] == 14


@pytest.mark.lab
def test_time_may_be_the_host_s():
    setup(["6.12"])
    found = facts(Lab("6.12", deterministic=False, tsc_khz=None).run(PROGRAMS["probe"]))
    assert found["get_clock"]["flags"] == 14
    assert found["tsc_khz"]["kvm"] not in (1_000_000, 2_596_122)


@pytest.mark.lab
def test_a_kernel_that_panics_is_quoted():
    setup(["6.12"])
    with pytest.raises(LabError, match=r"(?s)powered off.*Kernel panic"):
        Lab("6.12", deterministic=False, extra_cmdline="rdinit=/nothing").run({"program": "probe"})
