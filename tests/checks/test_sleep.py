"""The host sleeps, its counter running: what a sleep is measured by is not the counter, and a snapshot shows it."""

from __future__ import annotations

import pytest

from guestclock.checks.host import MEASURED
from guestclock.checks.target import targets
from guestclock.checks.verdict import HOLDS, VIOLATED, Result, check
from guestclock.errors import UserError
from guestclock.machine import HostSpec, X86Machine
from guestclock.sim import Scheduler, Timeline

S = 10**9
ARM64 = """
about = "An arm64 host sleeps."
[host]
arch = "arm64"
[vm]
vcpus = 2
[[step]]
guest = "read"
[[step]]
host  = "sleep"
value = "1 h"
[[step]]
guest = "read"
"""


def asked(name: str, kernel: str, *properties: str) -> Result:
    (target,) = targets(name, [kernel], properties=properties)
    return check(target.spec, stories=False)


@pytest.mark.parametrize(("kernel", "steps"), [("linux-6.1", True), ("linux-6.12", False)])
def test_a_snapshot_after_a_sleep_steps_kvmclock_by_up_to_the_rtc_s_grain(kernel: str, steps: bool) -> None:
    """Until 6.7 a vCPU that is plugged in makes the masterclock take one."""
    result = asked("bugs/suspend-running-tsc", kernel, "kvmclock-never-back", "tsc-never-back")
    kvmclock, tsc = result.verdicts
    assert result.contracts == {MEASURED}
    assert tsc.status == HOLDS
    if steps:
        assert kvmclock.status == VIOLATED
        assert kvmclock.worst is not None
        assert 1.2 * S <= kvmclock.worst < 1.2 * S + 10_000, "the scenario's RTC is 0.2 s ahead"
    else:
        assert kvmclock.status == HOLDS


def test_before_5_5_ntp_s_part_is_that_of_the_time_awake() -> None:
    """CLOCK_BOOTTIME is not slewed while the host sleeps: 500 ppm of an hour would be 1.8 s."""
    (verdict,) = asked("bugs/suspend-running-tsc", "linux-5.4", "kvmclock-never-back").verdicts
    assert verdict.worst is not None
    assert 1.2 * S < verdict.worst < 1.3 * S


def test_an_arm64_counter_measures_its_host_s_sleep_itself(tmp_path: object) -> None:
    path = tmp_path / "mine.toml"  # type: ignore[operator]
    path.write_text(ARM64)
    result = asked(str(path), "linux-6.12-arm64", "cntvct-never-back", "counters-together")
    assert [verdict.status for verdict in result.verdicts if verdict.asked] == [HOLDS, HOLDS]
    assert result.contracts == set()


def test_a_sleep_in_which_the_tsc_stops_is_refused() -> None:
    with pytest.raises(UserError, match="a sleep in which the counter stops is not explored"):
        asked("bugs/suspend-backwards-tsc", "linux-6.12", "kvmclock-never-back")


@pytest.mark.parametrize("ahead_ns", [0, 200_000_000, 999_999_999, -300_000_000])
@pytest.mark.parametrize("slept_ns", [1, S // 2, S, 3_600_500_000_000, 7 * S + 123])
def test_the_integer_timekeeper_keeps_the_contract(ahead_ns: int, slept_ns: int) -> None:
    """BOOTTIME gains what the RTC says of a sleep: at most its grain, and what it was off, more or less."""
    timeline = Timeline()
    scheduler = Scheduler(timeline)
    spec = HostSpec(rtc_ahead_ns=ahead_ns)
    machine = X86Machine(timeline, spec, scheduler=scheduler)
    for _ in range(3):
        before = machine.ktime_get_boottime_ns() - timeline.now_ps // 1000
        scheduler.spawn("lid", machine.sleep(slept_ns))
        scheduler.run()
        after = machine.ktime_get_boottime_ns() - timeline.now_ps // 1000
        assert abs(after - before) <= spec.rtc_grain_ns + abs(ahead_ns)
