"""Everything that changes a timekeeper, against the kernel's own fields, tick by tick; and what readers see of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestclock.linux import TK_CLOCK_WAS_SET, TK_MIRROR, Timekeeper, Timex, arch_sys_counter, clocksource
from guestclock.linux.image import broken, image
from guestclock.linux.ntp import (
    ADJ_FREQUENCY,
    ADJ_NANO,
    ADJ_OFFSET,
    ADJ_OFFSET_SINGLESHOT,
    ADJ_SETOFFSET,
    ADJ_STATUS,
    ADJ_TAI,
    ADJ_TICK,
    ADJ_TIMECONST,
    EINVAL,
    STA_INS,
    STA_NANO,
    STA_PLL,
    STA_UNSYNC,
    TIME_ERROR,
    TIME_INS,
    TIME_OK,
    TIME_OOP,
    TIME_WAIT,
    Ntp,
)
from guestclock.linux.readout import (
    Readout,
    cycles_to_ns,
    publish,
    stores,
    vdso_calc_ns,
    vdso_calc_ns_generic,
)
from guestclock.linux.timekeeper import CLOCKS
from guestclock.sim import WidthObserver, watching

KHZ = 2_596_122
SECOND = 10**9


class Kernel:
    """struct timekeeper as the kernel's functions leave it, one tick after the other; NTP is the model's."""

    def __init__(self, clock, cycles, hz, monotonic_ns, realtime_ns):
        self.clock, self.hz, self.ntp = clock, hz, Ntp.start(hz)
        self.last = cycles
        self.sec, rest = divmod(realtime_ns, SECOND)
        self.nsec = rest << clock.shift
        self.wtm = divmod(monotonic_ns - realtime_ns, SECOND)
        self.raw_sec, rest = divmod(monotonic_ns, SECOND)
        self.raw_nsec = rest << clock.shift
        self.boot, self.tai = 0, 0
        self.setup(clock)

    def setup(self, clock):
        interval = (SECOND // self.hz) << clock.shift
        self.clock, self.mult = clock, clock.mult
        self.cycle_interval = max((interval + clock.mult // 2) // clock.mult, 1)
        self.xtime_interval = self.cycle_interval * clock.mult
        self.remainder = interval - self.xtime_interval
        self.error_shift = 32 - clock.shift
        self.tick = interval << self.error_shift
        self.error = self.err_mult = 0
        self.skip = False

    @property
    def one(self):
        return SECOND << self.clock.shift

    def raw_normal(self):
        while self.raw_nsec >= self.one:
            self.raw_nsec -= self.one
            self.raw_sec += 1

    def seconds(self):
        while self.nsec >= self.one:
            self.nsec -= self.one
            self.sec += 1
            if self.skip:
                self.skip = False
                continue
            leap = self.ntp.second_overflow(self.sec)
            if leap:
                self.sec += leap
                self.wtm = (self.wtm[0] - leap, self.wtm[1])
                self.tai -= leap

    def advance(self, cycles, forced=False):
        offset = cycles - self.last
        if offset < self.cycle_interval and not forced:
            return
        while offset >= self.cycle_interval:
            offset -= self.cycle_interval
            self.last += self.cycle_interval
            self.nsec += self.xtime_interval
            self.seconds()
            self.raw_nsec += self.cycle_interval * self.clock.mult
            self.raw_normal()
            self.error += self.tick - ((self.xtime_interval + self.remainder) << self.error_shift)
        if self.tick == self.ntp.tick_length:
            mult = self.mult - self.err_mult
        else:
            self.tick = self.ntp.tick_length
            mult = ((self.tick >> self.error_shift) - self.remainder) // self.cycle_interval
        self.err_mult = 1 if self.error > 0 else 0
        step = mult + self.err_mult - self.mult
        self.mult += step
        self.xtime_interval += self.cycle_interval * step
        self.nsec -= offset * step
        self.error += (offset * step) << self.error_shift
        if self.nsec < 0:
            self.nsec += self.one
            self.sec -= 1
            self.skip = True
        self.seconds()

    def tick_until(self, cycles):
        while cycles - self.last >= self.cycle_interval:
            self.advance(self.last + self.cycle_interval)

    def forward_now(self, cycles):
        delta, self.last = cycles - self.last, cycles
        self.nsec += delta * self.mult
        self.raw_nsec += delta * self.clock.mult
        while self.nsec >= self.one:
            self.nsec -= self.one
            self.sec += 1
        self.raw_normal()

    def clear(self):
        self.error = 0
        self.ntp.ntp_clear()

    def wtm_minus(self, ns):
        self.wtm = divmod(self.wtm[0] * SECOND + self.wtm[1] - ns, SECOND)

    def settimeofday(self, cycles, ns):
        self.forward_now(cycles)
        delta = ns - (self.sec * SECOND + (self.nsec >> self.clock.shift))
        if self.wtm[0] * SECOND + self.wtm[1] <= delta:
            self.wtm_minus(delta)
            self.sec, rest = divmod(ns, SECOND)
            self.nsec = rest << self.clock.shift
        self.clear()

    def step(self, ns):
        sec, rest = divmod(ns, SECOND)
        self.sec += sec
        self.nsec += rest << self.clock.shift
        while self.nsec >= self.one:
            self.nsec -= self.one
            self.sec += 1
        self.wtm_minus(ns)

    def inject_offset(self, cycles, ns):
        self.forward_now(cycles)
        if self.wtm[0] * SECOND + self.wtm[1] <= ns:
            self.step(ns)
        self.clear()

    def sleeptime(self, ns):
        self.step(ns)
        self.boot += ns

    def adjtimex(self, cycles, asked):
        if asked.modes & ADJ_SETOFFSET:
            self.inject_offset(cycles, asked.time_ns)
        now = self.sec * SECOND + ((self.nsec + (cycles - self.last) * self.mult) >> self.clock.shift)
        _, self.tai = self.ntp.adjtimex(asked, now, self.sec, self.tai)
        if asked.modes & (ADJ_FREQUENCY | ADJ_TICK):
            self.advance(cycles, forced=True)

    def source(self, clock, cycles, new_cycles):
        self.forward_now(cycles)
        shift = clock.shift - self.clock.shift
        self.nsec = self.nsec << shift if shift > 0 else self.nsec >> -shift
        self.raw_nsec = self.raw_nsec << shift if shift > 0 else self.raw_nsec >> -shift
        self.last = new_cycles
        self.setup(clock)
        self.clear()

    def fields(self):
        """Named as in Image."""
        return {
            "xtime_sec": self.sec,
            "wall_to_monotonic": self.wtm,
            "offs_real_ns": -(self.wtm[0] * SECOND + self.wtm[1]),
            "offs_boot_ns": self.boot,
            "tai_offset": self.tai,
            "raw_sec": self.raw_sec,
            "xtime_interval": self.xtime_interval,
            "ntp_error": self.error,
            "ntp_err_mult": self.err_mult,
            "ntp_tick": self.tick,
            "skip_second_overflow": self.skip,
            "mono": (self.last, self.mult, self.nsec, (self.sec + self.wtm[0]) * SECOND + self.wtm[1]),
            "raw": (self.last, self.clock.mult, self.raw_nsec, self.raw_sec * SECOND),
        }


def fields_of(tk):
    now = image(tk)
    told = {name: getattr(now, name) for name in Image_fields if name not in ("mono", "raw")}
    for name, base in (("mono", now.tkr_mono), ("raw", now.tkr_raw)):
        told[name] = (base.cycle_last, base.mult, base.xtime_nsec, base.base_ns)
    return told


def both(name="tsc", khz=KHZ, hz=250, cycles=0, monotonic_ns=5 * SECOND + 77, realtime_ns=1_760_000_000 * SECOND + 123):
    clock = clocksource(name, tsc_khz=khz)
    tk = Timekeeper.start(clock, cycles, hz=hz, monotonic_ns=monotonic_ns, realtime_ns=realtime_ns)
    return tk, Kernel(clock, cycles, hz, monotonic_ns, realtime_ns)


Image_fields = tuple(both()[1].fields())

NS = st.integers(-(10**12), 10**12)
EVENTS = st.lists(
    st.tuples(st.just("pass"), st.integers(0, 900), st.integers(0, 65535))
    | st.tuples(st.just("late"), st.integers(0, 9), st.integers(0, 65535))
    | st.tuples(st.just("freq"), st.integers(-500 << 16, 500 << 16))
    | st.tuples(st.just("pll"), st.integers(-(10**9), 10**9), st.integers(0, 10))
    | st.tuples(st.just("adjtime"), st.integers(-3_000, 3_000))
    | st.tuples(st.just("tick"), st.integers(9_000, 11_000))
    | st.tuples(st.just("status"), st.sampled_from([0, STA_PLL, STA_PLL | STA_INS, STA_INS, STA_PLL | 0x20]))
    | st.tuples(st.just("setoffset"), NS)
    | st.tuples(st.just("settime"), NS)
    | st.tuples(st.just("tai"), st.integers(0, 50))
    | st.tuples(st.just("sleep"), st.integers(0, 10**13))
    | st.tuples(st.just("inject"), st.integers(0, 10**13))
    | st.tuples(st.just("source"), st.sampled_from(["tsc", "hpet", "kvm-clock", "hyperv"])),
    max_size=10,
)


def play(tk, kernel, events, cycles, khz):
    for event in events:
        what, *rest = event
        if what in ("pass", "late"):
            cycles += rest[0] * tk.cycle_interval + (rest[1] * tk.cycle_interval >> 16)
            if what == "pass":
                tk.tick_until(cycles)
                kernel.tick_until(cycles)
            else:
                tk.advance(cycles)
                kernel.advance(cycles)
        elif what in ("freq", "pll", "adjtime", "tick", "status", "setoffset", "tai"):
            asked = {
                "freq": lambda x: Timex(modes=ADJ_FREQUENCY, freq=x),
                "pll": lambda x, c: Timex(
                    modes=ADJ_OFFSET | ADJ_STATUS | ADJ_TIMECONST | ADJ_NANO, offset=x, constant=c, status=STA_PLL
                ),
                "adjtime": lambda x: Timex(modes=ADJ_OFFSET_SINGLESHOT, offset=x),
                "tick": lambda x: Timex(modes=ADJ_TICK, tick=x),
                "status": lambda x: Timex(modes=ADJ_STATUS, status=x),
                "setoffset": lambda x: Timex(modes=ADJ_SETOFFSET | ADJ_NANO, time_ns=x),
                "tai": lambda x: Timex(modes=ADJ_TAI, constant=x),
            }[what](*rest)
            tk.adjtimex(cycles, asked)
            kernel.adjtimex(cycles, asked)
        elif what == "settime":
            tk.settimeofday(cycles, 1_760_000_000 * SECOND + rest[0])
            kernel.settimeofday(cycles, 1_760_000_000 * SECOND + rest[0])
        elif what == "sleep":
            tk.suspend(cycles, 0)
            kernel.forward_now(cycles)
            tk.resume(cycles + 5, 0, rest[0])
            if rest[0]:
                kernel.sleeptime(rest[0])
            kernel.last, kernel.error = cycles + 5, 0
            cycles += 5
        elif what == "inject":
            tk.inject_sleeptime64(cycles, rest[0])
            kernel.forward_now(cycles)
            kernel.sleeptime(rest[0])
            kernel.clear()
        else:
            new = clocksource(rest[0], tsc_khz=khz)
            tk.change_clocksource(new, cycles, cycles + 12345)
            kernel.source(new, cycles, cycles + 12345)
            cycles += 12345
        yield event, cycles


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from([1_000_000, 2_596_122, 3_400_001]),
    st.sampled_from([100, 250, 300, 1000]),
    st.integers(0, 2**62),
    st.sampled_from([1_760_000_000 * SECOND + 123, 1_760_054_399 * SECOND - 10**8]),
    EVENTS,
)
def test_every_field_is_the_kernels_after_every_event(khz, hz, start, realtime_ns, events):
    """The second start is 1.1 s before a UTC midnight, where leap seconds are."""
    with watching(WidthObserver()):
        tk, kernel = both("tsc", khz, hz, start, realtime_ns=realtime_ns)
        readout = Readout.of(tk)
        for event, cycles in play(tk, kernel, events, start, khz):
            assert fields_of(tk) == kernel.fields(), event
            assert vars_of(tk.ntp) == vars_of(kernel.ntp), event
            assert broken(image(tk)) == ()
            publish(readout, tk)
            assert readout.at_rest
            for later in (0, 1, 10**7):
                same_everywhere(tk, readout, cycles + later)


def vars_of(state):
    return {name: getattr(state, name) for name in state.fields}


def same_everywhere(tk, readout, cycles):
    """Kernel's getters, the vDSO and the latches show one time."""
    assert readout.mono.base_ns + cycles_to_ns(readout.mono, cycles) == tk.monotonic_ns(cycles)
    assert readout.raw.base_ns + cycles_to_ns(readout.raw, cycles) == tk.raw_ns(cycles)
    for seq in (0, 1):
        fast = readout.fast_mono.base(seq)
        assert fast.base_ns + cycles_to_ns(fast, cycles) == tk.monotonic_ns(cycles)
        assert fast.base_real_ns + cycles_to_ns(fast, cycles) == tk.realtime_ns(cycles)
    for clock in CLOCKS if tk.clock.vclock_mode else ():
        data = readout.vdso_raw if clock == "monotonic_raw" else readout.vdso
        time = data.basetime[clock]
        assert time.sec * SECOND + vdso_calc_ns(data, cycles, time.nsec) == tk.read_ns(clock, cycles)
        assert 0 <= time.nsec < SECOND << data.shift


