"""Which clocksource a kernel counts by: ratings, what makes a TSC trustworthy, the watchdog that ends the trust."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from guestclock.arith import u64 as as_u64
from guestclock.linux.clocksource import Clocksource
from guestclock.sim.field import flag, u64
from guestclock.sim.state import State

RATING_OF_KVM_CLOCK, BELOW_THE_TSC = 400, 299
INTERVAL_MAX_NS = 1_000_000_000  # WATCHDOG_INTERVAL_MAX_NS
MARGIN_NS = 500_000  # both clocks' uncertainty_margin: 2 * CONFIG_CLOCKSOURCE_WATCHDOG_MAX_SKEW_US each, 125 in Debian


@dataclass(frozen=True, kw_only=True, slots=True)
class TscTrust:
    """What CPUID and the command line say of a TSC.

    constant, nonstop: CPUID 0x80000007 bit 8 gives a guest both (invtsc). tsc_adjust: CPUID 7.0 EBX bit 1. reliable:
    tsc=reliable, or a hypervisor's word. packages: sockets. intel: the vendor.
    """

    constant: bool = True
    nonstop: bool = True
    tsc_adjust: bool = True
    reliable: bool = False
    packages: int = 1
    intel: bool = True

    @property
    def unsynchronized(self) -> bool:
        """unsynchronized_tsc(): marked unstable at boot, before any watchdog."""
        return not self.constant and not self.reliable and not self.intel and self.packages > 1

    @property
    def watched(self) -> bool:
        """CLOCK_SOURCE_MUST_VERIFY: whether the watchdog looks at it at all."""
        sound = self.constant and self.nonstop and self.tsc_adjust and self.packages <= 4
        return not (sound or self.reliable)

    def kvm_clock_rating(self, unstable: bool = False) -> int:
        """kvmclock_init(): a guest that was given an invariant TSC prefers it, 300, to kvm-clock."""
        return BELOW_THE_TSC if self.constant and self.nonstop and not unstable else RATING_OF_KVM_CLOCK


def choose(clocksources: Sequence[Clocksource], ratings: dict[str, int], override: str = "") -> Clocksource:
    """clocksource_select(): the highest rating; of equal ones the one that was registered first.

    ratings: by name, where it is not the clocksource's own; 0 for one found unstable, which is never chosen while there
    is another. override: clocksource= on the command line, if that one has a rating.
    """
    best = None
    for one in clocksources:
        rating = ratings.get(one.name, one.rating)
        if rating and one.name == override:
            return one
        if best is None or rating > ratings.get(best.name, best.rating):
            best = one
    assert best is not None, "a kernel always has jiffies"
    return best


class ClocksourceWatchdog(State):
    """clocksource_watchdog() for one clocksource that must be verified, against another one. Every half second.

    Source: kernel/time/clocksource.c, v6.12.
    """

    started = flag("CLOCK_SOURCE_WATCHDOG: there is a pair to compare with")
    cs_last = u64("the watched counter at the last look")
    wd_last = u64("the watchdog's counter at the last look")
    unstable = flag("CLOCK_SOURCE_UNSTABLE: for good")

    def look(
        self, watched: Clocksource, cycles: int, watchdog: Clocksource, wd_cycles: int, *, touched: bool = False
    ) -> str:
        """ "ok", "begun", "skipped" or "unstable". touched: clocksource_touch_watchdog(), as GUEST_STOPPED does.

        An interval of more than a second by either clock is not judged ("Long readout interval", 6.1.192 too): so it
        is where a host's sleep shows in one of the two clocks, and not in the other.
        """
        if self.unstable:
            return "unstable"
        if touched or not self.started:
            self.started, self.cs_last, self.wd_last = not touched, cycles, wd_cycles
            return "begun"
        cs_ns = _ns(watched, self.cs_last, cycles)
        wd_ns = _ns(watchdog, self.wd_last, wd_cycles)
        self.cs_last, self.wd_last = cycles, wd_cycles
        if cs_ns > INTERVAL_MAX_NS or wd_ns > INTERVAL_MAX_NS:
            return "skipped"
        apart = cs_ns - wd_ns
        if apart > MARGIN_NS or -apart > MARGIN_NS:
            self.unstable = True
            return "unstable"
        return "ok"


def _ns(clock: Clocksource, last: int, now: int) -> int:
    """cycles_to_nsec_safe(): 0 for a counter that went back by no more than an eighth of its range."""
    above = 64 - clock.mask.bit_length()
    delta = as_u64(now - last << above) >> above
    return 0 if delta > clock.max_raw_delta else delta * clock.mult >> clock.shift
