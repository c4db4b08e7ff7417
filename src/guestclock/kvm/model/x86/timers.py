"""How long a delayed work waits: the kernel's timer wheel, and the bounds of its lateness."""

from __future__ import annotations

from typing import Protocol

from guestclock.kvm.model.x86.profile import Profile, timer_expiry
from guestclock.linux.timer_wheel import jiffies_at, wheel_expiry
from guestclock.machine import X86Machine
from guestclock.sim import PS_PER_NS

NSEC_PER_SEC = 1_000_000_000
_PHASE = 1 << 60  # a jiffy on the slots of every level of any wheel


class Timers(Protocol):
    """Says how long a delayed work waits. Who explores orders puts one of his own into `KvmHost.timers`."""

    def delay_ps(self, ns: int) -> int:
        """ps from now until a work that was queued for `ns` from now runs."""
        ...


class KernelTimers:
    """The profile's timer wheel on the machine's jiffies, and the time until the worker comes.

    Assumes that jiffies are in phase with the machine's start. Jiffies follow MONOTONIC, without NTP's slewing: a
    kernel that is wrong about its TSC's rate is as wrong about them.
    """

    def __init__(self, machine: X86Machine, profile: Profile, work_latency_ns: int) -> None:
        self._machine, self._expiry = machine, profile.timer_expiry
        self._latency_ps = work_latency_ns * PS_PER_NS

    def delay_ps(self, ns: int) -> int:
        """By this kernel's wheel, exactly; reads the time, which must be known."""
        if ns == 0:
            return 0
        timeline, spec = self._machine.timeline, self._machine.spec
        hz, uptime_ns = spec.hz, spec.uptime_ns
        num, den = self._monotonic_rate()
        now_ns = uptime_ns + timeline.now_ps * num // (den * PS_PER_NS)
        expiry = self._expiry(jiffies_at(now_ns, hz), self._jiffies(ns), hz)
        fires_ns = (expiry - jiffies_at(0, hz)) * NSEC_PER_SEC // hz
        fires_ps = (fires_ns - uptime_ns) * PS_PER_NS * den // num
        return fires_ps + self._latency_ps - timeline.now_ps

    def range_ps(self, ns: int) -> tuple[int, int]:
        """The least and the most that delay_ps(ns) can answer, whatever the time is; both may be a little wide.

        A jiffy has begun when the work is queued, so the least is up to one jiffy less than the rule says.
        """
        if ns == 0:
            return 0, 0
        hz, delay = self._machine.spec.hz, self._jiffies(ns)
        num, den = self._monotonic_rate()
        jiffy_ps = -(-NSEC_PER_SEC * PS_PER_NS * den // (hz * num))
        # A rule rounds jiffies + delay up to a slot: least just before one, most on one. The wheel cuts a delay beyond
        # its last level down to whole slots: then it is jiffies alone that lie on a slot or before one.
        waits = [self._expiry(now, delay, hz) - now for at in (_PHASE, _PHASE - delay) for now in (at - 1, at)]
        soonest, *_, latest = sorted(waits)
        rounding = 2 * PS_PER_NS * (den // num + 1)
        return (
            (soonest - 1) * (jiffy_ps - 1) - rounding + self._latency_ps,
            latest * jiffy_ps + rounding + self._latency_ps,
        )

    def _jiffies(self, ns: int) -> int:
        return -(-ns * self._machine.spec.hz // NSEC_PER_SEC)

    def _monotonic_rate(self) -> tuple[int, int]:
        """Nominal seconds of MONOTONIC in a true one, as (numerator, denominator)."""
        mode = self._machine.vclock_mode
        if mode != 1 and mode != 3:
            return 1, 1
        spec = self._machine.spec
        true_hz = spec.true_hz
        return true_hz.numerator, true_hz.denominator * spec.tsc_khz * 1000


@timer_expiry.rule(since="4.8", commit="500462a9de65")
def far_timers_late(jiffies: int, delay: int, hz: int) -> int:
    """The wheel of 4.8 and later: rounded up, the more the farther."""
    return wheel_expiry(jiffies, delay, hz)


@timer_expiry.rule(since="2.6.33")
def timers_exact(jiffies: int, delay: int, hz: int) -> int:
    """The cascading wheel before 4.8: at the jiffy asked for."""
    return jiffies + delay