def test_a_field_that_is_wrong_is_seen():
    """The control of the test above: settimeofday() that keeps the fraction of a nanosecond."""
    tk, kernel = both()
    tk.tick_until(10**9)
    kernel.tick_until(10**9)
    assert fields_of(tk) == kernel.fields()
    tk.inject_offset(10**9 + 12, 55)
    kernel.settimeofday(10**9 + 12, tk.realtime_ns(10**9 + 12))
    wrong = {k for k, v in fields_of(tk).items() if v != kernel.fields()[k]}
    assert wrong == {"mono"}


@pytest.mark.parametrize(
    ("identity", "changes"),
    [
        ("E1", {"offs_real_ns": 5, "offs_tai_ns": 5}),
        ("E2", {"tai_offset": 37}),
        ("E3", {"offs_boot_ns": 1}),
        ("E4", {"xtime_sec": 1}),
        ("E5", {"raw_sec": 1}),
        ("E6", {"tkr_raw.cycle_last": 1}),
        ("E7", {"tkr_mono.xtime_nsec": SECOND << 24}),
        ("E8", {"xtime_interval": 1}),
    ],
)
def test_a_broken_image_is_told_by_the_identity_it_breaks(identity, changes):
    now = image(both()[0])
    for name, by in changes.items():
        base, _, field = name.rpartition(".")
        if base:
            part = getattr(now, base)
            now = replace(now, **{base: replace(part, **{field: getattr(part, field) + by})})
        else:
            now = replace(now, **{name: getattr(now, name) + by})
    assert identity in broken(now)
    # A REALTIME that moves alone also breaks what is made of it (base_real).
    assert set(broken(now)) <= {identity, "E5"}


