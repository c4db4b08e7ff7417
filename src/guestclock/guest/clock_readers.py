"""Readers and writers of a guest's clocks as actors, in the kernel's own order of loads and stores.

Between two loads of a reader, and between two stores of a writer, others may go on. Who reads by the sequence (the
kernel's getters, the vDSO) reads again if a writer has been there; who reads a latch (NMIs, tracing) never waits.

Contexts: a task or an interrupt reads by `getter`, user space by `vdso`, an NMI by `fast` alone: on the CPU of a writer
it would wait for ever for a sequence that its own CPU holds odd. A writer has interrupts off, so that none comes
between its stores on its own CPU; an NMI does.

Limits: loads are in program order (x86; on arm64 what barriers make of it). What a compiler may reorder between two
looks at the sequence, the sequence makes good; the order here is one of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from guestclock.guest.pvclock import LastValue, PvclockReader, TimeInfo, vdso_ns
from guestclock.linux.accumulation import NSEC_PER_SEC
from guestclock.linux.clocksource import VCLOCK_NONE
from guestclock.linux.readout import (
    Latch,
    ReadBase,
    Readout,
    VdsoData,
    cycles_to_ns,
    seq_begin,
    stores,
    vdso_calc_ns,
)
from guestclock.linux.timekeeper import Timekeeper
from guestclock.sim.checkpoint import cp
from guestclock.sim.field import flag, integer
from guestclock.sim.state import State

Change = Callable[[Timekeeper, Any], None]
Calc = Callable[[VdsoData, Any, Any], Any]


class Cost(State):
    """What one reader has done so far."""

    sequences = integer("sequences begun: seqcounts, versions of a page, latches")
    conversions = integer("products of cycles and a multiplier")
    retries = integer("times it read all over again")


class Source(Protocol):
    """What a clocksource's read() does: cycles for the timekeeper."""

    async def read(self, cost: Cost) -> Any: ...
    async def read_vdso(self, cost: Cost) -> Any | None:
        """None: not from user space, now."""
        ...


class TscSource:
    """The TSC as a clocksource: one ordered read."""

    def __init__(self, rdtsc: Callable[[], Any]) -> None:
        self.rdtsc = rdtsc

    async def read(self, cost: Cost) -> Any:
        return self.rdtsc()

    async def read_vdso(self, cost: Cost) -> Any | None:
        return self.rdtsc()


class KvmclockSource:
    """kvm-clock as a clocksource: a page with a version, a conversion, and its nanoseconds are the cycles.

    page: this vCPU's; the vDSO reads vCPU 0's, page0, whatever vCPU it runs on.
    """

    def __init__(
        self, reader: PvclockReader, page: TimeInfo, page0: TimeInfo, rdtsc: Callable[[], Any], last: LastValue
    ) -> None:
        self.reader, self.page, self.page0, self.rdtsc, self.last = reader, page, page0, rdtsc, last

    async def read(self, cost: Cost) -> Any:
        cost.sequences += 1
        cost.conversions += 1
        return await self.reader.read(self.page, self.rdtsc, self.last)

    async def read_vdso(self, cost: Cost) -> Any | None:
        while True:
            cost.sequences += 1
            cost.conversions += 1
            version = self.page0.version & 0xFFFFFFFE  # concrete: versions count writes
            await cp("vdso: page's version")
            ns = vdso_ns(self.page0, self.rdtsc())
            await cp("vdso: page read")
            if ns is None or self.page0.version == version:
                return ns
            cost.retries += 1


# ---- readers


async def getter(readout: Readout, clock: str, source: Source, cost: Cost, *, retry: bool = True) -> Any:
    """ktime_get() and its family, by system call or in the kernel, ns.

    clock: as in `linux.timekeeper.CLOCKS`. retry: false is a kernel without the seqcount: whatever it loads is taken.
    """
    base = readout.raw if clock == "monotonic_raw" else readout.mono
    while True:
        if retry:
            await cp("getter: sequence", until=lambda: readout.seq & 1 == 0)
        seq = readout.seq
        cost.sequences += 1
        await cp("getter: base")
        base_ns = base.base_ns + _offset(readout, clock)
        await cp("getter: counter")
        cycles = await source.read(cost)
        await cp("getter: factors")
        loaded = ReadBase(cycle_last=base.cycle_last, mult=base.mult, shift=base.shift, wraps=base.wraps)
        await cp("getter: xtime")
        loaded.xtime_nsec = base.xtime_nsec
        cost.conversions += 1
        await cp("getter: sequence again")
        if not retry or readout.seq == seq:
            return base_ns + cycles_to_ns(loaded, cycles)
        cost.retries += 1


def _offset(readout: Readout, clock: str) -> Any:
    offsets = {
        "realtime": lambda: readout.offs_real_ns,
        "boottime": lambda: readout.offs_boot_ns,
        "tai": lambda: readout.offs_tai_ns,
    }
    return offsets[clock]() if clock in offsets else 0


