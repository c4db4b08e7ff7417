"""The kernel's timekeeper: MONOTONIC_RAW, MONOTONIC, REALTIME and BOOTTIME out of one counter, exact on integers.

No actor per tick: ticks that are due are taken in one closed step when somebody looks (`tick_until`), with the result
that the kernel's loop would have, dithering included. Names and order of operations: kernel/time/timekeeping.c, v6.12.
"""

from __future__ import annotations

from guestclock.arith import S64_MAX, U64_MAX
from guestclock.arith import s64 as as_s64
from guestclock.arith import u64 as as_u64
from guestclock.linux.clocksource import Clocksource
from guestclock.linux.ntp import NTP_SCALE_SHIFT, Ntp, tick_length, time_freq
from guestclock.sim.field import flag, integer, ref, s64, u32, u64
from guestclock.sim.state import State

NSEC_PER_SEC = 1_000_000_000
_MAX_RAW_DELTA = (U64_MAX >> 1) + (U64_MAX >> 2) + (U64_MAX >> 3)  # 7/8 of the range, 76031d9536a0


class Timekeeper(State):
    """struct timekeeper with its tk_read_base twins and the file-scope state of suspend.

    Cycles are the current clocksource's, u64; a narrower counter (HPET) is handed in unwrapped, which is what a tick
    at least every few minutes makes of it. Both bases share cycle_last and shift, as every writer keeps them equal.
    Not here: leap seconds, TAI, the lock-free fast timekeepers, the seqcount (every method is one write section).
    """

    clock: Clocksource = ref("the clocksource, struct clocksource")
    ntp: Ntp = ref("what NTP wants")
    hz = integer("CONFIG_HZ")
    cycle_last = u64("counter at the last accumulation")
    mono_mult = u32("multiplier of MONOTONIC, slewed by NTP")
    raw_mult = u32("multiplier of MONOTONIC_RAW, the clocksource's own")
    mono_snsec = integer("MONOTONIC at cycle_last, ns << shift; the kernel splits it into base and xtime_nsec")
    raw_snsec = integer("MONOTONIC_RAW at cycle_last, ns << shift")
    offs_real_ns = s64("REALTIME - MONOTONIC")
    offs_boot_ns = s64("BOOTTIME - MONOTONIC: the time slept")
    cycle_interval = u64("counter cycles in one tick, rounded to nearest")
    xtime_remainder = s64("shifted ns that cycle_interval * nominal mult falls short of one tick")
    ntp_tick = u64("tick length that mono_mult was made for, ns << 32")
    ntp_error = s64("NTP's time - MONOTONIC, ns << 32; positive: MONOTONIC is behind")
    ntp_err_mult = u32("1 while mono_mult is one more than the tick length says, to catch up")
    suspended = flag("timekeeping_suspended")
    suspend_time_ns = s64("persistent clock at suspend, compensated")
    old_delta_ns = s64("system - persistent clock, as the last compensation left it")

    # ---- start and clocksource

    @classmethod
    def start(cls, clock: Clocksource, cycles: int, *, hz: int, monotonic_ns: int, realtime_ns: int) -> Timekeeper:
        """A timekeeper whose MONOTONIC, RAW and BOOTTIME are monotonic_ns, to the ns, where the counter is `cycles`."""
        tk = cls(hz=hz, cycle_last=cycles, offs_real_ns=realtime_ns - monotonic_ns)
        tk.ntp = Ntp(tick_length_base=tick_length(0, hz), tick_length=tick_length(0, hz))
        tk.mono_snsec = tk.raw_snsec = monotonic_ns << clock.shift
        tk._setup_internals(clock)
        return tk

    def _setup_internals(self, clock: Clocksource) -> None:
        interval_snsec = NSEC_PER_SEC // self.hz << clock.shift
        self.clock = clock
        self.mono_mult = self.raw_mult = clock.mult
        self.cycle_interval = (interval_snsec + clock.mult // 2) // clock.mult or 1
        self.xtime_remainder = interval_snsec - self.cycle_interval * clock.mult
        self.ntp_tick = interval_snsec << NTP_SCALE_SHIFT - clock.shift
        self.ntp_error = 0
        self.ntp_err_mult = 0

    def change_clocksource(self, clock: Clocksource, cycles: int, new_cycles: int) -> None:
        """Goes over to `clock`: old counter at `cycles`, new one at `new_cycles`. All clocks are continuous.

        The first tick runs at the new clocksource's nominal rate, NTP's frequency is back with the second one.
        """
        self.forward_now(cycles)
        shift = clock.shift - self.clock.shift
        self.mono_snsec = self.mono_snsec << shift if shift >= 0 else self.mono_snsec >> -shift
        self.raw_snsec = self.raw_snsec << shift if shift >= 0 else self.raw_snsec >> -shift
        self.cycle_last = new_cycles
        self._setup_internals(clock)
        self._clear_ntp()

    # ---- readers

    def monotonic_ns(self, cycles: int) -> int:
        """CLOCK_MONOTONIC where the counter is `cycles`; a counter behind cycle_last reads as cycle_last."""
        return (self.mono_snsec + self._elapsed(cycles) * self.mono_mult) >> self.clock.shift

    def raw_ns(self, cycles: int) -> int:
        """CLOCK_MONOTONIC_RAW where the counter is `cycles`: floor((A + cycles * mult) >> shift), see raw_line()."""
        return (self.raw_snsec + self._elapsed(cycles) * self.raw_mult) >> self.clock.shift

    def realtime_ns(self, cycles: int) -> int:
        return self.monotonic_ns(cycles) + self.offs_real_ns

    def boottime_ns(self, cycles: int) -> int:
        return self.monotonic_ns(cycles) + self.offs_boot_ns

    def raw_line(self) -> tuple[int, int, int]:
        """(A, mult, shift) of MONOTONIC_RAW; changes at a clocksource change and at resume, and at nothing else."""
        return self.raw_snsec - self.cycle_last * self.raw_mult, self.raw_mult, self.clock.shift

    def _elapsed(self, cycles: int) -> int:
        """Cycles since cycle_last for a reader: 0 for a counter that is behind (timekeeping_cycles_to_ns)."""
        delta = as_u64(cycles - self.cycle_last)
        return 0 if delta > S64_MAX else delta

    # ---- ticks

    @property
    def steady(self) -> bool:
        """Whether further ticks would change nothing but cycle_last: MONOTONIC is one line as well."""
        return (
            self.ntp_tick == self.ntp.tick_length
            and self.ntp_err_mult == 0
            and self.ntp_error <= 0
            and self._error_per_tick() == 0
        )

    def tick_until(self, cycles: int) -> None:
        """Takes the ticks that are due where the counter is `cycles`: one whenever cycle_interval is complete.

        Real ticks come later than that by interrupt latency, and by whole idle periods under NO_HZ; MONOTONIC then
        keeps its multiplier for as long. Where that one was a dithered one (off by one step of mult, 0.06 to 0.2
        ppm), the difference is that step times the delay, 0.6 ns at 4 ms, and is made good by later ticks.
        """
        ticks = self._accumulable(cycles) // self.cycle_interval
        if ticks > 0:
            self._accumulate(1)
            self._adjust(0)
            if ticks > 1:
                self._dither(ticks - 1)

    def advance(self, cycles: int) -> None:
        """timekeeping_advance(): one tick at `cycles`, however late: all complete intervals at one multiplier."""
        delta = self._accumulable(cycles)
        ticks = delta // self.cycle_interval
        if ticks > 0:
            self._accumulate(ticks)
            self._adjust(delta - ticks * self.cycle_interval)

    def _accumulable(self, cycles: int) -> int:
        """Cycles since cycle_last for the accumulating side, which believes longer leaps than a reader does."""
        assert not self.suspended, "a tick of a suspended timekeeper"
        delta = as_u64(cycles - self.cycle_last)
        return 0 if delta > _MAX_RAW_DELTA else delta

    def _accumulate(self, ticks: int) -> None:
        """`ticks` whole intervals at the multiplier that is now set (logarithmic_accumulation, all rounds)."""
        cycles = ticks * self.cycle_interval
        per_tick = self.ntp_tick - (self.cycle_interval * self.mono_mult + self.xtime_remainder << self._error_shift)
        self.cycle_last = as_u64(self.cycle_last + cycles)
        self.mono_snsec += cycles * self.mono_mult
        self.raw_snsec += cycles * self.raw_mult
        self.ntp_error = as_s64(self.ntp_error + ticks * per_tick)

    def _adjust(self, offset: int) -> None:
        """timekeeping_adjust(): the multiplier for the tick length, one more if behind. offset: cycles not accumulated.

        MONOTONIC does not move where it is called, only its rate changes.
        """
        if self.ntp_tick == self.ntp.tick_length:
            mult = self.mono_mult - self.ntp_err_mult
        else:
            self.ntp_tick = self.ntp.tick_length
            mult = ((self.ntp_tick >> self._error_shift) - self.xtime_remainder) // self.cycle_interval
        self.ntp_err_mult = 1 if self.ntp_error > 0 else 0
        step = mult + self.ntp_err_mult - self.mono_mult
        self.mono_mult += step
        self.mono_snsec -= offset * step
        self.ntp_error = as_s64(self.ntp_error + (offset * step << self._error_shift))

    def _error_per_tick(self) -> int:
        """By how much ntp_error grows in a tick at the undithered multiplier: from 0 to below one step of mult."""
        mult = self.mono_mult - self.ntp_err_mult
        return self.ntp_tick - (self.cycle_interval * mult + self.xtime_remainder << self._error_shift)

    def _dither(self, ticks: int) -> None:
        """`ticks` ticks one after the other, each with an adjustment, in closed form. The tick length is settled.

        With error x a tick runs at mult + (x > 0), and x becomes x + grow - (x > 0) * step. Once in (grow - step, grow]
        x stays there, so it is known modulo step, and with it how often the multiplier was one more.
        """
        grow, step = self._error_per_tick(), self.cycle_interval << self._error_shift
        assert 0 <= grow < step, (grow, step)
        mult, error, left = self.mono_mult - self.ntp_err_mult, self.ntp_error, ticks
        faster = 0  # ticks at mult + 1
        if error > grow:
            run = -((grow - error) // (step - grow))
            run = run if run < left else left
            error, faster, left = error - run * (step - grow), run, left - run
        elif error <= grow - step and grow > 0:
            run = (grow - step - error) // grow + 1
            run = run if run < left else left
            error, left = error + run * grow, left - run
        if left > 0 and grow - step < error:
            more = -((grow - error - left * grow) // step)
            error, faster = error + left * grow - more * step, faster + more
        cycles = ticks * self.cycle_interval
        self.cycle_last = as_u64(self.cycle_last + cycles)
        self.mono_snsec += cycles * mult + faster * self.cycle_interval
        self.raw_snsec += cycles * self.raw_mult
        self.ntp_error = error
        self.ntp_err_mult = 1 if error > 0 else 0
        self.mono_mult = mult + self.ntp_err_mult

    @property
    def _error_shift(self) -> int:
        return NTP_SCALE_SHIFT - self.clock.shift

    # ---- writers

    def forward_now(self, cycles: int) -> None:
        """timekeeping_forward_now(): accumulates up to `cycles` exactly.

        A counter that went back moves cycle_last back: MONOTONIC goes on from its last value, where without this it
        would stand still until the counter has caught up.
        """
        delta = self._accumulable(cycles)
        self.cycle_last = cycles
        self.mono_snsec += delta * self.mono_mult
        self.raw_snsec += delta * self.raw_mult

    def adjust_frequency(self, cycles: int, freq: int) -> None:
        """adjtimex(ADJ_FREQUENCY): freq in 2^-16 ppm; the new rate holds from this counter value on (aea3706cfc4d)."""
        self.tick_until(cycles)
        ntp = self.ntp
        base = tick_length(freq, self.hz)
        ntp.time_freq = time_freq(freq)
        ntp.tick_length = ntp.tick_length + base - ntp.tick_length_base
        ntp.tick_length_base = base
        self._adjust(self._accumulable(cycles))

    def step_realtime(self, cycles: int, ns: int) -> None:
        """REALTIME moves by ns (timekeeping_inject_offset()); what NTP had still to correct is dropped."""
        self.forward_now(cycles)
        self.offs_real_ns = as_s64(self.offs_real_ns + ns)
        self._clear_ntp()

    def _clear_ntp(self) -> None:
        self.ntp_error = 0
        self.ntp.tick_length = self.ntp.tick_length_base

    # ---- suspend

    def suspend(self, cycles: int, persistent_ns: int) -> None:
        """timekeeping_suspend(). persistent_ns: the persistent clock, in its own granularity.

        To keep system - persistent clock constant over many suspends, the start of the sleep is moved by what that
        difference has grown, if that is from -1 s to below 2 s; beyond, somebody is taken to have set a clock.
        """
        self.forward_now(cycles)
        self.suspended = True
        delta = self.realtime_ns(cycles) - persistent_ns
        grown = delta - self.old_delta_ns
        if -NSEC_PER_SEC <= grown < 2 * NSEC_PER_SEC:
            self.suspend_time_ns = persistent_ns + grown
        else:
            self.suspend_time_ns = persistent_ns
            self.old_delta_ns = delta

    def resume(self, cycles: int, persistent_ns: int, nonstop_ns: int = 0) -> None:
        """timekeeping_resume(). nonstop_ns: the sleep as a counter that never stops measured it, or 0: none did.

        MONOTONIC and RAW go on where they stopped, REALTIME and BOOTTIME move by the sleep. If it was shorter than the
        persistent clock can tell, by nothing.
        """
        assert self.suspended, "resume without suspend"
        slept = nonstop_ns if nonstop_ns > 0 else persistent_ns - self.suspend_time_ns
        if slept > 0:
            self.offs_real_ns = as_s64(self.offs_real_ns + slept)
            self.offs_boot_ns = as_s64(self.offs_boot_ns + slept)
        self.cycle_last = cycles
        self.ntp_error = 0
        self.suspended = False
