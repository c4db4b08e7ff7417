"""The kernel's timekeeper: MONOTONIC_RAW, MONOTONIC, REALTIME, BOOTTIME and TAI out of one counter, exact on integers.

A host's and a guest's alike. What it counts with is `linux.accumulation`; here are its clocks and everything that
changes them. Names and order of operations: kernel/time/timekeeping.c, v6.12.

Every writer is one section under timekeeper_lock, at one value of the counter, `cycles`. It takes no ticks first: who
wants those that are due calls `tick_until(cycles)` before. What readers see of a section, and the steps in which it
becomes visible, is `linux.readout`.
"""

from __future__ import annotations

from guestclock.arith import S64_MAX
from guestclock.arith import s64 as as_s64
from guestclock.linux.accumulation import NSEC_PER_SEC, Accumulation
from guestclock.linux.clocksource import Clocksource
from guestclock.linux.ntp import (
    ADJ_FREQUENCY,
    ADJ_SETOFFSET,
    ADJ_TICK,
    EINVAL,
    Ntp,
    Timex,
    TimexAnswer,
    validate,
)
from guestclock.sim.field import flag, ref, s64, u32

TK_CLEAR_NTP, TK_MIRROR, TK_CLOCK_WAS_SET = 1, 2, 4
_KTIME_SEC_MAX = S64_MAX // NSEC_PER_SEC
_SETTOD_SEC_MAX = _KTIME_SEC_MAX - 30 * 365 * 24 * 3600

CLOCKS = ("monotonic", "monotonic_raw", "realtime", "boottime", "tai")


