"""What readers of the clocks see of a timekeeper, and the stores by which a write section becomes visible to them.

Three things are published, each with a sequence of its own: the timekeeper proper, for the kernel's getters (tk_core);
the vDSO's data, for user space; two latches, for NMIs and tracing (tk_fast_mono, tk_fast_raw). A writer under
timekeeper_lock makes the new timekeeper and then stores it piece by piece; `stores` is that list, so that an actor can
stop between any two of them, and `publish` is all of it at once.

Source: kernel/time/timekeeping.c timekeeping_update(), kernel/time/vsyscall.c update_vsyscall(), v6.12. Where a tick
differs (it publishes its own copy and then copies that over the real timekeeper), only the order within the section
does: the vDSO and the latches come first. `stores` has that order for a tick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from guestclock.arith import S64_MAX
from guestclock.arith import u64 as as_u64
from guestclock.linux.accumulation import NSEC_PER_SEC
from guestclock.linux.clocksource import VCLOCK_NONE, Clocksource
from guestclock.linux.image import BaseImage, Image, image
from guestclock.linux.timekeeper import Timekeeper
from guestclock.sim.field import flag, integer, ref, s64, u32, u64
from guestclock.sim.state import State

Store = tuple[str, Callable[[], None]]
"""What it is, and doing it: the stores of one step."""


class ReadBase(State):
    """struct tk_read_base: what turns a counter into one clock."""

    clock: Clocksource = ref("struct clocksource")
    cycle_last = u64("counter at the last update")
    mult = u32("multiplier")
    shift = integer("shift")
    xtime_nsec = integer("ns << shift at cycle_last, above base")
    base_ns = s64("ns")
    base_real_ns = s64("base as REALTIME, ns; mono's only")
    halted = flag("its clock is dummy_clock: it reads cycles_at_suspend while suspended, else sched_clock")
    wraps = flag("products wrap at 64 bits, as before 6.10 (fcf190c36914)")

    def store(self, new: BaseImage, tk: Timekeeper, halted: bool = False) -> None:
        """All of it: memcpy()."""
        self.clock, self.halted, self.wraps = tk.clock, halted, tk.wraps
        self.cycle_last, self.mult, self.shift = new.cycle_last, new.mult, new.shift
        self.xtime_nsec, self.base_ns, self.base_real_ns = new.xtime_nsec, new.base_ns, new.base_real_ns


class Latch(State):
    """struct tk_fast: two copies, of which readers use the one that is not being written; nobody ever waits."""

    seq = u32("its lowest bit says which copy is to be read")
    base0: ReadBase = ref("read while seq is even")
    base1: ReadBase = ref("read while seq is odd")

    @classmethod
    def new(cls) -> Latch:
        return cls(base0=ReadBase(), base1=ReadBase())

    def base(self, seq: int) -> ReadBase:
        return self.base1 if seq & 1 else self.base0


class Basetime(State):
    """struct vdso_timestamp."""

    sec = s64("s")
    nsec = integer("ns << shift, above sec")


class VdsoData(State):
    """struct vdso_data of one base, CS_HRES_COARSE or CS_RAW: each has a sequence of its own."""

    seq = u32("odd while it is being written")
    clock_mode = integer("VCLOCK_*; VCLOCK_NONE: readers must ask the kernel")
    cycle_last = u64("counter at the last update")
    max_cycles = u64("longest delta whose product fits 64 bits")
    mask = u64("of the counter's width")
    mult = u32("multiplier")
    shift = integer("shift")
    wraps = flag("products wrap at 64 bits, as before 6.10 (fcf190c36914)")
    basetime: Mapping[str, Basetime] = ref("by clock")

    @classmethod
    def of(cls, *clocks: str) -> VdsoData:
        return cls(basetime=MappingProxyType({clock: Basetime() for clock in clocks}))


class Readout(State):
    """Everything that readers of a kernel's clocks read."""

    seq = u32("tk_core.seq: odd while a write section is open")
    mono: ReadBase = ref("tkr_mono")
    raw: ReadBase = ref("tkr_raw")
    xtime_sec = s64("REALTIME's second at cycle_last")
    wtm_sec = s64("wall_to_monotonic, s")
    wtm_nsec = integer("and ns")
    raw_sec = s64("MONOTONIC_RAW's second at cycle_last")
    offs_real_ns = s64("REALTIME - MONOTONIC")
    offs_boot_ns = s64("BOOTTIME - MONOTONIC")
    offs_tai_ns = s64("TAI - MONOTONIC")
    suspended = flag("timekeeping_suspended")
    cycles_at_suspend = u64("what a halted latch reads as the counter")
    vdso: VdsoData = ref("vdata[CS_HRES_COARSE]")
    vdso_raw: VdsoData = ref("vdata[CS_RAW]")
    fast_mono: Latch = ref("tk_fast_mono")
    fast_raw: Latch = ref("tk_fast_raw")

    @classmethod
    def of(cls, tk: Timekeeper) -> Readout:
        """What readers see of a timekeeper at rest."""
        made = cls(
            mono=ReadBase(),
            raw=ReadBase(),
            vdso=VdsoData.of("realtime", "monotonic", "boottime", "tai"),
            vdso_raw=VdsoData.of("monotonic_raw"),
            fast_mono=Latch.new(),
            fast_raw=Latch.new(),
        )
        publish(made, tk)
        return made

    @property
    def at_rest(self) -> bool:
        """E9, as far as it is about sequences: all are even."""
        return all(seq & 1 == 0 for seq in (self.seq, self.vdso.seq, self.vdso_raw.seq))  # concrete: sequences