# ---- the tick's own copy


def test_what_is_changed_in_the_ticks_copy_alone_shows_with_the_next_tick():
    """As v2 of the 2021 series did it: invisible until a tick, and lost if anything else is written before."""
    tk, _ = both()
    tk.parted().add_sleeptime(600 * SECOND)
    assert tk.offs_boot_ns == 0
    tk.tick_until(tk.cycle_interval - 1)
    assert tk.offs_boot_ns == 0
    tk.tick_until(tk.cycle_interval)
    assert tk.offs_boot_ns == 600 * SECOND

    tk, _ = both()
    tk.parted().add_sleeptime(600 * SECOND)
    tk.adjtimex(5, Timex(modes=ADJ_TAI, constant=37))  # an update with TK_MIRROR
    tk.tick_until(10 * tk.cycle_interval)
    assert tk.offs_boot_ns == 0


def test_what_is_changed_in_the_real_one_without_mirror_is_lost_with_the_next_tick():
    for action, kept in ((TK_CLOCK_WAS_SET, 0), (TK_CLOCK_WAS_SET | TK_MIRROR, 600 * SECOND)):
        tk, _ = both()
        tk.parted()
        tk.add_sleeptime(600 * SECOND)
        tk.timekeeping_update(action)
        assert tk.offs_boot_ns == 600 * SECOND
        tk.advance(tk.cycle_interval)
        assert tk.offs_boot_ns == kept


