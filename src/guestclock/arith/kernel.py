"""Linux's and KVM's arithmetic on time, bit for bit: wrap, truncation, 96-bit and 128-bit products.

Two number systems run through this one code. On `int` it is the kernel. On any other value it uses that value's own
methods and nothing else: `wrap_u64()` and its like, `+ - * << >> //` by concrete ints, comparisons. So there is no
`%`, no `&`, no int() here outside u64() and its siblings.

A time argument out of range is converted to the parameter's C type first, as a call in C would. mul, shift, ratio,
khz and frac_bits are always concrete ints and are taken as they are.

Sources are named as of v6.12.
"""

from __future__ import annotations

from typing import Any, Protocol, Self, TypeVar

U64_MAX = 2**64 - 1
S64_MAX = 2**63 - 1
S64_MIN = -(2**63)
_U32_MAX = 2**32 - 1
_S32_SIGN = 2**31
_S64_SIGN = 2**63

_NSEC_PER_SEC = 1_000_000_000


class Time(Protocol):
    """What may be done to a value that may hold time; an int, or a form over unknown event times, is one.

    mypy refuses the rest (`%`, `&`, `/`, int(), a product of two times) wherever a value is declared as Time.
    A form also has wrap_u64(), wrap_s64(), wrap_u32() and wrap_s32(), which only u64() and its siblings call.
    """

    def __add__(self, other: Any, /) -> Self: ...
    def __radd__(self, other: Any, /) -> Self: ...
    def __sub__(self, other: Any, /) -> Self: ...
    def __rsub__(self, other: Any, /) -> Self: ...
    def __mul__(self, factor: int, /) -> Self: ...
    def __rmul__(self, factor: int, /) -> Self: ...
    def __neg__(self) -> Self: ...
    def __lshift__(self, bits: int, /) -> Self: ...
    def __rshift__(self, bits: int, /) -> Self: ...
    def __floordiv__(self, divisor: int, /) -> Self: ...
    def __lt__(self, other: Any, /) -> bool: ...
    def __le__(self, other: Any, /) -> bool: ...
    def __gt__(self, other: Any, /) -> bool: ...
    def __ge__(self, other: Any, /) -> bool: ...


T = TypeVar("T", bound=Time)


# ---------------------------------------------------------------------------------------------- words of fixed width


def u64(x: T) -> T:
    """x as a C u64: modulo 2^64, 0..2^64-1. An elapsed time of -1 ns becomes 584 years."""
    return x & U64_MAX if type(x) is int else x.wrap_u64()  # type: ignore[attr-defined, operator, return-value]


def s64(x: T) -> T:
    """x as a C s64: two's complement, -2^63..2^63-1."""
    return (x + _S64_SIGN & U64_MAX) - _S64_SIGN if type(x) is int else x.wrap_s64()  # type: ignore[attr-defined, operator, return-value]


def u32(x: T) -> T:
    """x as a C u32: modulo 2^32."""
    return x & _U32_MAX if type(x) is int else x.wrap_u32()  # type: ignore[attr-defined, operator, return-value]


def s32(x: T) -> T:
    """x as a C int: two's complement, -2^31..2^31-1."""
    return (x + _S32_SIGN & _U32_MAX) - _S32_SIGN if type(x) is int else x.wrap_s32()  # type: ignore[attr-defined, operator, return-value]


def mul_u64_u64_shr(a: T, b: int, shift: int) -> T:
    """(a * b) >> shift with a 128-bit product.

    a: u64. b: u64, concrete. shift: 0..127.
    Returns the low 64 bits, truncated: bits above are lost without a sign.
    Source: include/linux/math64.h mul_u64_u64_shr().
    """
    return u64(u64(a) * b >> shift)


def mul_s64_u64_shr(a: T, b: int, shift: int) -> T:
    """(a * b) >> shift for a signed a, truncated toward zero: -1 shifted by 1 is 0, not -1.

    a: s64. b: u64, concrete. shift: 0..127.
    Returns u64 (a negative result is a huge one; s64() reads it).
    Source: include/linux/math64.h mul_s64_u64_shr().
    """
    signed = s64(a)
    return u64(-(-signed * b >> shift)) if signed < 0 else u64(signed * b >> shift)


def mul_u64_u32_div(a: int, mul: int, divisor: int) -> int:
    """a * mul / divisor with a 128-bit product, truncated. Everything concrete: for rates, not for time.

    a: u64. mul, divisor: u32.
    Raises ValueError where x86's divq faults: divisor 0, or a quotient of 2^64 or more.
    Source: arch/x86/include/asm/div64.h mul_u64_u32_div() (64-bit).
    """
    quotient = a * mul // divisor if divisor else None
    if quotient is None or quotient > U64_MAX:
        raise ValueError(f"mul_u64_u32_div({a}, {mul}, {divisor}): divide error (#DE) on x86")
    return quotient


