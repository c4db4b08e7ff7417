"""threads/2021-suspend: what the guest's kernel keeps besides its clocks, each with a broken line that is flagged."""

from __future__ import annotations

import pytest

from guestclock.checks.protocol import CaseResult
from guestclock.checks.suspend.setting import Setting
from guestclock.checks.suspend.thread import CORRECTED
from guestclock.checks.verdict import HOLDS, VIOLATED
from guestclock.guest.ntp_client import PHASE_NS, synchronise
from guestclock.guest.suspend_time import GuestLinux, HandlerCorrected
from guestclock.linux import Ntp
from tests.checks.suspend.asking import asked, held, in_world, leaves, wrong

BOOT_ALONE = "tk.monotonic_to_boot_ns"
STATES = ("I5", "I16", "I17", "I18", "I20")


class NotMirrored(HandlerCorrected):
    """Without TK_MIRROR: the tick's copy stays as it was, and will be put in the timekeeper's place."""

    @staticmethod
    def interrupt(guest: GuestLinux, cycles: int) -> None:
        guest.tk.parted()
        copy = guest.tk.shadow
        HandlerCorrected.interrupt(guest, cycles)
        guest.tk.shadow = copy


class NtpKept(HandlerCorrected):
    """Without TK_CLEAR_NTP."""

    @staticmethod
    def interrupt(guest: GuestLinux, cycles: int) -> None:
        HandlerCorrected.interrupt(guest, cycles)
        synchronise(guest.tk.ntp)


class FrequencyLost(HandlerCorrected):
    """NTP begins as at boot."""

    @staticmethod
    def interrupt(guest: GuestLinux, cycles: int) -> None:
        HandlerCorrected.interrupt(guest, cycles)
        guest.tk.ntp.time_freq = 0
        guest.tk.ntp.ntp_clear()


def with_handler(handler: type[HandlerCorrected]) -> CaseResult:
    return in_world(Setting(kernel=CORRECTED, handler=handler, vcpus=1), *STATES)


def test_the_corrected_design_keeps_all_of_them() -> None:
    result = with_handler(HandlerCorrected)
    assert not wrong(result)
    assert held(result) == set(STATES)


@pytest.mark.parametrize(
    ("handler", "flagged"),
    [
        pytest.param(leaves(BOOT_ALONE), {"I5"}, id="what the vDSO reads of offs_boot (E3)"),
        pytest.param(leaves("tk.wall_to_monotonic_ns"), {"I5"}, id="all that counts in seconds (E1)"),
        pytest.param(leaves("tk.offs_tai_kept_ns"), {"I5"}, id="offs_tai (E2)"),
        pytest.param(leaves("tk.offs_real_ns"), {"I5", "I20"}, id="REALTIME"),
        pytest.param(leaves("tk.ntp.time_offset"), {"I18"}, id="what was still to be slewed"),
        (NotMirrored, {"I16"}),
        (NtpKept, {"I18"}),
        (FrequencyLost, {"I18"}),
    ],
)
def test_a_broken_line_is_flagged_by_what_it_is_about(handler: type[HandlerCorrected], flagged: set[str]) -> None:
    found = set(wrong(with_handler(handler)))
    assert flagged <= found
    assert found - flagged <= {"I18"}, "an injection that leaves the wall clock alone clears nothing"


def test_offsets_that_part_are_told_in_full() -> None:
    (found,) = [v for v in with_handler(leaves(BOOT_ALONE)).verdicts if v.property == "I5"]
    assert found.worst == pytest.approx(600 * 10**9, abs=10**9)
    assert found.unit == "ns"


def test_v3_on_a_tsc_that_began_anew_takes_sched_clock_back_by_the_sleep() -> None:
    found = asked("v3", "reset", "I17").verdicts[0]
    assert found.worst == pytest.approx(600 * 10**9, abs=10**9)
    assert found.sense == "back"


def test_kvmclock_counts_through_a_sleep_that_a_guest_slept_itself_and_sched_clock_with_it() -> None:
    found = asked("guest-first", "kvm-clock", "I17").verdicts[0]
    assert found.sense == "ahead of MONOTONIC"
    assert asked("guest-first", "sleep", "I17").verdicts[0].status == HOLDS


def test_v2s_injection_waits_in_the_ticks_copy_and_leaves_ntp_in_sync() -> None:
    found = asked("v2", "sleep", "I16", "I18").verdicts
    assert [(v.status, v.worst) for v in found] == [(VIOLATED, 1)] * 2


@pytest.mark.parametrize("design", ["stock", "v1", "v2", "v3"])
def test_a_guest_whose_host_idles_is_stuck_for_as_long(design: str) -> None:
    """MONOTONIC ran, the guest did not: what the host itself ran is no excuse for a watchdog."""
    found = asked(design, "idle", "I10").verdicts[0]
    assert found.worst == pytest.approx(600 * 10**9, abs=10**9)
    assert asked("corrected", "idle", "I10").verdicts[0].status == HOLDS


def test_a_client_has_set_the_clock_before_anything_happens() -> None:
    ntp = Ntp.start(250)
    synchronise(ntp)
    assert ntp.time_offset * ntp.hz >> 32 == PHASE_NS
    assert not ntp.time_status & 0x40