# ---- which clock absorbs what (D4)


def moved(tk, cycles, do, new_cycles=None):
    """What each clock gains by `do`."""
    before = {clock: tk.read_ns(clock, cycles) for clock in CLOCKS}
    do()
    after = cycles if new_cycles is None else new_cycles
    return {c: tk.read_ns(c, after) - before[c] for c in CLOCKS if tk.read_ns(c, after) != before[c]}


def test_which_clock_absorbs_which_event():
    cycles = 10**9 + 17
    wall = {"realtime", "tai"}

    def fresh():
        tk, _ = both()
        tk.tick_until(cycles)
        tk.adjtimex(cycles, Timex(modes=ADJ_FREQUENCY | ADJ_STATUS, freq=100 << 16, status=STA_PLL))
        return tk, tk.clock_was_set_seq

    for do, clocks, was_set, cleared in (
        (lambda tk: tk.settimeofday(cycles, tk.realtime_ns(cycles) + SECOND), wall, 1, True),
        (lambda tk: tk.inject_offset(cycles, SECOND), wall, 1, True),
        (lambda tk: tk.inject_sleeptime64(cycles, SECOND), {*wall, "boottime"}, 1, True),
        (lambda tk: (tk.suspend(cycles, 0), tk.resume(cycles, 0, SECOND)), {*wall, "boottime"}, 1, False),
        (lambda tk: tk.adjtimex(cycles, Timex(modes=ADJ_TAI, constant=1)), {"tai"}, 1, False),
        (lambda tk: tk.forward_now(cycles), set(), 0, False),
        (lambda tk: tk.advance(cycles), set(), 0, False),
        (lambda tk: tk.inject_sleeptime64(cycles, -SECOND), set(), 1, True),
        (lambda tk: tk.inject_offset(cycles, -(10**19)), set(), 1, True),
    ):
        tk, seq = fresh()
        freq = tk.ntp.time_freq
        gained = moved(tk, cycles, lambda tk=tk, do=do: do(tk))
        assert gained == dict.fromkeys(clocks, SECOND) or (not clocks and not gained)
        assert tk.clock_was_set_seq - seq == was_set
        assert (tk.ntp.time_status & STA_UNSYNC != 0) == cleared
        assert tk.ntp.time_freq == freq, "the frequency is kept"