async def vdso(
    readout: Readout,
    clock: str,
    source: Source,
    cost: Cost,
    *,
    calc: Calc = vdso_calc_ns,
    retry: bool = True,
) -> Any | None:
    """clock_gettime() in user space, ns; None: it falls back to the system call.

    It waits for the vDSO's own sequence, not for tk_core's: a timekeeper that is kept frozen does not stop it.
    """
    data = readout.vdso_raw if clock == "monotonic_raw" else readout.vdso
    time = data.basetime[clock]
    while True:
        if retry:
            await cp("vdso: sequence", until=lambda: data.seq & 1 == 0)
        seq = data.seq
        cost.sequences += 1
        await cp("vdso: mode")
        if data.clock_mode == VCLOCK_NONE:
            return None
        cycles = await source.read_vdso(cost)
        if cycles is None:
            return None
        await cp("vdso: factors")
        loaded = VdsoData(
            cycle_last=data.cycle_last, max_cycles=data.max_cycles, mask=data.mask, mult=data.mult, shift=data.shift
        )
        loaded.wraps = data.wraps
        await cp("vdso: basetime")
        ns = calc(loaded, cycles, time.nsec)
        cost.conversions += 1
        await cp("vdso: basetime's second")
        sec = time.sec
        await cp("vdso: sequence again")
        if not retry or data.seq == seq:
            return sec * NSEC_PER_SEC + ns
        cost.retries += 1


async def fast(
    readout: Readout, clock: str, source: Source, cost: Cost, *, sched_clock: Callable[[], Any] | None = None
) -> Any:
    """ktime_get_mono_fast_ns() and its family, in any context, ns. Never waits.

    Across an update it may show a time a little later than what comes after it: by what the multiplier was lowered,
    times the update's length. BOOTTIME and TAI add an offset that is read without any protection: at an injection one
    value may be old by all of it, or new while MONOTONIC is still old.
    sched_clock: what a halted latch reads once timekeeping goes on, before it is restored.
    """
    latch: Latch = readout.fast_raw if clock == "monotonic_raw" else readout.fast_mono
    while True:
        seq = latch.seq
        cost.sequences += 1
        base = latch.base(seq)
        await cp("fast: base")
        base_ns = base.base_real_ns if clock == "realtime" else base.base_ns
        halted = base.halted
        await cp("fast: counter")
        if not halted:
            cycles = await source.read(cost)
        elif readout.suspended or sched_clock is None:
            cycles = readout.cycles_at_suspend
        else:
            cycles = sched_clock()
        await cp("fast: factors")
        ns = base_ns + cycles_to_ns(base, cycles)
        cost.conversions += 1
        await cp("fast: sequence again")
        if latch.seq == seq:
            break
        cost.retries += 1
    if clock in ("boottime", "tai"):
        await cp("fast: offset")
        ns += readout.offs_boot_ns if clock == "boottime" else readout.offs_tai_ns
    return ns


# ---- writers


class Cpu(State):
    """What keeps actors of one CPU apart."""

    irqs_off = flag("its writer has interrupts off: no interrupt's reader runs")
    in_irq = flag("an interrupt is being handled: what it interrupted stands")
    in_nmi = flag("an NMI is being handled: nothing else of this CPU goes on")

    def goes_on(self) -> bool:
        """Guard for what an interrupt or an NMI of this CPU stops."""
        return not self.in_irq and not self.in_nmi


class Lock(State):
    """timekeeper_lock."""

    held = flag("by a writer")


async def write_section(
    lock: Lock,
    cpu: Cpu,
    tk: Timekeeper,
    readout: Readout,
    read: Callable[[], Any],
    change: Change,
    *,
    tick: bool = False,
    sequence: bool = True,
) -> None:
    """One section under timekeeper_lock: `change(tk, cycles)`, and what it changed store by store.

    read: the clocksource, by the writer. tick: timekeeping_advance(), which works on a copy first and opens the
    sequence only to publish it. sequence: false is a kernel whose writer leaves both sequences alone.
    """
    await cp("writer: lock", until=lambda: not lock.held and cpu.goes_on())
    lock.held = cpu.irqs_off = True
    if not tick and sequence:
        await _step(cpu, "writer: seq odd")
        seq_begin(readout)
    await _step(cpu, "writer: counter")
    change(tk, read())
    opens, *parts, closes = stores(readout, tk, tick)
    if tick and sequence:
        await _step(cpu, "writer: seq odd")
        opens[1]()
    for label, store in parts:
        if sequence or "seq" not in label:
            await _step(cpu, f"writer: {label}")
            store()
    await _step(cpu, "writer: seq even")
    if sequence:
        closes[1]()
    lock.held = cpu.irqs_off = False


async def _step(cpu: Cpu, label: str) -> None:
    """A store's checkpoint: what has interrupted this CPU comes first."""
    await cp(label, until=cpu.goes_on)


async def in_irq(cpu: Cpu, work: Callable[[], Awaitable[Any]]) -> Any:
    """Work in an interrupt of that CPU: never between a writer's stores."""
    await cp("irq", until=lambda: not cpu.irqs_off and cpu.goes_on())
    cpu.in_irq = True
    try:
        return await work()
    finally:
        cpu.in_irq = False


async def in_nmi(cpu: Cpu, work: Callable[[], Awaitable[Any]]) -> Any:
    """Work in an NMI of that CPU: between any two steps of it, and the CPU stands until it is done."""
    await cp("nmi")
    cpu.in_nmi = True
    try:
        return await work()
    finally:
        cpu.in_nmi = False
