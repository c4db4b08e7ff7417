"""A guest's handlers on its timekeeper: what each series moves, and that a tick is a tick."""

from __future__ import annotations

from typing import Any

import pytest

from guestclock.guest.suspend_time import (
    FIRST_MONOTONIC_NS,
    FIRST_REALTIME_NS,
    GuestLinux,
    GuestTimekeeper,
    HandlerCorrected,
    HandlerKnob,
    HandlerV1,
    HandlerV2,
    HandlerV3,
    NoHandler,
)
from guestclock.kvm.model.x86.suspend_time import SuspendPage
from guestclock.linux import clocksource

KHZ, S = 2_596_122, 10**9
BOOT, SLEPT = 10**12, 600 * S
ONE, TWO = 999_999, 1_999_999
"""One and two ms by a TSC of this rate, whose mult is rounded down."""


def guest(handler: type[NoHandler], total_ns: int = 0) -> tuple[GuestLinux, SuspendPage]:
    page = SuspendPage(suspend_time_ns=total_ns, epoch=7 if total_ns else 0)
    made = GuestLinux(told=handler, tk=GuestTimekeeper.booted(clocksource("tsc", tsc_khz=KHZ), BOOT))
    handler.register(made, page)
    return made, page


def sleep(page: SuspendPage, ns: int = SLEPT) -> None:
    page.suspend_time_ns += ns
    page.epoch += 1
    page.stores += 1


def clocks(made: GuestLinux, cycles: int) -> tuple[int, int, int]:
    """How far MONOTONIC, BOOTTIME and REALTIME are from where they began."""
    tk = made.tk
    start = (FIRST_MONOTONIC_NS, FIRST_MONOTONIC_NS, FIRST_REALTIME_NS)
    now = (tk.monotonic_ns(cycles), tk.boottime_ns(cycles), tk.realtime_ns(cycles))
    return tuple(ns - was for ns, was in zip(now, start, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("handler", [HandlerV3, HandlerCorrected])
def test_an_injection_moves_boottime_and_realtime_once(handler: Any) -> None:
    made, page = guest(handler)
    sleep(page)
    for _ in range(3):
        handler.interrupt(made, BOOT + KHZ)
    assert clocks(made, BOOT + KHZ) == (ONE, SLEPT + ONE, SLEPT + ONE)
    assert made.injections == 1


def test_v1_is_as_late_as_its_tick_and_v2_as_its_second() -> None:
    made, page = guest(HandlerV1)
    sleep(page)
    assert HandlerV1.tick_has_work(made)
    HandlerV1.tick(made, BOOT + KHZ)
    assert clocks(made, BOOT + KHZ)[1] == SLEPT + ONE
    made, page = guest(HandlerV2)
    sleep(page)
    HandlerV2.interrupt(made, BOOT + KHZ)
    assert clocks(made, BOOT + KHZ)[1] == ONE, "it is in the tick's copy"
    HandlerV2.tick(made, BOOT + 2 * KHZ)
    assert clocks(made, BOOT + 2 * KHZ)[1] == SLEPT + TWO


def test_v2_loses_it_where_another_update_comes_before_the_tick() -> None:
    made, page = guest(HandlerV2)
    sleep(page)
    HandlerV2.interrupt(made, BOOT + KHZ)
    made.tk.inject_offset(BOOT + KHZ, 5)
    HandlerV2.tick(made, BOOT + 2 * KHZ)
    assert clocks(made, BOOT + 2 * KHZ) == (TWO, TWO, TWO + 5)


def test_who_registers_late_counts_from_there() -> None:
    made, _ = guest(HandlerCorrected, total_ns=5 * S)
    HandlerCorrected.interrupt(made, BOOT)
    assert clocks(made, BOOT)[1] == 0
    made, _ = guest(HandlerV3, total_ns=5 * S)
    HandlerV3.interrupt(made, BOOT)
    assert clocks(made, BOOT)[1] == 5 * S, "as posted, all that ever was is injected"


def test_what_the_guest_has_measured_itself_is_not_injected_again() -> None:
    for handler, twice in ((HandlerCorrected, 0), (HandlerV3, SLEPT)):
        made, page = guest(handler)
        made.tk.suspend(BOOT, FIRST_REALTIME_NS)
        made.asleep = True
        sleep(page)
        handler.interrupt(made, BOOT) if handler is HandlerCorrected else None
        slept = made.tk.resume(BOOT, FIRST_REALTIME_NS + SLEPT)
        made.asleep = False
        handler.resumed(made, slept)
        handler.interrupt(made, BOOT)
        assert clocks(made, BOOT)[1] == SLEPT + twice


def test_the_knob_of_february_2021_leaves_the_wall_clock_behind() -> None:
    made, page = guest(HandlerKnob)
    sleep(page)
    HandlerKnob.interrupt(made, BOOT)
    assert clocks(made, BOOT) == (0, SLEPT, 0)


def test_an_acknowledgement_says_which_epoch_is_in() -> None:
    made, page = guest(HandlerCorrected)
    sleep(page)
    assert page.ack != page.epoch
    HandlerCorrected.interrupt(made, BOOT)
    assert page.ack == page.epoch


def test_a_tick_moves_no_reading_that_is_not_behind_it() -> None:
    """Against the kernel's own accumulation, whose multiplier stays where nothing steers it and no error is left."""
    ticked = GuestTimekeeper.booted(clocksource("kvm-clock", tsc_khz=KHZ), BOOT)
    kernel = GuestTimekeeper.booted(clocksource("kvm-clock", tsc_khz=KHZ), BOOT)
    assert kernel.steady
    for cycles in range(BOOT, BOOT + 100_000_000, 3_999_983):
        ticked.tick(cycles)
        kernel.advance(cycles)
        for later in (0, 1, 12_345, 10**9):
            assert ticked.monotonic_ns(cycles + later) == kernel.monotonic_ns(cycles + later)
    assert BOOT < kernel.cycle_last <= ticked.cycle_last
