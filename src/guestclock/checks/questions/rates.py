"""A clock advances with true time, within a stated rate; what NTP does to the host stays the host's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from guestclock.checks.asks import (
    Ask,
    Instant,
    Instants,
    elapsed_ns,
    events_of,
    guest_windows,
    name_of,
    question,
    same_half,
    scaled,
)
from guestclock.checks.outcome import Outcome
from guestclock.checks.windows import BOOT, GuestWindow, apart
from guestclock.kvm import api
from guestclock.vmm.clocks import CLOCKS

KVMCLOCK_PPM = TSC_PPM = 1
"""RAW and the page round their scales to within 0.0003 ppm, a ratio to within 0.0003 ppm: 1 ppm is none of these."""

NTP_PPM = 1


def _rate(outcome: Outcome, earlier: GuestWindow, later: GuestWindow, clock: str, ppm: int) -> Iterator[Ask]:
    world, khz = outcome.world, outcome.spec.sites[0].khz

    def off(sign: int) -> Callable[[Instants], Any]:
        def value(t: Instants) -> Any:
            units = t("b") - t("a")
            passed = apart(later.read(clock, world, t("b")), earlier.read(clock, world, t("a")))
            meant = scaled(units, earlier.khz, khz) if CLOCKS[clock].counts else elapsed_ns(outcome, units)
            return (passed - meant) * sign - scaled(meant, ppm, 1_000_000)

        return value

    for sense, sign in (("fast", 1), ("slow", -1)):
        yield Ask(
            sense=f"{sense} by more than {ppm} ppm",
            unit=CLOCKS[clock].unit,
            who=name_of(earlier),
            id=f"{clock} {sense} {earlier.id} {later.id}",
            events=events_of(earlier, later),
            instants=(Instant.within("a", earlier), Instant.within("b", later)),
            ordered=(("a", "b"),),
            value=off(sign),
            tolerance=1,  # readings are whole numbers
        )


def rates(outcome: Outcome, clock: str, ppm: int) -> Iterator[Ask]:
    """Over each of a vCPU's windows, and from each to the later ones on the same side of the operation."""
    windows = [w for w in guest_windows(outcome) if w.has(clock)]
    for earlier in windows:
        for later in windows:
            one = earlier.who == later.who and earlier.index <= later.index
            if one and same_half(outcome, earlier, later):
                yield from _rate(outcome, earlier, later, clock, ppm)


@question(
    "kvmclock-rate",
    f"while the guest runs, each kvmclock advances with true time within {KVMCLOCK_PPM} ppm, steps counted",
    source="Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW",
    breaks="the guest's NTP has to pull, and a step is no rate: it pulls after what is over",
    default=False,
)
def kvmclock_rate(outcome: Outcome) -> Iterator[Ask]:
    return rates(outcome, "kvmclock", KVMCLOCK_PPM)


@question(
    "tsc-rate",
    f"while the guest runs, each TSC counts true time at the promised rate within {TSC_PPM} ppm, steps counted",
    source="a counter of constant rate (CPUID Fn8000_0007 EDX bit 8), at the kHz of KVM_GET_TSC_KHZ",
    breaks="deadline timers are early or late, the guest's clocksource watchdog drops the TSC",
    default=False,
)
def tsc_rate(outcome: Outcome) -> Iterator[Ask]:
    return rates(outcome, "tsc", TSC_PPM)


@question(
    "ntp-not-fed-through",
    f"from its first entry on, kvmclock advances with the host's RAW clock within {NTP_PPM} ppm, NTP or not",
    source="53fafdbb8b21, 8171cd68806b (5.5): kvmclock's base is CLOCK_MONOTONIC_RAW, no more CLOCK_BOOTTIME",
    breaks="at each new snapshot the guest is handed what the host's NTP slewed since the last: up to 43 s a day",
    default=False,
)
def ntp_not_fed_through(outcome: Outcome) -> Iterator[Ask]:
    """Between two KVM_SET_CLOCKs: what the VMM does to the clock is not NTP's doing."""
    world, khz = outcome.world, outcome.spec.sites[0].khz
    windows = [w for w in guest_windows(outcome) if w.has_page]
    first: dict[tuple[Any, ...], Any] = {}
    for later in windows:
        stretch = first.setdefault((later.who, _clocks_set(outcome, later)), later)

        def off(sign: int, earlier: Any = stretch, later: Any = later) -> Callable[[Instants], Any]:
            def value(t: Instants) -> Any:
                a, b = t(earlier.opened), t("b")
                passed = apart(later.kvmclock(world, b), earlier.kvmclock(world, a))
                raw = scaled(later.host_tsc(world, b) - earlier.host_tsc(world, a), 1_000_000, khz)
                return (passed - raw) * sign - scaled(raw, NTP_PPM, 1_000_000)

            return value

        for sense, sign in (("fast", 1), ("slow", -1)):
            yield Ask(
                sense=f"{sense} against RAW by more than {NTP_PPM} ppm",
                unit="ns",
                who=name_of(later),
                id=f"ntp {sense} {stretch.id} {later.id}",
                events=events_of(stretch, later),
                instants=(Instant.within("b", later),),
                ordered=((stretch.opened, "b"),),
                value=off(sign),
                # Without a masterclock base clock and TSC are read in turn: a section can lie between, at either end.
                tolerance=2 * outcome.spec.section_ns,
            )


def _clocks_set(outcome: Outcome, window: GuestWindow) -> int:
    """How many KVM_SET_CLOCKs of its VM this window comes after."""
    names = {e.name: n for n, e in enumerate(outcome.world.events)}
    done = [
        names[call.after.partition(":")[0]]
        for call in outcome.calls
        if isinstance(call.op, api.SetClock)
        and (call.site, call.op.vm) == (window.site, window.vm)
        and call.phase != BOOT
    ]
    return sum(n <= window.opener for n in done)