# ---- NTP


def run_seconds(tk, seconds, start=0):
    """(MONOTONIC - RAW) at each full second of RAW, ns."""
    told = []
    for i in range(1, seconds + 1):
        cycles = start + i * KHZ * 1000
        tk.tick_until(cycles)
        told.append(tk.monotonic_ns(cycles) - tk.raw_ns(cycles))
    return told


def gained_per_second(tk, seconds):
    """What MONOTONIC gains on RAW in each REALTIME second, from one tick that begins a second to the next such one."""
    told, before = [], 0
    while len(told) < seconds:
        second = tk.xtime_sec
        while tk.xtime_sec == second:
            tk.advance(tk.cycle_last + tk.cycle_interval)
        gained = tk.monotonic_ns(tk.cycle_last) - tk.raw_ns(tk.cycle_last)
        told.append(gained - before)
        before = gained
    return told


@pytest.mark.parametrize("constant", [0, 3, 10])
def test_a_phase_is_slewed_by_a_fixed_part_of_what_is_left_each_second(constant):
    """offset >> (2 + time_constant) per second: with constant 0 a quarter, so 12.5 % at the limit of 0.5 s.

    The rate is of the counter's second, of which one of MONOTONIC's is only 1 / (1 + rate): a large phase is not
    wholly slewed. And a rate holds for whole ticks, 1/250 of a second more or less.
    """
    tk, _ = both(realtime_ns=1_760_000_000 * SECOND)
    offset, modes = 500_000_000, ADJ_OFFSET | ADJ_STATUS | ADJ_TIMECONST | ADJ_NANO
    hold = STA_PLL | 0x80  # STA_FREQHOLD: phase alone
    tk.adjtimex(0, Timex(modes=modes, offset=offset, constant=constant, status=hold))
    assert tk.ntp.time_freq == 0
    first, *slewed = gained_per_second(tk, 12)
    assert first == 0
    left = offset
    for got in slewed:
        rate = (left >> 2 + constant) / SECOND
        assert got == pytest.approx(rate / (1 + rate) * SECOND, rel=0.009)
        left -= left >> 2 + constant
    assert tk.ntp.time_offset * 250 >> 32 == pytest.approx(left - (left >> 2 + constant), abs=50)


