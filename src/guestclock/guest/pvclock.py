"""A Linux guest's kvmclock: what it computes from its page and its counter, and what it makes of that.

Every reading here is Definition B of the three kvmclocks: what the guest sees, not what KVM would say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from guestclock.abi.pvclock import PVCLOCK_TSC_STABLE_BIT
from guestclock.arith import Time, pvclock_scale_delta, pvclock_tsc_khz, u64
from guestclock.sim.checkpoint import cp
from guestclock.sim.field import flag
from guestclock.sim.field import u64 as u64_field
from guestclock.sim.state import State

T = TypeVar("T", bound=Time)

NSEC_PER_SEC = 1_000_000_000


class TimeInfo(Protocol):
    """The page in guest memory, field by field, as it is at the moment of looking (abi.PvclockVcpuTimeInfo)."""

    @property
    def version(self) -> int: ...
    @property
    def tsc_timestamp(self) -> Any: ...
    @property
    def system_time(self) -> Any: ...
    @property
    def tsc_to_system_mul(self) -> int: ...
    @property
    def tsc_shift(self) -> int: ...
    @property
    def flags(self) -> int: ...


class WallClock(Protocol):
    """struct pvclock_wall_clock in guest memory: the realtime at which kvmclock was 0."""

    @property
    def sec(self) -> Any: ...
    @property
    def nsec(self) -> Any: ...


def kvmclock_ns(page: TimeInfo, tsc: T) -> T:
    """kvmclock at a value of the guest's TSC, ns, u64.

    tsc: guest cycles, u64. There is no sign check: a TSC one cycle before the page's timestamp reads 225 years ahead.
    The page is taken as it is; `PvclockReader` is the reader that minds its version.
    Source: arch/x86/include/asm/pvclock.h __pvclock_read_cycles(), v6.12.
    """
    delta: T = u64(tsc - page.tsc_timestamp)
    ns: T = u64(page.system_time + pvclock_scale_delta(delta, page.tsc_to_system_mul, page.tsc_shift))
    return ns


def stable(flags: int) -> bool:
    return flags & PVCLOCK_TSC_STABLE_BIT != 0  # concrete: a flag byte


class LastValue(State):
    """The guest's own guard against a kvmclock that differs between vCPUs: no reading below the latest one given out.

    Used unless the page says STABLE and the guest was told (CPUID bit 24) that the flag has a meaning.
    Limits: it hides steps back, one guest-wide clock at a time; a step forward on one vCPU it hands to all.
    Source: arch/x86/kernel/pvclock.c last_value, pvclock_resume(), v6.12.
    """

    last_ns = u64_field("the latest kvmclock that any vCPU was given, ns")

    def clamp(self, ns: T) -> T:
        """What the guest is given for a reading of `ns`. One atomic cmpxchg, so no checkpoint inside."""
        last: Any = self.last_ns
        if ns <= last:
            return last  # type: ignore[no-any-return]
        self.last_ns = ns  # type: ignore[assignment]
        return ns

    def resume(self) -> None:
        """pvclock_resume(): after a suspend the clock may begin again below."""
        self.last_ns = 0


class PvclockReader(State):
    """One vCPU's pvclock_clocksource_read_nowd(): the version protocol, the STABLE flag, last_value.

    Source: arch/x86/kernel/pvclock.c __pvclock_clocksource_read(), v6.12.
    """

    stable_bit_known = flag("CPUID 0x40000001 bit 24 was offered: STABLE may be believed", default=True)

    async def read(self, page: TimeInfo, rdtsc: Callable[[], Any], last: LastValue) -> Any:
        """kvmclock as the guest's kernel gives it out, ns, u64.

        page: in memory; KVM may rewrite it at any checkpoint inside. rdtsc: this vCPU's ordered RDTSC.
        """
        ns, flags = await read_kvmclock(page, rdtsc)
        return ns if self.stable_bit_known and stable(flags) else last.clamp(ns)


async def read_kvmclock(page: TimeInfo, rdtsc: Callable[[], Any]) -> tuple[Any, int]:
    """(kvmclock ns, flags) by the version protocol: read again while the page is being written or has been.

    Between two accesses the host may write the page; each is its own step. Never ends on a page left odd.
    Source: arch/x86/include/asm/pvclock.h pvclock_read_begin(), pvclock_read_retry(), v6.12.
    """
    while True:
        version = page.version & 0xFFFFFFFE  # concrete: versions count writes; an odd one never compares equal below
        await cp("pvclock: version read")
        tsc = rdtsc()
        await cp("pvclock: tsc read")
        ns = kvmclock_ns(page, tsc)
        flags = page.flags
        await cp("pvclock: page read")
        if page.version == version:
            return ns, flags


def vdso_ns(page_of_vcpu0: TimeInfo, tsc: T) -> T | None:
    """clock_gettime() in the vDSO: kvmclock from vCPU 0's page on whatever vCPU, or None: fall back to the syscall.

    Not None only with STABLE set. The top bit is cut off (s64 cycles).
    Source: arch/x86/include/asm/vdso/gettimeofday.h vread_pvclock(), v6.12.
    """
    if not stable(page_of_vcpu0.flags):
        return None
    return u64(kvmclock_ns(page_of_vcpu0, tsc) << 1) >> 1


def tsc_khz(page: TimeInfo) -> int:
    """The TSC rate a guest without CPUID 0x15 takes from its page, kHz: only even ones from 2 to 4 GHz."""
    return pvclock_tsc_khz(page.tsc_to_system_mul, page.tsc_shift)


def wall_clock_ns(wall: WallClock, kvmclock: T) -> T:
    """Realtime as a guest sets its clock from it at boot and on resume: ns since 1970, u64.

    wall.sec is a u32 and wraps in 2106. kvmclock: ns, read after the wall clock.
    Source: arch/x86/kernel/pvclock.c pvclock_read_wallclock(), v6.12.
    """
    ns: T = u64(wall.sec * NSEC_PER_SEC + wall.nsec + kvmclock)
    return ns