def div_s64(dividend: T, divisor: int) -> T:
    """Signed division as C does it, truncated toward zero: -7 / 2 is -3, where Python's // says -4.

    dividend: s64. divisor: 1..2^32-1, concrete (KVM divides by u32 kHz only).
    Source: include/linux/math64.h div_s64(); plain `/` on s64 in the matching rules of 3.4 to 4.11.
    """
    if divisor <= 0:
        raise ValueError(f"div_s64: divisor {divisor}, expected a positive one")
    signed = s64(dividend)
    return -(-signed // divisor) if signed < 0 else signed // divisor


# ------------------------------------------------------------------------------------------------------- the pvclock


def pvclock_scale_delta(delta: T, mul: int, shift: int) -> T:
    """Nanoseconds for a TSC delta, as a guest computes them from its pvclock page.

    delta: guest TSC cycles, u64 (a negative delta is a huge one: one cycle back reads as 225 years).
    mul, shift: `tsc_to_system_mul` (u32) and `tsc_shift` (-31..31) of the page.
    Returns ns, u64, truncated. With shift -1 readings advance every second cycle. The left shift drops high bits
    (at shift 2 from 2^62 on); the product of a u64 and a u32, shifted by 32, always fits.
    Source: arch/x86/include/asm/pvclock.h pvclock_scale_delta().
    """
    shifted = u64(delta << shift) if shift >= 0 else u64(delta) >> -shift
    return shifted * mul >> 32


def nsec_to_cycles(ns: T, mul: int, shift: int) -> T:
    """Guest cycles for nanoseconds, by the same formula the other way.

    ns: u64 (-1 ns is about 2^64 * mul / 2^32 cycles: the negative catchup delta).
    mul, shift: `virtual_tsc_mult`, `virtual_tsc_shift` of the vCPU, from kvm_get_time_scale(khz * 1000, 10^9).
    Returns cycles, u64, truncated. At 2..4 GHz (shift 2) nothing is left of deltas of 2^62 ns = 146 years.
    Source: arch/x86/kvm/x86.c nsec_to_cycles().
    """
    return pvclock_scale_delta(ns, mul, shift)


def kvm_get_time_scale(scaled_hz: int, base_hz: int) -> tuple[int, int]:
    """(shift, mul) that turn a count at base_hz into one at scaled_hz through pvclock_scale_delta().

    scaled_hz, base_hz: u64, concrete. For a page (10^9, khz * 1000), for virtual_tsc_* the other way round.
    Returns shift (s8) and mul (u32 from 2^31 on). mul is truncated, so what it scales runs slow by less than 2^-31
    (0.000289 ppm at 2 596 122 kHz); but a rate that needs more than 32 bits loses its low bits first, either way.
    Raises ValueError for base_hz 0 and for scaled_hz 0 or 2^63: in the kernel these loops never end (the vCPU thread
    is stuck in KVM_RUN, unkillable; base 0 was reachable by KVM_SET_TSC_KHZ(1) until 6.16, 4578a747f3c7).
    Source: arch/x86/kvm/x86.c kvm_get_time_scale().
    """
    base, scaled = u64(base_hz), u64(scaled_hz)
    if base == 0 or u64(2 * scaled) == 0:
        raise ValueError(f"kvm_get_time_scale(scaled_hz={scaled_hz}, base_hz={base_hz}) never returns in the kernel")
    shift = 0
    while base > u64(2 * scaled) or base >> 32:
        base >>= 1
        shift -= 1
    while base <= scaled or scaled >> 32:
        if scaled >> 32 or base >> 31:
            scaled >>= 1
        else:
            base <<= 1
        shift += 1
    return shift, (scaled << 32) // base


def pvclock_tsc_khz(mul: int, shift: int) -> int:
    """The TSC rate a Linux guest reads out of its pvclock page.

    mul, shift: as in pvclock_scale_delta(); mul is not 0 (ValueError: the guest would divide by it).
    Returns kHz. With shift -1, that is from 2 to 4 GHz, only even kHz can come out: 2 499 999 reads as 2 499 998.
    Source: arch/x86/kernel/pvclock.c pvclock_tsc_khz().
    """
    if mul == 0:
        raise ValueError("pvclock_tsc_khz: tsc_to_system_mul is 0, the page was never written")
    khz = (1_000_000 << 32) // mul
    return u64(khz << -shift) if shift < 0 else khz >> shift


# ------------------------------------------------------------------------------------------------------- TSC scaling


def tsc_ratio(guest_khz: int, host_khz: int, frac_bits: int) -> int:
    """The hardware multiplier that makes a guest's TSC run at guest_khz on a host of host_khz.

    guest_khz, host_khz: u32. frac_bits: 48 (VMX) or 32 (SVM).
    Returns ONE * guest / host, truncated (ONE = 2^frac_bits), u64: the guest runs slow by less than one part in the
    ratio. 0 and ratios from `max_tsc_scaling_ratio` on are refused by the caller, not here.
    Raises ValueError where the kernel takes a divide error: guest / host >= 2^16 on VMX.
    Source: arch/x86/kvm/x86.c set_tsc_khz().
    """
    return mul_u64_u32_div(1 << frac_bits, guest_khz, host_khz)


def scale_tsc(tsc: T, ratio: int, frac_bits: int) -> T:
    """Host cycles as guest cycles, before the offset; KVM and the hardware truncate alike.

    tsc: u64. ratio: u64 with frac_bits fraction bits.
    Returns u64. KVM scales kHz with it too: 3 GHz * 5/6 gives 2 499 999 kHz, and such a guest runs 400 ns/s fast.
    Source: arch/x86/kvm/x86.c kvm_scale_tsc().
    """
    return u64(tsc) if ratio == 1 << frac_bits else mul_u64_u64_shr(tsc, ratio, frac_bits)


def nested_tsc_offset(l1_offset: T, l2_offset: T, l2_ratio: int, frac_bits: int) -> T:
    """The offset with which L2 runs: L1's own, as L2's scale stretches it, plus the one L1 gave.

    l1_offset, l2_offset: u64 holding s64, in L1's and in L2's cycles. l2_ratio: what L1 asked for, ONE for no scaling.
    Returns u64. Truncated toward zero, so not what two stages of scaling one after the other would give.
    Source: arch/x86/kvm/x86.c kvm_calc_nested_tsc_offset().
    """
    scaled = l1_offset if l2_ratio == 1 << frac_bits else mul_s64_u64_shr(l1_offset, l2_ratio, frac_bits)
    return u64(scaled + l2_offset)


def nested_tsc_ratio(l1_ratio: int, l2_ratio: int, frac_bits: int) -> int:
    """The multiplier with which L2 runs: L1's times the one L1 asked for.

    l1_ratio, l2_ratio: u64 with frac_bits fraction bits, concrete.
    Returns u64, truncated: L2's TSC is behind by up to host_tsc / 2^frac_bits cycles (on SVM 2^22 at a host TSC of
    2^54).
    Source: arch/x86/kvm/x86.c kvm_calc_nested_tsc_multiplier().
    """
    return l1_ratio if l2_ratio == 1 << frac_bits else mul_u64_u64_shr(l1_ratio, l2_ratio, frac_bits)


def tsc_khz_tolerance(khz: int, ppm: int) -> tuple[int, int]:
    """The rates KVM takes for the host's own: a vCPU asked for lo <= rate <= hi is not scaled at all.

    khz: host rate, u32. ppm: `kvm.tsc_tolerance_ppm`, 0..1 000 000 (beyond, lo wraps in the kernel too).
    Returns (lo, hi) in kHz, u32, both truncated: the window is not symmetric.
    Source: arch/x86/kvm/x86.c adjust_tsc_khz(), kvm_set_tsc_khz().
    """
    return (
        u32(u64(khz * s32(1_000_000 - ppm)) // 1_000_000),
        u32(u64(khz * s32(1_000_000 + ppm)) // 1_000_000),
    )


# --------------------------------------------------------------------------------------------- the host's clocksource


def clocks_calc_mult_shift(from_khz: int) -> tuple[int, int]:
    """(mult, shift) with which the kernel registers a TSC of from_khz: ns = (cycles * mult) >> shift.

    from_khz: u32, not 0 (ValueError).
    Returns mult (u32, rounded to nearest where the pvclock scale truncates: the root of all drift between the two) and
    shift (24 or so).
    Source: kernel/time/clocksource.c clocksource_register_khz(), clocks_calc_mult_shift().
    """
    return clocksource_update_freq_scale(from_khz, 1000)


def clocksource_update_freq_scale(freq: int, scale: int) -> tuple[int, int]:
    """(mult, shift) of a 56-bit or wider clocksource registered at freq * scale Hz: the general form.

    freq: u32, not 0 (ValueError). scale: 1000 as by clocksource_register_khz() (x86's TSC), 1 as by
    clocksource_register_hz() (arm64's counter, up to 4.29 GHz).
    The largest shift with which 600 s convert without overflow; then halved until NTP could raise mult by 11 % within
    u32, which only some rates below 4.4 MHz need.
    Source: kernel/time/clocksource.c __clocksource_update_freq_scale(), clocks_calc_mult_shift().
    """
    if not 0 < freq <= _U32_MAX:
        raise ValueError(f"clocksource rate {freq}, expected 1..2^32-1")
    wide = (600 * scale * freq) >> 32
    room = 32 - wide.bit_length()  # bits that mult may take so that 600 s * mult stays below 2^64
    mult, shift = 0, 0
    for shift in range(32, 0, -1):
        mult = ((_NSEC_PER_SEC // scale << shift) + freq // 2) // freq
        if mult >> room == 0:
            break
    while mult + mult * 11 // 100 > _U32_MAX:
        mult >>= 1
        shift -= 1
    return mult, shift


def clocksource_cyc2ns(cycles: T, mult: int, shift: int) -> T:
    """Nanoseconds for cycles of a clocksource, for short intervals only.

    cycles: u64. mult: u32. shift: 1..31.
    Returns ns, truncated, always in 0..2^63-1. The product is 64 bits wide and wraps after 2^(64-shift) ns: 18 minutes
    at shift 24. For the clock itself, which accumulates, take raw_ns().
    Source: include/linux/clocksource.h clocksource_cyc2ns().
    """
    return u64(cycles * mult) >> shift


def cyclecounter_cyc2ns(cycles: T, mult: int, shift: int, frac: T | int) -> tuple[T, T]:
    """(nanoseconds, fraction to carry on) for cycles of a cycle counter, as KVM on arm64 reckons a timer's delay.

    cycles: u64. mult: u32. shift: 1..31. frac: shifted ns below 1 ns, what the conversion before it left over.
    Returns ns, u64, and a fraction below 2^shift. The product is 64 bits wide: from 2^64 / mult cycles on, which are
    2^(64-shift) ns, it wraps, and far too few ns come out.
    Source: include/linux/timecounter.h cyclecounter_cyc2ns().
    """
    shifted = u64(cycles * mult + frac)
    ns = shifted >> shift
    return ns, shifted - (ns << shift)


def raw_ns(cycles: T, mult: int, shift: int, base: T | int = 0) -> T:
    """CLOCK_MONOTONIC_RAW at a counter value: floor((base + cycles * mult) / 2^shift), without any wrap.

    cycles: counter, or cycles since `base` was taken. base: shifted ns (ns << shift) at cycle 0.
    Exactly affine as long as the clocksource stays and the host does not suspend: the tick accumulates shifted
    nanoseconds without rounding and NTP does not touch tkr_raw.
    Source: kernel/time/timekeeping.c logarithmic_accumulation(), timekeeping_cycles_to_ns().
    """
    return (cycles * mult + base) >> shift


# ---------------------------------------------------------------------------------- Hyper-V's reference TSC page


def hv_tsc_scale(mul: int, shift: int) -> int | None:
    """`tsc_scale` of the Hyper-V reference TSC page for a pvclock page's (mul, shift), or None where KVM refuses.

    mul: u32. shift: -31..31.
    Returns u64: 100 ns units per cycle with 64 fraction bits, truncated. None: the page is marked broken, the guest
    falls back to the reference counter MSR. So it is for TSCs of 10 MHz and below, where the scale needs 65 bits; the
    limit itself is u64 and wraps to 0 at shift -30 and -31 (2^29 GHz and up: no machine), refused as well.
    Source: arch/x86/kvm/hyperv.c compute_tsc_page_parameters().
    """
    if mul >= u64(100 << (32 - shift)):
        return None
    return mul_u64_u32_div(1 << (32 + shift), mul, 100)


def hv_tsc_offset(system_time: T, tsc_timestamp: T, scale: int) -> T:
    """`tsc_offset` of the reference TSC page that agrees with a pvclock page at its tsc_timestamp.

    system_time: ns, u64 (a kvmclock before 0 divides as a huge one). tsc_timestamp: cycles, u64. scale: hv_tsc_scale().
    Returns 100 ns units, s64.
    Source: arch/x86/kvm/hyperv.c compute_tsc_page_parameters().
    """
    return s64(u64(system_time) // 100 - mul_u64_u64_shr(tsc_timestamp, scale, 64))


def hv_ref_time(tsc: T, scale: int, offset: T) -> T:
    """Hyper-V reference time, in 100 ns units, as a guest computes it from the page.

    tsc: guest TSC, u64. scale, offset: `tsc_scale` (u64) and `tsc_offset` (s64) of the page.
    Returns u64.
    Source: include/clocksource/hyperv_timer.h hv_read_tsc_page_tsc().
    """
    return u64(mul_u64_u64_shr(tsc, scale, 64) + offset)