def test_adjtime_slews_500_us_per_second_and_stops_to_the_microsecond():
    tk, _ = both(realtime_ns=1_760_000_000 * SECOND)
    tk.adjtimex(0, Timex(modes=ADJ_OFFSET_SINGLESHOT, offset=1_750))
    slewed = run_seconds(tk, 8)
    assert slewed[0] == 0
    assert slewed[1] == pytest.approx(500_000, abs=300)
    assert slewed[3] == pytest.approx(1_500_000, abs=900)
    assert slewed[-1] == pytest.approx(1_750_000, abs=5)
    assert slewed[-1] == slewed[-2]
    assert tk.ntp.settled


def test_adjtime_back_and_the_read_only_question():
    tk, _ = both(realtime_ns=1_760_000_000 * SECOND)
    tk.adjtimex(0, Timex(modes=ADJ_OFFSET_SINGLESHOT, offset=-700))
    assert tk.adjtimex(0, Timex(modes=0xA001)).offset == -700
    # Two seconds of slewing, each a tick longer: a slower clock's second ends within a tick.
    assert run_seconds(tk, 5)[-1] == -702_000
    assert tk.adjtimex(0, Timex(modes=0xA001)).offset == 0


def test_a_tick_length_is_a_rate_of_100_ppm_per_microsecond():
    tk, _ = both()
    tk.adjtimex(0, Timex(modes=ADJ_TICK, tick=10_001))
    assert run_seconds(tk, 10)[-1] == pytest.approx(10 * 100_000, abs=60)
    assert tk.adjtimex(0, Timex(modes=ADJ_TICK, tick=8_999)).result == -EINVAL
    assert tk.adjtimex(0, Timex(modes=ADJ_TICK, tick=11_001)).result == -EINVAL


def test_an_error_that_nobody_corrects_grows_500_us_per_second_until_nothing_is_in_sync():
    tk, _ = both(realtime_ns=1_760_000_000 * SECOND)
    tk.adjtimex(0, Timex(modes=ADJ_STATUS | 4, status=STA_PLL, maxerror=1000))
    tk.tick_until(100 * KHZ * 1000 + 10**6)
    answer = tk.adjtimex(100 * KHZ * 1000 + 10**6, Timex())
    assert (answer.result, answer.maxerror, answer.status) == (TIME_OK, 1000 + 100 * 500, STA_PLL)
    tk.tick_until(33_000 * KHZ * 1000)
    answer = tk.adjtimex(33_000 * KHZ * 1000, Timex())
    assert (answer.result, answer.maxerror, answer.status) == (TIME_ERROR, 16_000_000, STA_PLL | STA_UNSYNC)


def test_ntp_is_cleared_but_for_its_frequency():
    tk, _ = both()
    tk.adjtimex(
        0, Timex(modes=ADJ_OFFSET | ADJ_STATUS | ADJ_FREQUENCY | ADJ_NANO, offset=10**8, freq=7 << 16, status=STA_PLL)
    )
    tk.adjtimex(0, Timex(modes=ADJ_OFFSET_SINGLESHOT, offset=5))
    freq, tick = tk.ntp.time_freq, tk.ntp.tick_length_base
    tk.inject_sleeptime64(10, 5 * SECOND)
    ntp = tk.ntp
    assert (ntp.time_freq, ntp.tick_length, ntp.tick_length_base) == (freq, tick, tick)
    assert (ntp.time_offset, ntp.time_adjust_us, ntp.time_maxerror_us) == (0, 0, 16_000_000)
    assert ntp.time_status == STA_PLL | STA_NANO | STA_UNSYNC