def publish(readout: Readout, tk: Timekeeper) -> None:
    """A whole write section's stores at once: for whoever lets nobody come in between."""
    for _, store in stores(readout, tk):
        store()


def stores(readout: Readout, tk: Timekeeper, tick: bool = False, halt_cycles: int | None = None) -> tuple[Store, ...]:
    """The stores that make `tk`, as it is now, what readers see, in the kernel's order.

    The first opens the section, the last closes it. tick: timekeeping_advance(), which has taken its ticks on a copy.
    halt_cycles: where tk is suspended, the counter as halt_fast_timekeeper() reads it; None: cycle_last.
    """
    new = image(tk)
    data = _timekeeper(readout, new, tk)
    seen = (*vdso_stores(readout, new, tk), *_latches(readout, new, tk, halted=False))
    halted = (
        (
            ("cycles_at_suspend", lambda: _halt(readout, tk.cycle_last if halt_cycles is None else halt_cycles)),
            *_latches(readout, new, tk, halted=True),
        )
        if tk.suspended
        else ()
    )
    parts = (*seen, *data) if tick else (*data, *seen, *halted)
    return (("seq odd", lambda: seq_begin(readout)), *parts, ("seq even", lambda: seq_end(readout)))


def _halt(readout: Readout, cycles: int) -> None:
    readout.cycles_at_suspend = cycles


def seq_begin(readout: Readout) -> None:
    """write_seqcount_begin(tk_core.seq)."""
    assert readout.seq & 1 == 0, "a write section inside another"
    readout.seq += 1


def seq_end(readout: Readout) -> None:
    assert readout.seq & 1, "no write section is open"
    readout.seq += 1


def _timekeeper(readout: Readout, new: Image, tk: Timekeeper) -> tuple[Store, ...]:
    """struct timekeeper: what forward_now() changes, then the clocks' offsets, then update's bases."""
    mono, raw = readout.mono, readout.raw

    def counted() -> None:
        for base, made in ((mono, new.tkr_mono), (raw, new.tkr_raw)):
            base.clock, base.cycle_last, base.mult, base.shift = tk.clock, made.cycle_last, made.mult, made.shift
            base.wraps = tk.wraps
        readout.suspended = tk.suspended

    def accumulated() -> None:
        mono.xtime_nsec, raw.xtime_nsec = new.tkr_mono.xtime_nsec, new.tkr_raw.xtime_nsec
        readout.xtime_sec, readout.raw_sec = new.xtime_sec, new.raw_sec

    def offsets() -> None:
        readout.wtm_sec, readout.wtm_nsec = new.wall_to_monotonic
        readout.offs_real_ns, readout.offs_tai_ns = new.offs_real_ns, new.offs_tai_ns
        readout.offs_boot_ns = new.offs_boot_ns

    def bases() -> None:
        mono.base_ns, raw.base_ns, mono.base_real_ns = (
            new.tkr_mono.base_ns,
            new.tkr_raw.base_ns,
            new.tkr_mono.base_real_ns,
        )

    return ("cycle_last", counted), ("xtime", accumulated), ("offsets", offsets), ("base", bases)


