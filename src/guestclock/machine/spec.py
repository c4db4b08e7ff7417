"""What a machine is made of, checked before anything runs: x86's HostSpec, arm64's Arm64Spec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from operator import index

from guestclock.arith import U64_MAX
from guestclock.arith import u64 as as_u64
from guestclock.errors import UserError
from guestclock.linux.clocksource import CLOCKSOURCES, clocksource

_SCALING = {"vmx": (48, U64_MAX), "svm": (32, 2**40 - 1)}  # fraction bits, kvm_caps.max_tsc_scaling_ratio
_HZ = (100, 250, 300, 1000)
_INT_MAX = 2**31 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class HostSpec:
    """A machine and its Linux. Every field has a default that makes an ordinary server.

    tsc_khz: what the kernel calibrated, kHz; KVM knows no other rate. tsc_hz: the true rate, cycles per second, int or
    Fraction (None: tsc_khz * 1000). cpus: count. skew: cycles by which each CPU's TSC is ahead of CPU 0's, one number
    per CPU, or empty. constant_tsc: the rate does not follow cpufreq.
    clocksource: the one in use at the start; clocksources: the ones to choose from. hz: CONFIG_HZ.
    tsc_unstable: the kernel has given up on the TSC before the start.
    tsc_scaling: None, "vmx" or "svm". tsc_tolerance_ppm: kvm's parameter.
    uptime_ns: MONOTONIC, RAW and BOOTTIME at the start. tsc_at_start: cycles (None: counted since power-on, so
    uptime_ns * tsc_khz). realtime_ns: REALTIME at the start.
    rtc_grain_ns: granularity of the persistent clock that measures a sleep; 0: a sleep is measured exactly.
    rtc_ahead_ns: persistent clock - REALTIME at the start. nonstop_tsc: the TSC is a clocksource flagged as counting
    through suspend, so that a sleep is measured with it.
    """

    tsc_khz: int = 2_596_122
    tsc_hz: int | Fraction | None = None
    cpus: int = 4
    skew: Sequence[int] = ()
    constant_tsc: bool = True
    clocksource: str = "tsc"
    clocksources: Sequence[str] = ("tsc", "hpet")
    hz: int = 250
    tsc_unstable: bool = False
    tsc_scaling: str | None = None
    tsc_tolerance_ppm: int = 250
    uptime_ns: int = 1_000 * 10**9
    tsc_at_start: int | None = None
    realtime_ns: int = 1_760_000_000 * 10**9
    rtc_grain_ns: int = 10**9
    rtc_ahead_ns: int = 0
    nonstop_tsc: bool = False

    def __post_init__(self) -> None:
        _within("tsc_khz", self.tsc_khz, 1, 2**32 - 1, "kHz")
        if self.tsc_hz is not None and getattr(self.tsc_hz, "numerator", 0) <= 0:  # a float has none
            raise UserError(f"host: tsc_hz: {self.tsc_hz!r}, expected a positive int or Fraction, cycles per second")
        _within("cpus", self.cpus, 1, 8192, "CPUs")
        if self.skew and len(self.skew) != self.cpus:
            raise UserError(f"host: skew: {len(self.skew)} values, expected one per CPU ({self.cpus})")
        for name in (self.clocksource, *self.clocksources):
            clocksource(name, tsc_khz=self.tsc_khz)
        if self.clocksource == "tsc" and self.tsc_unstable:
            raise UserError("host: clocksource: 'tsc', expected another one where tsc_unstable is set")
        if all(name == "tsc" for name in self.all_clocksources):
            raise UserError("host: clocksources: nothing to fall back to, expected one besides 'tsc'")
        if self.hz not in _HZ:
            raise UserError(f"host: hz: {self.hz}, expected one of {', '.join(map(str, _HZ))}")
        if self.tsc_scaling is not None and self.tsc_scaling not in _SCALING:
            raise UserError(f"host: tsc_scaling: {self.tsc_scaling!r}, expected 'vmx', 'svm' or nothing")
        _within("tsc_tolerance_ppm", self.tsc_tolerance_ppm, 0, 1_000_000, "ppm")
        _within("uptime_ns", self.uptime_ns, 0, 2**62, "ns")
        if self.tsc_at_start is not None:
            _within("tsc_at_start", self.tsc_at_start, 0, U64_MAX, "cycles")
        _within("realtime_ns", self.realtime_ns, self.uptime_ns, 2**62, "ns, not before MONOTONIC")
        _within("rtc_grain_ns", self.rtc_grain_ns, 0, 60 * 10**9, "ns")

    @property
    def all_clocksources(self) -> tuple[str, ...]:
        """The ones to choose from, the one in use among them, by their order in CLOCKSOURCES."""
        return tuple(name for name in CLOCKSOURCES if name == self.clocksource or name in self.clocksources)

    @property
    def true_hz(self) -> Fraction:
        return Fraction(self.tsc_khz * 1000 if self.tsc_hz is None else self.tsc_hz)

    @property
    def first_tsc(self) -> int:
        """TSC at the start, cycles."""
        if self.tsc_at_start is None:
            return self.uptime_ns * self.tsc_khz // 1_000_000
        return self.tsc_at_start

    @property
    def has_tsc_control(self) -> bool:
        return self.tsc_scaling is not None

    @property
    def tsc_scaling_frac_bits(self) -> int:
        """Fraction bits of the TSC ratio: 48 (VMX), 32 (SVM), 0 without scaling."""
        return _SCALING[self.tsc_scaling][0] if self.tsc_scaling else 0

    @property
    def max_tsc_scaling_ratio(self) -> int:
        return _SCALING[self.tsc_scaling][1] if self.tsc_scaling else 0

    @property
    def max_guest_tsc_khz(self) -> int:
        """kvm_caps.max_guest_tsc_khz, kHz; 0 without scaling."""
        khz = as_u64(self.tsc_khz * self.max_tsc_scaling_ratio >> self.tsc_scaling_frac_bits)
        return khz if khz < _INT_MAX else _INT_MAX


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm64Spec:
    """An arm64 machine and its Linux. Every field has a default that makes an ordinary server.

    counter_hz: the system counter's rate as CNTFRQ_EL0 and so the kernel says it, Hz; nothing else is told. true_hz:
    the rate at which it really counts, int or Fraction (None: counter_hz). counter_at_start: ticks (None: counted since
    power-on, so uptime_ns * counter_hz). cpus: count; all of them read the one counter, which no sleep stops.
    vhe: the kernel runs at EL2 (VHE); false: at EL1, KVM's world switch at EL2 (nVHE). ecv: FEAT_ECV with CNTPOFF_EL2.
    hz: CONFIG_HZ. uptime_ns: MONOTONIC, RAW and BOOTTIME at the start. realtime_ns: REALTIME at the start.
    """

    counter_hz: int = 62_500_000
    true_hz: int | Fraction | None = None
    counter_at_start: int | None = None
    cpus: int = 4
    vhe: bool = True
    ecv: bool = False
    hz: int = 250
    uptime_ns: int = 1_000 * 10**9
    realtime_ns: int = 1_760_000_000 * 10**9

    def __post_init__(self) -> None:
        _within("counter_hz", self.counter_hz, 1_000_000, 2**32 - 1, "Hz")
        if self.true_hz is not None and getattr(self.true_hz, "numerator", 0) <= 0:  # a float has none
            raise UserError(f"host: true_hz: {self.true_hz!r}, expected a positive int or Fraction, ticks per second")
        if self.counter_at_start is not None:
            _within("counter_at_start", self.counter_at_start, 0, U64_MAX, "ticks")
        _within("cpus", self.cpus, 1, 8192, "CPUs")
        for name in ("vhe", "ecv"):
            if getattr(self, name) is not True and getattr(self, name) is not False:
                raise UserError(f"host: {name}: {getattr(self, name)!r}, expected true or false")
        if self.hz not in _HZ:
            raise UserError(f"host: hz: {self.hz}, expected one of {', '.join(map(str, _HZ))}")
        _within("uptime_ns", self.uptime_ns, 0, 2**62, "ns")
        _within("realtime_ns", self.realtime_ns, self.uptime_ns, 2**62, "ns, not before MONOTONIC")

    @property
    def rate(self) -> Fraction:
        """Ticks in a true second."""
        return Fraction(self.counter_hz if self.true_hz is None else self.true_hz)

    @property
    def first_counter(self) -> int:
        """The counter at the start, ticks."""
        if self.counter_at_start is None:
            return self.uptime_ns * self.counter_hz // 10**9
        return self.counter_at_start


def _within(name: str, value: int, lo: int, hi: int, what: str) -> None:
    try:
        fits = lo <= index(value) <= hi
    except TypeError:
        fits = False
    if not fits:
        raise UserError(f"host: {name}: {value!r}, expected {lo} to {hi} {what}")
