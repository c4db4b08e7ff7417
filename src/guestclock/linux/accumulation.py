"""How the timekeeper counts: cycles accumulated tick by tick, and the multiplier that NTP steers.

No actor per tick: ticks that are due are taken in one closed step when somebody looks (`tick_until`), with the result
that the kernel's loop would have, dithering and second_overflow() included. Names and order of operations:
kernel/time/timekeeping.c, v6.12.
"""

from __future__ import annotations

from guestclock.arith import S64_MAX, U64_MAX
from guestclock.arith import s64 as as_s64
from guestclock.arith import u64 as as_u64
from guestclock.linux.clocksource import Clocksource
from guestclock.linux.ntp import NTP_SCALE_SHIFT, Ntp
from guestclock.sim.field import flag, integer, ref, s64, u32, u64
from guestclock.sim.state import State

NSEC_PER_SEC = 1_000_000_000
_MAX_RAW_DELTA = (U64_MAX >> 1) + (U64_MAX >> 2) + (U64_MAX >> 3)  # 7/8 of the range, 76031d9536a0


class Accumulation(State):
    """The counting part of struct timekeeper: both tk_read_bases, and what keeps MONOTONIC at NTP's rate.

    Cycles are the current clocksource's, u64; a narrower counter (HPET) is handed in unwrapped, which is what a tick
    at least every few minutes makes of it. Both bases share cycle_last and shift, as every writer keeps them equal.
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
    tai_offset = integer("TAI - REALTIME, s")
    cycle_interval = u64("counter cycles in one tick, rounded to nearest")
    xtime_remainder = s64("shifted ns that cycle_interval * nominal mult falls short of one tick")
    ntp_tick = u64("tick length that mono_mult was made for, ns << 32")
    ntp_error = s64("NTP's time - MONOTONIC, ns << 32; positive: MONOTONIC is behind")
    ntp_err_mult = u32("1 while mono_mult is one more than the tick length says, to catch up")
    skip_second_overflow = flag("an adjustment took back a second that NTP has been told of")
    forgets_leftover = flag(
        "ntp_error is not told what an adjustment takes back (Linux 6.1.176; not 6.1.192, 6.12.117)"
    )
    wraps = flag("products of cycles and mult wrap at 64 bits, as before 6.10 (fcf190c36914); ticks' do not")
    suspended = flag("timekeeping_suspended")

    def setup_internals(self, clock: Clocksource) -> None:
        """tk_setup_internals(): counts by `clock` from now on, at its nominal rate."""
        interval_snsec = NSEC_PER_SEC // self.hz << clock.shift
        self.clock = clock
        self.mono_mult = self.raw_mult = clock.mult
        self.cycle_interval = (interval_snsec + clock.mult // 2) // clock.mult or 1
        self.xtime_remainder = interval_snsec - self.cycle_interval * clock.mult
        self.ntp_tick = interval_snsec << NTP_SCALE_SHIFT - clock.shift
        self.ntp_error = 0
        self.ntp_err_mult = 0
        self.skip_second_overflow = False

    # ---- conversion

    def monotonic_ns(self, cycles: int) -> int:
        """CLOCK_MONOTONIC where the counter is `cycles`; a counter behind cycle_last reads as cycle_last."""
        return self.mono_at(self._elapsed(cycles)) >> self.clock.shift

    def raw_ns(self, cycles: int) -> int:
        """CLOCK_MONOTONIC_RAW where the counter is `cycles`: floor((A + cycles * mult) >> shift), see raw_line()."""
        return self.raw_at(self._elapsed(cycles)) >> self.clock.shift

    def raw_line(self) -> tuple[int, int, int]:
        """(A, mult, shift) of MONOTONIC_RAW; changes at a clocksource change and at resume, and at nothing else."""
        return self.raw_snsec - self.cycle_last * self.raw_mult, self.raw_mult, self.clock.shift

    def _elapsed(self, cycles: int) -> int:
        """Cycles since cycle_last for a reader: 0 for a counter that is behind (timekeeping_cycles_to_ns)."""
        delta = as_u64(cycles - self.cycle_last)
        return 0 if delta > S64_MAX else delta

    def mono_at(self, delta: int) -> int:
        """MONOTONIC `delta` cycles after cycle_last, ns << shift."""
        if self.wraps:
            return self.mono_snsec - self.xtime_nsec + as_u64(self.xtime_nsec + delta * self.mono_mult)
        return self.mono_snsec + delta * self.mono_mult

    def raw_at(self, delta: int) -> int:
        """MONOTONIC_RAW `delta` cycles after cycle_last, ns << shift."""
        if self.wraps:
            base = self.raw_snsec // self.second_snsec * self.second_snsec
            return base + as_u64(self.raw_snsec - base + delta * self.raw_mult)
        return self.raw_snsec + delta * self.raw_mult

    @property
    def xtime_sec(self) -> int:
        """REALTIME's second at cycle_last, s since 1970."""
        return (self.mono_snsec + (self.offs_real_ns << self.clock.shift)) // self.second_snsec

    @property
    def xtime_nsec(self) -> int:
        """What is past of that second at cycle_last, ns << shift."""
        return self.mono_snsec + (self.offs_real_ns << self.clock.shift) - self.xtime_sec * self.second_snsec

    @property
    def second_snsec(self) -> int:
        """A second, ns << shift."""
        return NSEC_PER_SEC << self.clock.shift

    # ---- ticks

    @property
    def steady(self) -> bool:
        """Whether further ticks would change no clock: MONOTONIC is one line as well."""
        return (
            self.ntp_tick == self.ntp.tick_length
            and self.ntp_err_mult == 0
            and self.ntp_error <= 0
            and self._error_per_tick() == 0
            and self.ntp.settled
        )

    def tick_until(self, cycles: int) -> None:
        """Takes the ticks that are due where the counter is `cycles`: one whenever cycle_interval is complete.

        Real ticks come later than that by interrupt latency, and by whole idle periods under NO_HZ; MONOTONIC then
        keeps its multiplier for as long. Where that one was a dithered one (off by one step of mult, 0.06 to 0.2
        ppm), the difference is that step times the delay, 0.6 ns at 4 ms, and is made good by later ticks. Where NTP
        slews, the multiplier changes at full seconds, and a tick that comes t late moves MONOTONIC by t times the
        change; `advance` and `linux.ticks` take real ticks.
        """
        left = self._accumulable(cycles) // self.cycle_interval
        while left > 0:
            self._tick()
            left -= 1
            if self.ntp.settled:
                many = left
            else:  # as many as surely come before REALTIME's next second
                to_go = self.second_snsec - 1 - self.xtime_nsec
                many = to_go // ((self.mono_mult + 1) * self.cycle_interval)
                many = many if many < left else left
            if many > 0:
                self._dither(many)
                left -= many

    def advance(self, cycles: int, forced: bool = False) -> bool:
        """timekeeping_advance(): one tick at `cycles`, however late: all complete intervals at one multiplier.

        forced: TK_ADV_FREQ, which adjusts even where no interval is complete (aea3706cfc4d). Answers whether a leap
        second was taken.
        """
        delta = self._accumulable(cycles)
        ticks = delta // self.cycle_interval
        if ticks <= 0 and not forced:
            return False
        leapt = self._accumulate(ticks)
        return self._adjust(delta - ticks * self.cycle_interval) or leapt

    def _tick(self) -> None:
        self._accumulate(1)
        self._adjust(0)

    def _accumulable(self, cycles: int) -> int:
        """Cycles since cycle_last for the accumulating side, which believes longer leaps than a reader does."""
        assert not self.suspended, "a tick of a suspended timekeeper"
        delta = as_u64(cycles - self.cycle_last)
        return 0 if delta > _MAX_RAW_DELTA else delta

    def _accumulate(self, ticks: int) -> bool:
        """`ticks` whole intervals at the multiplier that is now set (logarithmic_accumulation, all rounds)."""
        cycles, before = ticks * self.cycle_interval, self.xtime_sec
        per_tick = self.ntp_tick - (self.cycle_interval * self.mono_mult + self.xtime_remainder << self._error_shift)
        self.cycle_last = as_u64(self.cycle_last + cycles)
        self.mono_snsec += cycles * self.mono_mult
        self.raw_snsec += cycles * self.raw_mult
        self.ntp_error = as_s64(self.ntp_error + ticks * per_tick)
        return self._seconds_begin(before)

    def _seconds_begin(self, before: int) -> bool:
        """accumulate_nsecs_to_secs(): NTP hears of every second since `before`; whether one was a leap second."""
        seconds = self.xtime_sec - before
        if seconds > 0 and self.skip_second_overflow:
            self.skip_second_overflow = False
            seconds, before = seconds - 1, before + 1
        if seconds > 0 and self.ntp.settled:
            self.ntp.seconds_pass(seconds)
            return False
        leapt = False
        while seconds > 0:
            seconds, before = seconds - 1, before + 1
            leap = self.ntp.second_overflow(before)
            if leap != 0:
                before += leap
                self.offs_real_ns = as_s64(self.offs_real_ns + leap * NSEC_PER_SEC)
                self.tai_offset -= leap
                leapt = True
        return leapt

    def _adjust(self, offset: int) -> bool:
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
        if step == 0:
            return False
        before = self.xtime_sec
        self.mono_snsec -= offset * step
        if not self.forgets_leftover:
            self.ntp_error = as_s64(self.ntp_error + (offset * step << self._error_shift))
        if self.xtime_sec < before:
            self.skip_second_overflow = True
        return self._seconds_begin(before)

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
        cycles, before = ticks * self.cycle_interval, self.xtime_sec
        self.cycle_last = as_u64(self.cycle_last + cycles)
        self.mono_snsec += cycles * mult + faster * self.cycle_interval
        self.raw_snsec += cycles * self.raw_mult
        self.ntp_error = error
        self.ntp_err_mult = 1 if error > 0 else 0
        self.mono_mult = mult + self.ntp_err_mult
        self._seconds_begin(before)

    @property
    def _error_shift(self) -> int:
        return NTP_SCALE_SHIFT - self.clock.shift