def test_what_adjtimex_answers():
    tk, _ = both()
    answer = tk.adjtimex(0, Timex(modes=ADJ_FREQUENCY | ADJ_TAI, freq=-(123 << 16) - 5, constant=37))
    assert (answer.freq, answer.tai, answer.tick, answer.constant) == (-(123 << 16) - 5, 37, 10_000, 2)
    assert answer.time_ns == tk.realtime_ns(0)
    assert tk.adjtimex(0, Timex(modes=ADJ_FREQUENCY, freq=600 << 16)).freq == 500 << 16


def test_a_leap_second_is_inserted_at_midnight():
    midnight = 1_760_054_400 - 1_760_054_400 % 86_400
    tk, _ = both(realtime_ns=(midnight - 2) * SECOND, monotonic_ns=100 * SECOND)
    tk.adjtimex(0, Timex(modes=ADJ_STATUS | ADJ_TAI | 4, status=STA_PLL | STA_INS, constant=37, maxerror=0))
    states, seen = [], []
    for half in range(1, 12):
        cycles = half * KHZ * 500 + 999_999
        tk.tick_until(cycles)
        answer = tk.adjtimex(cycles, Timex())
        states.append(answer.result)
        seen.append((tk.realtime_ns(cycles) // (SECOND // 2) - midnight * 2, tk.tai_offset))
    assert seen[:8] == [(-3, 37), (-2, 37), (-1, 37), (-2, 38), (-1, 38), (0, 38), (1, 38), (2, 38)]
    assert states[:8] == [TIME_OK, TIME_INS, TIME_INS, TIME_OOP, TIME_OOP, TIME_WAIT, TIME_WAIT, TIME_WAIT]
    assert image(tk).next_leap_ns is None
    assert tk.monotonic_ns(cycles) == pytest.approx(105.5 * SECOND, abs=10**6)


def test_a_second_that_an_adjustment_takes_back_is_told_to_ntp_once():
    """A faster multiplier in the middle of a tick takes xtime back by what the rest of the tick gains: 1 us here."""
    tk, kernel = both(realtime_ns=1_760_000_000 * SECOND + 400)
    half = tk.cycle_interval // 2
    freq = Timex(modes=ADJ_FREQUENCY | ADJ_STATUS | 4, freq=500 << 16, status=STA_PLL, maxerror=0)
    for one in (tk, kernel):
        one.adjtimex(half, freq)
    assert image(tk).skip_second_overflow
    assert tk.xtime_sec == 1_759_999_999
    assert tk.realtime_ns(half) > 1_760_000_000 * SECOND
    tk.tick_until(10 * KHZ * 1000)
    kernel.tick_until(10 * KHZ * 1000)
    assert fields_of(tk) == kernel.fields()
    assert tk.xtime_sec == 1_760_000_010
    assert tk.ntp.time_maxerror_us == 10 * 500


# ---- kernels before 6.10


def test_before_6_10_a_leap_beyond_the_horizon_wraps():
    for wraps in (False, True):
        tk, _ = both()
        tk.wraps = wraps
        readout = Readout.of(tk)
        far = 2_000 * KHZ * 1000
        values = {tk.monotonic_ns(far) - tk.monotonic_ns(0), vdso_ns(readout, far) - vdso_ns(readout, 0)}
        assert len(values) == 1
        assert (values.pop() > 1_990 * SECOND) == (not wraps)


def vdso_ns(readout, cycles, calc=vdso_calc_ns):
    time = readout.vdso.basetime["monotonic"]
    return time.sec * SECOND + calc(readout.vdso, cycles, time.nsec)


def test_what_vdso_and_kernel_make_of_a_counter_that_is_behind():
    tk, _ = both(cycles=10**12)
    readout = Readout.of(tk)
    now = tk.monotonic_ns(10**12)
    assert tk.monotonic_ns(10**12 - 1) == vdso_ns(readout, 10**12 - 1) == now
    # From 2^62 on the vDSO calls a counter behind which the kernel's readers believe.
    ahead = 10**12 + 2**62
    assert vdso_ns(readout, ahead) == now
    assert tk.monotonic_ns(ahead) > now + 10**18


def test_arm64s_vdso_has_no_clamp_at_all():
    clock = arch_sys_counter(62_500_000)
    tk = Timekeeper.start(clock, 10**12, hz=250, monotonic_ns=SECOND, realtime_ns=10**18)
    readout = Readout.of(tk)
    assert vdso_ns(readout, 10**12 + 10**6, vdso_calc_ns_generic) == tk.monotonic_ns(10**12 + 10**6)
    now = tk.monotonic_ns(10**12)
    assert tk.monotonic_ns(10**12 - 1) == now
    assert abs(vdso_ns(readout, 10**12 - 1, vdso_calc_ns_generic) - now) > 10**9


# ---- stores


def test_stores_end_in_what_publish_does_and_the_latches_always_show_a_whole_base():
    tk, _ = both()
    stepwise, whole = Readout.of(tk), Readout.of(tk)
    tk.inject_sleeptime64(10**9, 600 * SECOND)
    bases = {shown(stepwise.fast_mono)}
    for _, store in stores(stepwise, tk):
        store()
        bases.add(shown(stepwise.fast_mono))
    publish(whole, tk)
    assert everything(stepwise) == everything(whole)
    assert len(bases) == 2, "old and new, and nothing between"
    assert stepwise.at_rest


def test_a_latch_is_never_written_where_it_is_read():
    tk, _ = both()
    readout = Readout.of(tk)
    tk.inject_sleeptime64(10**9, 600 * SECOND)
    copied = 0
    for label, store in stores(readout, tk):
        if label.endswith(("base[0]", "base[1]")) and "readers" not in label:
            latch = readout.fast_mono if "mono" in label else readout.fast_raw
            before = shown(latch)
            store()
            assert shown(latch) == before, label
            copied += 1
        else:
            store()
    assert copied == 4


def test_no_sequence_is_even_while_its_data_are_being_written():
    tk, _ = both()
    readout = Readout.of(tk)
    tk.inject_sleeptime64(10**9, 600 * SECOND)
    before, after = None, None
    for label, store in stores(readout, tk):
        data = {n: v for n, v in everything(readout).items() if not n.endswith("seq")}
        store()
        changed = {n for n, v in everything(readout).items() if not n.endswith("seq") and v != data[n]}
        if any("vdso" in name for name in changed):
            assert readout.vdso.seq & 1, label
        if any("vdso" not in name and "fast" not in name for name in changed):
            assert readout.seq & 1, label
        before, after = before or label, label
    assert (before, after) == ("seq odd", "seq even")


def shown(latch):
    return tuple(vars_of(latch.base(latch.seq)).items())


def everything(readout):
    told = {}
    for name, value in vars_of(readout).items():
        if hasattr(value, "fields"):
            told |= {f"{name}.{n}": v for n, v in everything(value).items()}
        elif hasattr(value, "items"):
            told |= {f"{name}.{k}.{n}": v for k, t in value.items() for n, v in vars_of(t).items()}
        else:
            told[name] = value
    return told


def test_a_suspended_timekeeper_halts_the_latches():
    tk, _ = both()
    readout = Readout.of(tk)
    tk.tick_until(10**9)
    tk.suspend(10**9, 0)
    for _, store in stores(readout, tk, halt_cycles=10**9 + 30):
        store()
    base = readout.fast_mono.base(readout.fast_mono.seq)
    assert base.halted
    frozen = base.base_ns + cycles_to_ns(base, readout.cycles_at_suspend)
    assert frozen == tk.monotonic_ns(10**9 + 30)
    tk.resume(10**9 + 99, 0, 5)
    publish(readout, tk)
    assert not readout.fast_mono.base(readout.fast_mono.seq).halted