def vdso_stores(readout: Readout, new: Image, tk: Timekeeper) -> tuple[Store, ...]:
    """update_vsyscall(): the vDSO's own section, complete in itself; it does not wait for tk_core.seq.

    With a clocksource that the vDSO cannot read only the mode is stored; what else is there stays what it was.
    """
    hres, raw, clock = readout.vdso, readout.vdso_raw, tk.clock
    shift = clock.shift

    def begin() -> None:
        hres.seq += 1
        raw.seq += 1

    def mode() -> None:
        hres.clock_mode = raw.clock_mode = clock.vclock_mode
        hres.basetime["realtime"].sec = new.xtime_sec
        hres.basetime["realtime"].nsec = new.tkr_mono.xtime_nsec

    def factors() -> None:
        for data, base in ((hres, new.tkr_mono), (raw, new.tkr_raw)):
            data.cycle_last, data.mult, data.shift = base.cycle_last, base.mult, base.shift
            data.max_cycles, data.mask, data.wraps = clock.max_cycles, clock.mask, tk.wraps

    def basetimes() -> None:
        second, nsec = NSEC_PER_SEC << shift, new.tkr_mono.xtime_nsec
        wtm_sec, wtm_nsec = new.wall_to_monotonic
        boot_sec, boot_nsec = new.monotonic_to_boot
        _basetime(hres.basetime["monotonic"], new.xtime_sec + wtm_sec, nsec + (wtm_nsec << shift), second)
        monotonic = hres.basetime["monotonic"]
        _basetime(hres.basetime["boottime"], monotonic.sec + boot_sec, monotonic.nsec + (boot_nsec << shift), second)
        _basetime(hres.basetime["tai"], new.xtime_sec + new.tai_offset, nsec, second)
        _basetime(raw.basetime["monotonic_raw"], new.raw_sec, new.tkr_raw.xtime_nsec, second)

    fine = () if clock.vclock_mode == VCLOCK_NONE else (("vdso factors", factors), ("vdso basetime", basetimes))
    return ("vdso seq odd", begin), ("vdso mode", mode), *fine, ("vdso seq even", begin)


def _basetime(time: Basetime, sec: int, nsec: int, second: int) -> None:
    while nsec >= second:
        sec, nsec = sec + 1, nsec - second
    time.sec, time.nsec = sec, nsec


def _latches(readout: Readout, new: Image, tk: Timekeeper, halted: bool) -> tuple[Store, ...]:
    """update_fast_timekeeper() for both; halted: halt_fast_timekeeper(), which leaves a clock that stands still."""
    made: tuple[Store, ...] = ()
    for name, latch, base in (("mono", readout.fast_mono, new.tkr_mono), ("raw", readout.fast_raw, new.tkr_raw)):
        made += _latch(f"fast {name}", latch, base, tk, halted)
    return made


def _latch(name: str, latch: Latch, new: BaseImage, tk: Timekeeper, halted: bool) -> tuple[Store, ...]:
    def turn() -> None:
        latch.seq += 1

    return (
        (f"{name}: readers to base[1]", turn),
        (f"{name}: base[0]", lambda: latch.base0.store(new, tk, halted)),
        (f"{name}: readers to base[0]", turn),
        (f"{name}: base[1]", lambda: latch.base1.store(new, tk, halted)),
    )


# ---- what readers compute


def cycles_to_ns(base: ReadBase, cycles: int) -> int:
    """timekeeping_cycles_to_ns(): ns above base; a counter behind cycle_last reads as cycle_last.

    Whatever the fields are, torn ones too.
    """
    delta = as_u64(cycles - base.cycle_last)
    if delta > S64_MAX:
        return base.xtime_nsec >> base.shift
    product = delta * base.mult + base.xtime_nsec
    return (as_u64(product) if base.wraps else product) >> base.shift


def vdso_calc_ns(data: VdsoData, cycles: int, nsec: int) -> int:
    """ns above basetime.sec, as x86's vDSO computes them; nsec: basetime's, ns << shift.

    A counter that is behind reads as cycle_last. Since 6.10 bit 62 of the difference says so: a difference from 2^62
    to below 2^63 is behind for the vDSO and ahead for the kernel's readers.
    Source: arch/x86/include/asm/vdso/gettimeofday.h vdso_calc_ns(), v6.12; vdso_calc_delta(), v6.1.
    """
    delta = as_u64(cycles - data.cycle_last)
    if data.wraps:
        return as_u64((delta * data.mult if cycles > data.cycle_last else 0) + nsec) >> data.shift
    if delta > data.max_cycles:
        delta = as_u64(delta << 1) >> 1
        if delta >= 1 << 62:
            return nsec >> data.shift
    return (delta * data.mult + nsec) >> data.shift


def vdso_calc_ns_generic(data: VdsoData, cycles: int, nsec: int) -> int:
    """The same on arm64: no clamp, and products wrap. A counter one cycle behind reads as garbage.

    Source: lib/vdso/gettimeofday.c vdso_calc_ns(), v6.12, without GENERIC_VDSO_OVERFLOW_PROTECT.
    """
    above = 64 - data.mask.bit_length()
    delta = as_u64(cycles - data.cycle_last << above) >> above
    return as_u64(delta * data.mult + nsec) >> data.shift
