"""NTP as the kernel keeps it: how long one tick should be, and what adjtimex() clients make of that.

Not here: PPS (no Debian kernel has it: CONFIG_NTP_PPS goes with a tick that is never stopped).
"""

from __future__ import annotations

from dataclasses import dataclass

from guestclock.arith import S64_MAX, div_s64
from guestclock.sim.field import integer, s64, u32, u64
from guestclock.sim.state import State

NTP_SCALE_SHIFT = 32
MAX_FREQ_PPB = 500_000
MAXPHASE_NS = 500_000_000
NTP_PHASE_LIMIT_US = 16_000_000
MAX_TAI_OFFSET = 100_000
EINVAL = 22

ADJ_OFFSET, ADJ_FREQUENCY, ADJ_MAXERROR, ADJ_ESTERROR = 0x0001, 0x0002, 0x0004, 0x0008
ADJ_STATUS, ADJ_TIMECONST, ADJ_TAI, ADJ_SETOFFSET = 0x0010, 0x0020, 0x0080, 0x0100
ADJ_MICRO, ADJ_NANO, ADJ_TICK = 0x1000, 0x2000, 0x4000
ADJ_OFFSET_SINGLESHOT, ADJ_OFFSET_SS_READ = 0x8001, 0xA001
_ADJ_ADJTIME, _ADJ_OFFSET_READONLY = 0x8000, 0x2000

STA_PLL, STA_FLL, STA_INS, STA_DEL, STA_UNSYNC, STA_FREQHOLD = 0x0001, 0x0008, 0x0010, 0x0020, 0x0040, 0x0080
STA_CLOCKERR, STA_NANO, STA_MODE = 0x1000, 0x2000, 0x4000
STA_RONLY = 0xFF00

TIME_OK, TIME_INS, TIME_DEL, TIME_OOP, TIME_WAIT, TIME_ERROR = range(6)

_NSEC_PER_SEC = 1_000_000_000
_USER_HZ = 100
_SHIFT_PLL = _SHIFT_FLL = 2
_MAXTC = 10
_MINSEC, _MAXSEC = 256, 2048  # between updates, where the kernel goes over from PLL to FLL
_MAX_TICKADJ_US = 500
_SECS_PER_DAY = 86_400
_PPM_SCALE = 1000 << NTP_SCALE_SHIFT - 16
_PPM_SCALE_INV_SHIFT = 19
_PPM_SCALE_INV = (1 << _PPM_SCALE_INV_SHIFT + NTP_SCALE_SHIFT) // _PPM_SCALE + 1
_MAXFREQ_SCALED = MAX_FREQ_PPB << NTP_SCALE_SHIFT
NO_LEAP = S64_MAX


@dataclass(frozen=True, kw_only=True, slots=True)
class Timex:
    """What is asked of adjtimex(): struct timex, the fields that `modes` names.

    offset: ns with STA_NANO set, else us; for ADJ_OFFSET_SINGLESHOT always us. freq: 2^-16 ppm. maxerror, esterror: us.
    constant: PLL time constant, or for ADJ_TAI the offset, s. tick: us per 1/100 s. time_ns: for ADJ_SETOFFSET, signed
    (struct timex holds whole us of it without ADJ_NANO).
    """

    modes: int = 0
    offset: int = 0
    freq: int = 0
    maxerror: int = 0
    esterror: int = 0
    status: int = 0
    constant: int = 0
    tick: int = 10_000
    time_ns: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TimexAnswer:
    """What adjtimex() answers. result: TIME_*, or a negative errno, when nothing else here means anything."""

    result: int
    offset: int = 0
    freq: int = 0
    maxerror: int = 0
    esterror: int = 0
    status: int = 0
    constant: int = 0
    tick: int = 0
    tai: int = 0
    time_ns: int = 0


