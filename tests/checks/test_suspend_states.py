"""threads/2021-suspend: what the guest's kernel keeps besides its clocks, each with a broken line that is flagged."""

from __future__ import annotations

from typing import Any

import pytest

from guestclock.checks.protocol import Design, Thread, check_case, thread
from guestclock.checks.suspend.setting import Setting
from guestclock.checks.suspend.thread import CORRECTED, case
from guestclock.checks.verdict import HOLDS, UNDECIDED, VIOLATED, Verdict
from guestclock.guest.ntp_client import PHASE_NS, synchronise
from guestclock.guest.suspend_time import GuestLinux, HandlerCorrected, HandlerV3
from guestclock.linux import Ntp

NAME = "threads/2021-suspend"
STATES = ("I5", "I16", "I17", "I18", "I20")


class BootAlone(HandlerCorrected):
    """offs_boot moves, and what the vDSO reads of it does not (E3)."""

    @staticmethod
    def interrupt(guest: GuestLinux, cycles: int) -> None:
        kept = guest.tk.monotonic_to_boot_ns
        HandlerCorrected.interrupt(guest, cycles)
        guest.tk.monotonic_to_boot_ns = kept


class WallAlone(HandlerCorrected):
    """wall_to_monotonic stays, and with it all that counts in seconds (E1)."""

    @staticmethod
    def interrupt(guest: GuestLinux, cycles: int) -> None:
        kept = guest.tk.wall_to_monotonic_ns
        HandlerCorrected.interrupt(guest, cycles)
        guest.tk.wall_to_monotonic_ns = kept


class TaiForgotten(HandlerCorrected):
    """offs_tai stays (E2)."""

    @staticmethod
    def interrupt(guest: GuestLinux, cycles: int) -> None:
        kept = guest.tk.offs_tai_kept_ns
        HandlerCorrected.interrupt(guest, cycles)
        guest.tk.offs_tai_kept_ns = kept


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


class PhaseKept(HandlerCorrected):
    """What was still to be slewed is slewed on."""

    @staticmethod
    def interrupt(guest: GuestLinux, cycles: int) -> None:
        phase = guest.tk.ntp.time_offset
        HandlerCorrected.interrupt(guest, cycles)
        guest.tk.ntp.time_offset = phase


class OffsBootOnly(HandlerCorrected):
    """REALTIME does not move."""

    @staticmethod
    def interrupt(guest: GuestLinux, cycles: int) -> None:
        real = guest.tk.offs_real_ns
        HandlerCorrected.interrupt(guest, cycles)
        guest.tk.offs_real_ns = real


def verdicts(kernel: str, handler: type[HandlerCorrected] | type[HandlerV3], **changes: Any) -> dict[str, Verdict]:
    of = thread(NAME)
    setting = Setting(kernel=kernel, handler=handler, vcpus=1).but(**changes)
    one = Thread(of.name, of.about, (Design("x", "", "", lambda: [case("x", "", setting)]),), of.invariants, "")
    found = {v.property: v for v in check_case(one, "x", "x", properties=STATES, budget_s=20).verdicts}
    assert not [v for v in found.values() if v.status == UNDECIDED]
    return found


def wrong(found: dict[str, Verdict]) -> set[str]:
    return {name for name, verdict in found.items() if verdict.status == VIOLATED}


def test_the_corrected_design_keeps_all_of_them() -> None:
    found = verdicts(CORRECTED, HandlerCorrected)
    assert {name for name, verdict in found.items() if verdict.status == HOLDS and verdict.asked} == set(STATES)


@pytest.mark.parametrize(
    ("handler", "flagged"),
    [
        (BootAlone, {"I5"}),
        (WallAlone, {"I5"}),
        (TaiForgotten, {"I5"}),
        (NotMirrored, {"I16"}),
        (NtpKept, {"I18"}),
        (FrequencyLost, {"I18"}),
        (PhaseKept, {"I18"}),
        (OffsBootOnly, {"I5", "I20"}),
    ],
)
def test_a_broken_line_is_flagged_by_what_it_is_about(handler: type[HandlerCorrected], flagged: set[str]) -> None:
    found = wrong(verdicts(CORRECTED, handler))
    assert flagged <= found
    assert found - flagged <= {"I18"}, "an injection that leaves the wall clock alone clears nothing"


def test_offsets_that_part_are_told_in_full() -> None:
    found = verdicts(CORRECTED, BootAlone)["I5"]
    assert found.worst == pytest.approx(600 * 10**9, abs=10**9)
    assert found.unit == "ns"


def test_v3_on_a_tsc_that_began_anew_takes_sched_clock_back_by_the_sleep() -> None:
    found = check_case(thread(NAME), "v3", "reset", properties=["I17"]).verdicts[0]
    assert found.worst == pytest.approx(600 * 10**9, abs=10**9)
    assert found.sense == "back"


def test_kvmclock_counts_through_a_sleep_that_a_guest_slept_itself_and_sched_clock_with_it() -> None:
    found = check_case(thread(NAME), "guest-first", "kvm-clock", properties=["I17"]).verdicts[0]
    assert found.sense == "ahead of MONOTONIC"
    assert check_case(thread(NAME), "guest-first", "sleep", properties=["I17"]).verdicts[0].status == HOLDS


def test_v2s_injection_waits_in_the_ticks_copy_and_leaves_ntp_in_sync() -> None:
    found = check_case(thread(NAME), "v2", "sleep", properties=["I16", "I18"]).verdicts
    assert [(v.status, v.worst) for v in found] == [(VIOLATED, 1)] * 2


@pytest.mark.parametrize("design", ["stock", "v1", "v2", "v3"])
def test_a_guest_whose_host_idles_is_stuck_for_as_long(design: str) -> None:
    """MONOTONIC ran, the guest did not: what the host itself ran is no excuse for a watchdog."""
    found = check_case(thread(NAME), design, "idle", properties=["I10"]).verdicts[0]
    assert found.worst == pytest.approx(600 * 10**9, abs=10**9)
    assert check_case(thread(NAME), "corrected", "idle", properties=["I10"]).verdicts[0].status == HOLDS


def test_a_client_has_set_the_clock_before_anything_happens() -> None:
    ntp = Ntp.start(250)
    synchronise(ntp)
    assert ntp.time_offset * ntp.hz >> 32 == PHASE_NS
    assert not ntp.time_status & 0x40