class Timekeeper(Accumulation):
    """struct timekeeper with its tk_read_base twins and the file-scope state of suspend.

    Limits: no PPS. A leap second is taken at the tick that ends its second, as in the kernel.
    """

    offs_boot_ns = s64("BOOTTIME - MONOTONIC: the time slept")
    clock_was_set_seq = u32("counts what hrtimers must hear of: steps, sleeps, leap seconds")
    cs_was_changed_seq = u32("counts clocksources, and reconfigurations of one")
    shadow: Timekeeper | None = ref("the tick's working copy where it differs (E9), else None")
    suspend_time_ns = s64("persistent clock at suspend, compensated")
    old_delta_ns = s64("system - persistent clock, as the last compensation left it")
    suspend_timing_needed = flag("asleep, or slept so that nobody measured it but the RTC class")

    # ---- start and clocksource

    @classmethod
    def start(cls, clock: Clocksource, cycles: int, *, hz: int, monotonic_ns: int, realtime_ns: int) -> Timekeeper:
        """A timekeeper whose MONOTONIC, RAW and BOOTTIME are monotonic_ns, to the ns, where the counter is `cycles`."""
        tk = cls(hz=hz, cycle_last=cycles, offs_real_ns=realtime_ns - monotonic_ns)
        tk.ntp = Ntp.start(hz)
        tk.mono_snsec = tk.raw_snsec = monotonic_ns << clock.shift
        tk.setup_internals(clock)
        return tk

    def change_clocksource(self, clock: Clocksource, cycles: int, new_cycles: int) -> None:
        """Goes over to `clock`: old counter at `cycles`, new one at `new_cycles`. All clocks are continuous.

        The first tick runs at the new clocksource's nominal rate, NTP's frequency is back with the second one.
        """
        self.forward_now(cycles)
        self.rebase(clock, new_cycles)
        self.timekeeping_update(TK_CLEAR_NTP | TK_MIRROR | TK_CLOCK_WAS_SET)

    def rebase(self, clock: Clocksource, new_cycles: int) -> None:
        """Counts by `clock` from `new_cycles` on; MONOTONIC and RAW stay what they are at cycle_last.

        Where it becomes coarser they lose part of a nanosecond, and no reading changes by it.
        """
        shift = clock.shift - self.clock.shift
        self.mono_snsec = self.mono_snsec << shift if shift >= 0 else self.mono_snsec >> -shift
        self.raw_snsec = self.raw_snsec << shift if shift >= 0 else self.raw_snsec >> -shift
        self.cycle_last = new_cycles
        self.cs_was_changed_seq += 1
        self.setup_internals(clock)

    # ---- readers

    def realtime_ns(self, cycles: int) -> int:
        return self.monotonic_ns(cycles) + self.offs_real_ns

    def boottime_ns(self, cycles: int) -> int:
        return self.monotonic_ns(cycles) + self.offs_boot_ns

    def tai_ns(self, cycles: int) -> int:
        return self.monotonic_ns(cycles) + self.offs_tai_ns

    def read_ns(self, clock: str, cycles: int) -> int:
        """One of CLOCKS where the counter is `cycles`, ns."""
        assert clock in CLOCKS, clock
        if clock == "monotonic_raw":
            return self.raw_ns(cycles)
        return self.monotonic_ns(cycles) + self.offset_ns(clock)

    def coarse_ns(self, clock: str) -> int:
        """REALTIME_COARSE or MONOTONIC_COARSE for that clock: what it showed at the latest update, ns."""
        return (self.mono_snsec >> self.clock.shift) + self.offset_ns(clock)

    def offset_ns(self, clock: str) -> int:
        """That clock - MONOTONIC, ns; raises KeyError for MONOTONIC_RAW, which is no such sum."""
        return {
            "monotonic": 0,
            "realtime": self.offs_real_ns,
            "boottime": self.offs_boot_ns,
            "tai": self.offs_tai_ns,
        }[clock]

    @property
    def offs_tai_ns(self) -> int:
        """TAI - MONOTONIC (E2)."""
        return self.offs_real_ns + self.tai_offset * NSEC_PER_SEC

    # ---- the parts of every write section

    def forward_now(self, cycles: int) -> None:
        """timekeeping_forward_now(): accumulates up to `cycles` exactly.

        A counter that went back moves cycle_last back: MONOTONIC goes on from its last value, where without this it
        would stand still until the counter has caught up. NTP does not hear of seconds that begin here.
        """
        delta = self._accumulable(cycles)
        self.mono_snsec, self.raw_snsec = self.mono_at(delta), self.raw_at(delta)
        self.cycle_last = cycles

    def timekeeping_update(self, action: int) -> None:
        """timekeeping_update(): the end of a write section. action: TK_*.

        Without TK_MIRROR the tick's working copy, if it is another (`parted`), stays as it is, and the next tick puts
        it in the place of what was changed here.
        """
        if action & TK_CLEAR_NTP:
            self.ntp_error = 0
            self.ntp.ntp_clear()
        if action & TK_CLOCK_WAS_SET:
            self.clock_was_set_seq += 1
        if action & TK_MIRROR:
            self.shadow = None

    def parted(self) -> Timekeeper:
        """The tick's working copy, shadow_timekeeper, as an object of its own from now on.

        What is changed in it becomes visible with the next tick, unless an update with TK_MIRROR comes first; what is
        changed in the real one without TK_MIRROR is lost with the next tick. NTP is not in it: there is one.
        """
        if self.shadow is None:
            self.shadow = type(self)(**{name: getattr(self, name) for name in self.fields})
        return self.shadow

    def tick_until(self, cycles: int) -> None:
        self._take_shadow(cycles)
        super().tick_until(cycles)

    def advance(self, cycles: int, forced: bool = False) -> bool:
        self._take_shadow(cycles, forced)
        leapt = super().advance(cycles, forced)
        if leapt:
            self.timekeeping_update(TK_CLOCK_WAS_SET)
        return leapt

    def _take_shadow(self, cycles: int, forced: bool = False) -> None:
        """A tick that has something to do works on its own copy, and writes it over the real timekeeper."""
        shadow = self.shadow
        if shadow is not None and (forced or shadow._accumulable(cycles) >= self.cycle_interval):
            for name in self.fields:
                if name != "shadow":
                    setattr(self, name, getattr(shadow, name))
            self.shadow = None

    # ---- clocks that are set

    def settimeofday(self, cycles: int, ns: int) -> int:
        """clock_settime(CLOCK_REALTIME), settimeofday(): REALTIME is `ns` at `cycles`. Answers 0 or -EINVAL.

        MONOTONIC keeps its value and loses its fraction of a nanosecond. Refused (but time has been forwarded, and NTP
        cleared, all the same) where REALTIME would come before MONOTONIC.
        """
        if ns < 0 or ns // NSEC_PER_SEC >= _SETTOD_SEC_MAX:
            return -EINVAL
        self.forward_now(cycles)
        shift = self.clock.shift
        delta = ns - (self.mono_snsec >> shift) - self.offs_real_ns
        refused = self.offs_real_ns + delta < 0
        if not refused:
            self.mono_snsec = self.mono_snsec >> shift << shift
            self.offs_real_ns = as_s64(self.offs_real_ns + delta)
        self.timekeeping_update(TK_CLEAR_NTP | TK_MIRROR | TK_CLOCK_WAS_SET)
        return -EINVAL if refused else 0

    def inject_offset(self, cycles: int, ns: int) -> int:
        """timekeeping_inject_offset(): REALTIME moves by ns; what NTP had still to correct is dropped. 0 or -EINVAL."""
        self.forward_now(cycles)
        realtime_ns = (self.mono_snsec >> self.clock.shift) + self.offs_real_ns + ns
        refused = self.offs_real_ns + ns < 0 or not 0 <= realtime_ns < _SETTOD_SEC_MAX * NSEC_PER_SEC
        if not refused:
            self.offs_real_ns = as_s64(self.offs_real_ns + ns)
        self.timekeeping_update(TK_CLEAR_NTP | TK_MIRROR | TK_CLOCK_WAS_SET)
        return -EINVAL if refused else 0

    def adjtimex(self, cycles: int, asked: Timex) -> TimexAnswer:
        """do_adjtimex() of a privileged caller at `cycles`.

        A frequency or tick length that is set holds from `cycles` on (aea3706cfc4d); a phase (ADJ_OFFSET) is slewed
        from the next second on, its part of the frequency from the next tick. TAI is set without forwarding time.
        """
        invalid = validate(asked)
        if invalid == 0 and asked.modes & ADJ_SETOFFSET:
            invalid = self.inject_offset(cycles, asked.time_ns)
        if invalid != 0:
            return TimexAnswer(result=invalid)
        answer, tai = self.ntp.adjtimex(asked, self.realtime_ns(cycles), self.xtime_sec, self.tai_offset)
        if tai != self.tai_offset:
            self.tai_offset = tai
            self.timekeeping_update(TK_MIRROR | TK_CLOCK_WAS_SET)
        if asked.modes & (ADJ_FREQUENCY | ADJ_TICK):
            self.advance(cycles, forced=True)
        return answer

    # ---- sleep

    def add_sleeptime(self, ns: int) -> bool:
        """__timekeeping_inject_sleeptime(): BOOTTIME, REALTIME and TAI move by ns, MONOTONIC and RAW do not.

        A part of a write section. False, and nothing done, for ns below 0 or of 292 years and more.
        """
        if ns < 0 or ns >= _KTIME_SEC_MAX * NSEC_PER_SEC:
            return False
        self.offs_real_ns = as_s64(self.offs_real_ns + ns)
        self.offs_boot_ns = as_s64(self.offs_boot_ns + ns)
        return True

    def inject_sleeptime64(self, cycles: int, ns: int) -> bool:
        """timekeeping_inject_sleeptime64(): a sleep that was measured after the fact, by the RTC class or a hypervisor.

        NTP is cleared. hrtimers of REALTIME, TAI and BOOTTIME must hear of it: clock_was_set(WALL | BOOT). Answers
        whether ns was believed.
        """
        self.suspend_timing_needed = False
        self.forward_now(cycles)
        believed = self.add_sleeptime(ns)
        self.timekeeping_update(TK_CLEAR_NTP | TK_MIRROR | TK_CLOCK_WAS_SET)
        return believed

    def suspend(self, cycles: int, persistent_ns: int) -> None:
        """timekeeping_suspend(). persistent_ns: the persistent clock, in its own granularity; 0: there is none.

        To keep system - persistent clock constant over many suspends, the start of the sleep is moved by what that
        difference has grown, if that is from -1 s to below 2 s; beyond, somebody is taken to have set a clock.
        """
        self.forward_now(cycles)
        self.suspended = True
        self.suspend_timing_needed = True
        self.suspend_time_ns = persistent_ns
        if persistent_ns != 0:
            delta = self.realtime_ns(cycles) - persistent_ns
            grown = delta - self.old_delta_ns
            if -NSEC_PER_SEC <= grown < 2 * NSEC_PER_SEC:
                self.suspend_time_ns = persistent_ns + grown
            else:
                self.old_delta_ns = delta
        self.timekeeping_update(TK_MIRROR)

    def resume(self, cycles: int, persistent_ns: int, nonstop_ns: int = 0) -> int:
        """timekeeping_resume(). nonstop_ns: the sleep as a counter that never stops measured it, or 0: none did.

        MONOTONIC and RAW go on where they stopped, REALTIME and BOOTTIME move by the sleep, which is answered. If it
        was shorter than the persistent clock can tell, by nothing, and the RTC class may inject it later.
        """
        assert self.suspended, "resume without suspend"
        slept = nonstop_ns if nonstop_ns > 0 else persistent_ns - self.suspend_time_ns
        if slept > 0:
            self.suspend_timing_needed = False
            self.add_sleeptime(slept)
        self.cycle_last = cycles
        self.ntp_error = 0
        self.suspended = False
        self.timekeeping_update(TK_MIRROR | TK_CLOCK_WAS_SET)
        return slept if slept > 0 else 0