class Ntp(State):
    """What kernel/time/ntp.c remembers, v6.12 (file-scope variables there, struct ntp_data since 6.14)."""

    hz = integer("CONFIG_HZ: NTP_INTERVAL_FREQ")
    tick_usec = integer("length of 1/100 s by ADJ_TICK, us", 10_000)
    tick_length_base = u64("length of one tick at that frequency, ns << 32")
    tick_length = u64("length of one tick in this second, ns << 32: with phase slew and adjtime()")
    time_freq = s64("frequency correction, ns per second << 32")
    time_offset = s64("phase still to be slewed by the PLL, ns per tick << 32")
    time_constant = integer("PLL time constant, 0 to 10", 2)
    time_adjust_us = s64("what adjtime() has still to slew, us")
    time_status = u32("STA_*", STA_UNSYNC)
    time_state = integer("TIME_*: where a leap second stands", TIME_OK)
    time_maxerror_us = integer("maximum error, us", NTP_PHASE_LIMIT_US)
    time_esterror_us = integer("estimated error, us", NTP_PHASE_LIMIT_US)
    time_reftime_s = s64("REALTIME second of the latest ADJ_OFFSET")
    next_leap_s = s64("REALTIME second at which a leap second is due", NO_LEAP)

    @classmethod
    def start(cls, hz: int) -> Ntp:
        """NTP as it is at boot: no frequency, unsynchronised."""
        length = tick_length(0, hz)
        return cls(hz=hz, tick_length_base=length, tick_length=length)

    # ---- seconds

    @property
    def settled(self) -> bool:
        """Whether a second that passes changes nothing but time_maxerror_us: no slew, no leap second to come."""
        leaps = self.time_status & (STA_INS | STA_DEL)
        return (
            self.tick_length == self.tick_length_base
            and self.time_adjust_us == 0
            and self._offset_chunk() == 0
            and (self.time_state == TIME_WAIT if leaps else self.time_state == TIME_OK)
        )

    def seconds_pass(self, seconds: int) -> None:
        """So many calls of second_overflow() where NTP is settled."""
        assert self.settled, "seconds of a slew or near a leap second are taken one by one"
        self._bump_maxerror(seconds)

    def second_overflow(self, secs: int) -> int:
        """A REALTIME second has begun: the next second's tick length. Answers the leap: -1, 0 or 1 s to add.

        secs: the second, s since 1970.
        """
        leap = self._leap(secs)
        self._bump_maxerror(1)
        chunk = self._offset_chunk()
        self.time_offset -= chunk
        length = self.tick_length_base + chunk
        adjust = self.time_adjust_us
        if adjust > _MAX_TICKADJ_US:
            self.time_adjust_us = adjust - _MAX_TICKADJ_US
            length += self._max_tickadj
        elif adjust < -_MAX_TICKADJ_US:
            self.time_adjust_us = adjust + _MAX_TICKADJ_US
            length -= self._max_tickadj
        elif adjust != 0:
            length += div_s64(adjust * 1000, self.hz) << NTP_SCALE_SHIFT
            self.time_adjust_us = 0
        self.tick_length = length
        return leap

    def _leap(self, secs: int) -> int:
        """The leap second's states: announced at any second of the day, done at its end."""
        inserts, deletes = self.time_status & STA_INS, self.time_status & STA_DEL
        if self.time_state == TIME_OK and inserts:
            self.time_state = TIME_INS
            self.next_leap_s = secs // _SECS_PER_DAY * _SECS_PER_DAY + _SECS_PER_DAY
        elif self.time_state == TIME_OK and deletes:
            self.time_state = TIME_DEL
            self.next_leap_s = (secs + 1) // _SECS_PER_DAY * _SECS_PER_DAY + _SECS_PER_DAY - 1
        elif self.time_state in (TIME_INS, TIME_DEL):
            inserting = self.time_state == TIME_INS
            if not (inserts if inserting else deletes):
                self.time_state = TIME_OK
                self.next_leap_s = NO_LEAP
            elif secs == self.next_leap_s:
                self.time_state = TIME_OOP if inserting else TIME_WAIT
                if not inserting:
                    self.next_leap_s = NO_LEAP
                return -1 if inserting else 1
        elif self.time_state == TIME_OOP:
            self.time_state = TIME_WAIT
            self.next_leap_s = NO_LEAP
        elif self.time_state == TIME_WAIT and not inserts and not deletes:
            self.time_state = TIME_OK
        return 0

    def _bump_maxerror(self, seconds: int) -> None:
        error = self.time_maxerror_us + seconds * (MAX_FREQ_PPB // 1000)
        if error > NTP_PHASE_LIMIT_US:
            error = NTP_PHASE_LIMIT_US
            self.time_status |= STA_UNSYNC
        self.time_maxerror_us = error

    def _offset_chunk(self) -> int:
        """What the PLL slews of time_offset in one second: a fixed part of what is left."""
        return shift_right(self.time_offset, _SHIFT_PLL + self.time_constant)

    @property
    def _max_tickadj(self) -> int:
        return (_MAX_TICKADJ_US * 1000 << NTP_SCALE_SHIFT) // self.hz

    # ---- what clients ask

    def ntp_clear(self) -> None:
        """Every correction under way is dropped, the frequency is kept, and nothing counts as in sync."""
        self.time_adjust_us = 0
        self.time_status |= STA_UNSYNC
        self.time_maxerror_us = self.time_esterror_us = NTP_PHASE_LIMIT_US
        self._update_frequency()
        self.tick_length = self.tick_length_base
        self.time_offset = 0
        self.next_leap_s = NO_LEAP

    def next_leap_ns(self) -> int | None:
        """ntp_get_next_leap(): REALTIME at which a second will be inserted, ns; None: no such second is pending."""
        if self.time_state == TIME_INS and self.time_status & STA_INS:
            return self.next_leap_s * _NSEC_PER_SEC
        return None

    def adjtimex(self, asked: Timex, realtime_ns: int, realtime_s: int, tai_offset: int) -> tuple[TimexAnswer, int]:
        """__do_adjtimex() of a request that is valid. Answers it, and what the TAI offset becomes.

        realtime_ns: now. realtime_s: __ktime_get_real_seconds(), the second of the latest tick. tai_offset: s.
        """
        offset = self.time_adjust_us
        tai = tai_offset
        if asked.modes & _ADJ_ADJTIME:
            if not asked.modes & _ADJ_OFFSET_READONLY:
                self.time_adjust_us = asked.offset
                self._update_frequency()
        else:
            tai = self._process(asked, realtime_s, tai_offset)
            offset = shift_right(self.time_offset * self.hz, NTP_SCALE_SHIFT)
            if not self.time_status & STA_NANO:
                offset = div_s64(offset, 1000)
        return self._answer(offset, tai, realtime_ns), tai

    def _answer(self, offset: int, tai: int, realtime_ns: int) -> TimexAnswer:
        result = TIME_ERROR if self.time_status & (STA_UNSYNC | STA_CLOCKERR) else self.time_state
        shown_tai, leap_s = tai, 0
        second = realtime_ns // _NSEC_PER_SEC
        if second >= self.next_leap_s:  # the tick that will do it is late
            if self.time_state == TIME_INS and self.time_status & STA_INS:
                result, shown_tai, leap_s = TIME_OOP, tai + 1, -1
            elif self.time_state == TIME_DEL and self.time_status & STA_DEL:
                result, shown_tai, leap_s = TIME_WAIT, tai - 1, 1
            elif self.time_state == TIME_OOP and second == self.next_leap_s:
                result = TIME_WAIT
        return TimexAnswer(
            result=result,
            offset=offset,
            freq=shift_right((self.time_freq >> _PPM_SCALE_INV_SHIFT) * _PPM_SCALE_INV, NTP_SCALE_SHIFT),
            maxerror=self.time_maxerror_us,
            esterror=self.time_esterror_us,
            status=self.time_status,
            constant=self.time_constant,
            tick=self.tick_usec,
            tai=shown_tai,
            time_ns=realtime_ns + leap_s * _NSEC_PER_SEC,
        )

    def _process(self, asked: Timex, realtime_s: int, tai_offset: int) -> int:
        """process_adjtimex_modes(), in the kernel's order; the TAI offset that is to be."""
        modes = asked.modes
        if modes & ADJ_STATUS:
            self._process_status(asked.status, realtime_s)
        if modes & ADJ_NANO:
            self.time_status |= STA_NANO
        if modes & ADJ_MICRO:
            self.time_status &= ~STA_NANO
        if modes & ADJ_FREQUENCY:
            self.time_freq = _clamped(time_freq(asked.freq), -_MAXFREQ_SCALED, _MAXFREQ_SCALED)
        if modes & ADJ_MAXERROR:
            self.time_maxerror_us = _clamped(asked.maxerror, 0, NTP_PHASE_LIMIT_US)
        if modes & ADJ_ESTERROR:
            self.time_esterror_us = _clamped(asked.esterror, 0, NTP_PHASE_LIMIT_US)
        if modes & ADJ_TIMECONST:
            constant = _clamped(asked.constant, 0, _MAXTC)
            constant += 0 if self.time_status & STA_NANO else 4
            self.time_constant = _clamped(constant, 0, _MAXTC)
        tai = asked.constant if modes & ADJ_TAI and 0 <= asked.constant <= MAX_TAI_OFFSET else tai_offset
        if modes & ADJ_OFFSET:
            self._update_offset(asked.offset, realtime_s)
        if modes & ADJ_TICK:
            self.tick_usec = asked.tick
        if modes & (ADJ_TICK | ADJ_FREQUENCY | ADJ_OFFSET):
            self._update_frequency()
        return tai

    def _process_status(self, status: int, realtime_s: int) -> None:
        if self.time_status & STA_PLL and not status & STA_PLL:
            self.time_state = TIME_OK
            self.time_status = STA_UNSYNC
            self.next_leap_s = NO_LEAP
        if not self.time_status & STA_PLL and status & STA_PLL:
            self.time_reftime_s = realtime_s
        self.time_status = self.time_status & STA_RONLY | status & ~STA_RONLY

    def _update_frequency(self) -> None:
        """The tick length follows at once; what this second slews stays on top of it."""
        base = ((self.tick_usec * 1000 * _USER_HZ << NTP_SCALE_SHIFT) + self.time_freq) // self.hz
        self.tick_length += base - self.tick_length_base
        self.tick_length_base = base

    def _update_offset(self, offset: int, realtime_s: int) -> None:
        """ADJ_OFFSET: a phase to slew, from the next second on, and what the loop makes of it as a frequency.

        Without STA_PLL nothing happens.
        """
        if not self.time_status & STA_PLL:
            return
        ns = offset if self.time_status & STA_NANO else _clamped(offset, -1_000_000, 1_000_000) * 1000
        ns = _clamped(ns, -MAXPHASE_NS, MAXPHASE_NS)
        secs = 0 if self.time_status & STA_FREQHOLD else realtime_s - self.time_reftime_s
        self.time_reftime_s = realtime_s
        adjust = self._fll(ns, secs)
        longest = 1 << _SHIFT_PLL + 1 + self.time_constant
        secs = longest if secs > longest else secs
        adjust += ns * secs << NTP_SCALE_SHIFT - 2 * (_SHIFT_PLL + 2 + self.time_constant)
        self.time_freq = _clamped(adjust + self.time_freq, -_MAXFREQ_SCALED, _MAXFREQ_SCALED)
        self.time_offset = div_s64(ns << NTP_SCALE_SHIFT, self.hz)

    def _fll(self, ns: int, secs: int) -> int:
        """The frequency-lock loop's part, for updates that come seldom."""
        self.time_status &= ~STA_MODE
        if secs < _MINSEC or (not self.time_status & STA_FLL and secs <= _MAXSEC):
            return 0
        self.time_status |= STA_MODE
        return div_s64(ns << NTP_SCALE_SHIFT - _SHIFT_FLL, secs)


def validate(asked: Timex) -> int:
    """timekeeping_validate_timex() for a privileged caller: 0, or -EINVAL."""
    modes = asked.modes
    if not modes & _ADJ_ADJTIME and modes & ADJ_TICK and not 900_000 // _USER_HZ <= asked.tick <= 1_100_000 // _USER_HZ:
        return -EINVAL
    largest = S64_MAX // _PPM_SCALE
    if modes & ADJ_FREQUENCY and not -largest <= asked.freq <= largest:
        return -EINVAL
    return 0


def adjtimex_freq(ppb: int) -> int:
    """`timex.freq` for a frequency in parts per 10^9: units of 2^-16 ppm (0.0153 ppb), rounded to nearest."""
    return (ppb * 65536 + 500) // 1000


def tick_length(freq: int, hz: int) -> int:
    """ntp_tick_length() for a `timex.freq` (signed, 2^-16 ppm): ns << 32 per tick, truncated.

    At HZ=300 a tick is 3 333 333.3 ns here and 3 333 333 ns to the clocksource: such a kernel slews all the time.
    Source: kernel/time/ntp.c ntp_update_frequency(), process_adjtimex_modes(), v6.12.
    """
    return ((_NSEC_PER_SEC << NTP_SCALE_SHIFT) + time_freq(freq)) // hz


def time_freq(freq: int) -> int:
    """The kernel's time_freq for a `timex.freq`: ns per second << 32."""
    return freq * _PPM_SCALE


def shift_right(x: int, bits: int) -> int:
    """x >> bits, rounded toward zero (the kernel's shift_right())."""
    return -(-x >> bits) if x < 0 else x >> bits


def _clamped(x: int, lo: int, hi: int) -> int:
    return lo if x < lo else hi if x > hi else x
