"""The numbers of reference/kvm-x86.md, sections 1.4, 2, 9.1 and 9.2, and of kvm-arm64.md 2.5: a table row is a test."""

from __future__ import annotations

from fractions import Fraction
from types import ModuleType

import pytest

from guestclock import arith
from guestclock.arith import (
    clocks_calc_mult_shift,
    clocksource_cyc2ns,
    clocksource_update_freq_scale,
    cyclecounter_cyc2ns,
    div_s64,
    hv_ref_time,
    hv_tsc_offset,
    hv_tsc_scale,
    kvm_get_time_scale,
    mul_u64_u32_div,
    nested_tsc_offset,
    nested_tsc_ratio,
    nsec_to_cycles,
    pvclock_scale_delta,
    pvclock_tsc_khz,
    raw_ns,
    s32,
    s64,
    scale_tsc,
    tsc_khz_tolerance,
    tsc_ratio,
    u32,
    u64,
)

NSEC_PER_SEC = 10**9
VMX, SVM = 48, 32

# 9.1: kHz | ns page shift, mul | pv err ppm | ns->cyc shift, mul | raw mult, shift | re-snapshot step ns/s
SCALES = [
    (1000000, (1, 0x80000000), "0.000000", (1, 0x80000000), (8388608, 23), "0.000"),
    (2000000, (0, 0x80000000), "0.000000", (2, 0x80000000), (4194304, 23), "0.000"),
    (2100000, (-1, 0xF3CF3CF3), "-0.000198", (2, 0x86666666), (7989150, 24), "-59.407"),
    (2400000, (-1, 0xD5555555), "-0.000093", (2, 0x99999999), (6990507, 24), "47.777"),
    (2499999, (-1, 0xCCCCD22B), "-0.000055", (2, 0x9FFFFBCE), (6710889, 24), "-12.515"),
    (2500000, (-1, 0xCCCCCCCC), "-0.000233", (2, 0xA0000000), (6710886, 24), "-59.372"),
    (2593992, (-1, 0xC5611196), "-0.000286", (2, 0xA603F705), (6467721, 24), "32.010"),
    (2596122, (-1, 0xC5379CA5), "-0.000289", (2, 0xA626DCE3), (6462414, 24), "-49.868"),
    (2900000, (-1, 0xB08D3DCB), "-0.000012", (2, 0xB9999999), (5785247, 24), "17.893"),
    (3000000, (-1, 0xAAAAAAAA), "-0.000233", (2, 0xC0000000), (5592405, 24), "-59.372"),
    (3600000, (-1, 0x8E38E38E), "-0.000093", (2, 0xE6666666), (4660338, 24), "47.777"),
    (24000, (6, 0xA6AAAAAA), "-0.000238", (-5, 0xC49BA5E3), (699050667, 24), "0.715"),
]
SCALE_COLUMNS = ("khz", "page", "page_error_ppm", "cycles_scale", "raw", "step_ns_per_s")


def decimals(value: Fraction, places: int) -> str:
    """value as the tables print it: correctly rounded, in decimals."""
    sign = "-" if round(value, places) < 0 else ""
    digits = str(round(abs(value) * 10**places)).rjust(places + 1, "0")
    return f"{sign}{digits[:-places]}.{digits[-places:]}"


def ns_per_cycle(mul: int, shift: int) -> Fraction:
    """What a pvclock (mul, shift) means, without its truncations."""
    return Fraction(mul, 2**32) * Fraction(2) ** shift


@pytest.mark.parametrize(SCALE_COLUMNS, SCALES)
def test_scales_of_a_rate(
    khz: int, page: tuple[int, int], page_error_ppm: str, cycles_scale: tuple[int, int], raw: tuple[int, int],
    step_ns_per_s: str,
) -> None:  # fmt: skip
    assert kvm_get_time_scale(NSEC_PER_SEC, khz * 1000) == page
    assert kvm_get_time_scale(khz * 1000, NSEC_PER_SEC) == cycles_scale
    assert clocks_calc_mult_shift(khz) == raw


@pytest.mark.parametrize(SCALE_COLUMNS, SCALES)
def test_the_page_runs_slow_and_drifts_from_the_raw_clock(
    khz: int, page: tuple[int, int], page_error_ppm: str, cycles_scale: tuple[int, int], raw: tuple[int, int],
    step_ns_per_s: str,
) -> None:  # fmt: skip
    shift, mul = page
    page_ns_per_s = khz * 1000 * ns_per_cycle(mul, shift)
    raw_ns_per_s = khz * 1000 * Fraction(raw[0], 2 ** raw[1])
    assert decimals((page_ns_per_s - NSEC_PER_SEC) / 1000, 6) == page_error_ppm
    assert decimals(raw_ns_per_s - page_ns_per_s, 3) == step_ns_per_s


@pytest.mark.parametrize(SCALE_COLUMNS, SCALES)
def test_a_re_snapshot_after_1000_s_steps_by_1000_times_the_column(
    khz: int, page: tuple[int, int], page_error_ppm: str, cycles_scale: tuple[int, int], raw: tuple[int, int],
    step_ns_per_s: str,
) -> None:  # fmt: skip
    shift, mul = page
    t0 = 10**15 + 7  # a host that has been up for days
    t1 = t0 + 1000 * khz * 1000
    step = raw_ns(t1, *raw) - raw_ns(t0, *raw) - pvclock_scale_delta(t1 - t0, mul, shift)
    # the column has three decimals (0.5 ns in 1000 s), each of the three floors is worth less than 1 ns
    assert abs(step - 1000 * Fraction(step_ns_per_s)) < Fraction(1, 2) + 2


def test_the_machine_of_the_table_steps_back_748_ns_after_15_s() -> None:
    mult, mul = 6462414, 0xC5379CA5
    cycles = 15 * 2_596_122_000
    assert clocksource_cyc2ns(cycles, mult, 24) - pvclock_scale_delta(cycles, mul, -1) == -748


@pytest.mark.parametrize(
    ("delta", "mul", "shift", "ns"),
    [
        (2596122000, 0xC5379CA5, -1, 999999999),
        (2596122000 * 86400, 0xC5379CA5, -1, 86399999975017),
        (1, 0xC5379CA5, -1, 0),
        (2, 0xC5379CA5, -1, 0),
        (10**9, 0xA626DCE3, 2, 2596121999),
        (2**62, 0xA626DCE3, 2, 0),
        (2**64 - 1, 0xC5379CA5, -1, 7105499690837213183),
        (-1, 0xC5379CA5, -1, 7105499690837213183),
    ],
)
def test_scale_delta(delta: int, mul: int, shift: int, ns: int) -> None:
    assert pvclock_scale_delta(delta, mul, shift) == ns


def test_one_cycle_back_reads_as_225_years() -> None:
    years = pvclock_scale_delta(-1, 0xC5379CA5, -1) / (365.25 * 86400 * 1e9)
    assert 225 < years < 226


def test_with_shift_minus_1_readings_advance_every_second_cycle() -> None:
    readings = [pvclock_scale_delta(cycles, 0xC5379CA5, -1) for cycles in range(12)]
    assert readings == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3]


@pytest.mark.parametrize(("khz", "lo", "hi"), [(2596122, 2595472, 2596771), (3000000, 2999250, 3000750)])
def test_rates_within_250_ppm_are_not_scaled(khz: int, lo: int, hi: int) -> None:
    assert tsc_khz_tolerance(khz, 250) == (lo, hi)


# 9.2: host kHz, guest kHz | f | ratio | page kHz | guest shift, mul | B - C per second
SCALED_GUEST_COLUMNS = ("host_khz", "guest_khz", "frac_bits", "ratio", "page_khz", "page", "b_minus_c")
SCALED_GUESTS = [
    (3000000, 2500000, VMX, 0xD55555555555, 2499999, (-1, 0xCCCCD22B), "400.177"),
    (3000000, 2500000, SVM, 0xD5555555, 2499999, (-1, 0xCCCCD22B), "400.084"),
    (2596122, 3000000, VMX, 0x127D36AF8EF61, 2999999, (-1, 0xAAAAAE65), "333.586"),
    (2596122, 2000000, VMX, 0xC5379CA5F4EB, 1999999, (0, 0x80000431), "499.944"),
    (2000000, 2100000, VMX, 0x10CCCCCCCCCCC, 2099999, (-1, 0xF3CF448F), "476.032"),
    (2000000, 1000000, VMX, 0x800000000000, 1000000, (1, 0x80000000), "0.000"),
]


@pytest.mark.parametrize(SCALED_GUEST_COLUMNS, SCALED_GUESTS)
def test_a_scaled_guest_runs_fast_against_kvm_get_clock(
    host_khz: int, guest_khz: int, frac_bits: int, ratio: int, page_khz: int, page: tuple[int, int], b_minus_c: str
) -> None:
    assert tsc_ratio(guest_khz, host_khz, frac_bits) == ratio
    assert scale_tsc(host_khz, ratio, frac_bits) == page_khz
    assert kvm_get_time_scale(NSEC_PER_SEC, page_khz * 1000) == page

    host_cycles = 1000 * host_khz * 1000
    host_shift, host_mul = kvm_get_time_scale(NSEC_PER_SEC, host_khz * 1000)
    guest_shift, guest_mul = page
    guest_reads = pvclock_scale_delta(scale_tsc(host_cycles, ratio, frac_bits), guest_mul, guest_shift)
    kvm_get_clock = pvclock_scale_delta(host_cycles, host_mul, host_shift)
    assert decimals(Fraction(guest_reads - kvm_get_clock, 1000), 3) == b_minus_c


@pytest.mark.parametrize(
    ("ns", "cycles"),
    [(-1, 0xA626DCE2FFFFFFFD), (-1000, 0xA626DCE2FFFFF5DB), (-1_000_000, 0xA626DCE2FFD862E6)],
)
def test_a_negative_catchup_delta_leaps(ns: int, cycles: int) -> None:
    assert nsec_to_cycles(ns, 0xA626DCE3, 2) == cycles
    assert nsec_to_cycles(u64(ns), 0xA626DCE3, 2) == cycles


def test_a_negative_catchup_delta_at_3_ghz() -> None:
    assert nsec_to_cycles(-1, 0xC0000000, 2) == 0xBFFFFFFFFFFFFFFD  # section 7.5


def test_nested_offsets() -> None:
    one = 1 << VMX
    assert nested_tsc_offset(u64(-(10**12)), 12345, 4 * one, VMX) == 0xFFFFFC5CAD6BF039
    assert s64(nested_tsc_offset(u64(-(10**12)), 12345, one // 3, VMX)) == -333333320988
    assert s64(nested_tsc_offset(u64(-(10**12)), 12345, one, VMX)) == 12345 - 10**12


def test_a_nested_offset_is_truncated_toward_zero() -> None:
    assert s64(nested_tsc_offset(u64(-3), 0, 1 << 47, VMX)) == -1
    assert s64(nested_tsc_offset(3, 0, 1 << 47, VMX)) == 1


def test_nested_ratios_multiply_and_truncate() -> None:
    one = 1 << SVM
    assert nested_tsc_ratio(one // 3, one, SVM) == one // 3
    assert nested_tsc_ratio(one // 3, 3 * one, SVM) == one - 1


def test_a_nested_ratio_loses_2_to_22_cycles_at_a_host_tsc_of_2_to_54_on_svm() -> None:
    l1, l2, host_tsc = (1 << SVM) // 3, (1 << SVM) // 7, 2**54
    lost = Fraction(host_tsc * l1 * l2, 2**64) - scale_tsc(host_tsc, nested_tsc_ratio(l1, l2, SVM), SVM)
    assert 2**21 < lost < 2**22 + 1


@pytest.mark.parametrize(("guest_khz", "frac_bits"), [(65536, VMX), (2**32 - 1, VMX)])
def test_a_ratio_of_2_to_the_16_is_a_divide_error_on_vmx(guest_khz: int, frac_bits: int) -> None:
    with pytest.raises(ValueError, match="divide error"):
        tsc_ratio(guest_khz, 1, frac_bits)
    assert tsc_ratio(65535, 1, VMX) == 65535 << VMX


def test_hyper_v_scale_and_offset() -> None:
    scale = hv_tsc_scale(0xC5379CA5, -1)
    assert scale == 0xFC7024AA3D70A3
    # the page agrees with kvmclock at tsc_timestamp and a second later, to the 100 ns of its unit
    system_time, tsc_timestamp = 5 * NSEC_PER_SEC + 99, 10**13
    offset = hv_tsc_offset(system_time, tsc_timestamp, scale)
    assert hv_ref_time(tsc_timestamp, scale, offset) == 50_000_000
    assert hv_ref_time(tsc_timestamp + 2_596_122_000, scale, offset) == 60_000_000


def test_hyper_v_pages_are_refused_where_the_scale_needs_65_bits() -> None:
    scales = {}
    for khz in (9_999, 10_000, 10_001):
        shift, mul = kvm_get_time_scale(NSEC_PER_SEC, khz * 1000)
        scales[khz] = hv_tsc_scale(mul, shift)
    assert scales == {9_999: None, 10_000: None, 10_001: (mul << 39) // 100}
    assert hv_tsc_scale(100 << 25, 7) is None
    assert hv_tsc_scale((100 << 25) - 1, 7) is not None
    # and where the limit itself has wrapped to 0
    assert hv_tsc_scale(2**31, -29) is not None
    assert hv_tsc_scale(2**31, -30) is None


@pytest.mark.parametrize(("khz", "guest_sees"), [(2499999, 2499998), (2596123, 2596122), (3000001, 3000000)])
def test_a_guest_reads_only_even_khz_from_its_page(khz: int, guest_sees: int) -> None:
    shift, mul = kvm_get_time_scale(NSEC_PER_SEC, khz * 1000)
    assert (shift, pvclock_tsc_khz(mul, shift)) == (-1, guest_sees)


@pytest.mark.parametrize(
    ("hz", "mult", "shift", "overflow_s"),
    [
        (19_200_000, 873813333, 24, 1099.5),
        (24_000_000, 699050667, 24, 1099.5),
        (25_000_000, 671088640, 24, 1099.5),
        (31_250_000, 268435456, 23, 2199.0),
        (50_000_000, 335544320, 24, 1099.5),
        (54_000_000, 310689185, 24, 1099.5),
        (62_500_000, 134217728, 23, 2199.0),
    ],
)
def test_arm64_counters_register_in_hz(hz: int, mult: int, shift: int, overflow_s: float) -> None:
    assert clocksource_update_freq_scale(hz, 1) == (mult, shift)
    last = (2**64 - 1) // mult
    assert clocksource_cyc2ns(last, mult, shift) > clocksource_cyc2ns(last + 1, mult, shift)
    assert last / hz == pytest.approx(overflow_s, abs=0.1)


def test_a_cycle_counter_carries_what_is_less_than_a_ns() -> None:
    """24 MHz: a tick is 41.666... ns; three of them, one by one, are 125."""
    mult, shift = clocksource_update_freq_scale(24_000_000, 1)
    ns, frac = [], 0
    for _ in range(3):
        more, frac = cyclecounter_cyc2ns(1, mult, shift, frac)
        ns.append(more)
    assert (ns, cyclecounter_cyc2ns(3, mult, shift, 0)) == ([41, 42, 42], (125, frac))


@pytest.mark.parametrize(("hz", "horizon_ns"), [(62_500_000, 2**41), (1_000_000_000, 2**41), (24_000_000, 2**40)])
def test_a_cycle_counter_wraps_where_its_product_has_64_bits(hz: int, horizon_ns: int) -> None:
    """kvm-arm64.md 2.5: at 2^(64-shift) ns, whatever the rate; with a mult that is a power of two to 0 exactly."""
    mult, shift = clocksource_update_freq_scale(hz, 1)
    first = -(-(2**64) // mult)
    assert 2 ** (64 - shift) == horizon_ns
    assert cyclecounter_cyc2ns(first - 1, mult, shift, 0)[0] >= horizon_ns - 10**9 // hz - 1
    assert cyclecounter_cyc2ns(first, mult, shift, 0)[0] == (first * mult - 2**64) >> shift < 42


@pytest.mark.parametrize(("khz", "raw"), [(4335, (1935088350, 23)), (4336, (3869284133, 24))])
def test_a_slow_clocksource_is_halved_so_that_ntp_has_its_11_percent(khz: int, raw: tuple[int, int]) -> None:
    assert clocks_calc_mult_shift(khz) == raw
    assert raw[0] == ((1_000_000 << 24) + khz // 2) // khz >> 24 - raw[1]
    assert raw[0] * 111 // 100 < 2**32


def test_words() -> None:
    assert [u64(x) for x in (-1, 2**64, 2**64 + 5, 5)] == [2**64 - 1, 0, 5, 5]
    assert [s64(x) for x in (2**63, 2**63 - 1, -1, 2**64 - 1)] == [-(2**63), 2**63 - 1, -1, -1]
    assert [u32(x) for x in (-1, 2**32)] == [2**32 - 1, 0]
    assert [s32(x) for x in (2**31, -1)] == [-(2**31), -1]


def test_division_of_signed_values_is_c_s() -> None:
    assert [div_s64(x, 2) for x in (7, -7, 6, -6, 1, -1)] == [3, -3, 3, -3, 0, 0]
    with pytest.raises(ValueError, match="divisor 0"):
        div_s64(1, 0)


def test_divisions_the_kernel_would_fault_on_are_refused() -> None:
    with pytest.raises(ValueError, match="divide error"):
        mul_u64_u32_div(1, 1, 0)
    with pytest.raises(ValueError, match="clocksource rate 0"):
        clocks_calc_mult_shift(0)
    with pytest.raises(ValueError, match="never written"):
        pvclock_tsc_khz(0, -1)


def test_the_tolerance_window_is_not_symmetric() -> None:
    lo, hi = tsc_khz_tolerance(2596122, 250)
    assert (2596122 - lo, hi - 2596122) == (650, 649)


def test_values_that_are_neither_int_nor_a_form_are_refused() -> None:
    for wrong in (1.0, True, None, "1"):
        with pytest.raises(AttributeError, match="wrap_u64"):
            u64(wrong)  # type: ignore[type-var]


def test_the_public_names_are_these() -> None:
    public = {name for name in vars(arith) if not name.startswith("_")}
    submodules = {name for name in public if isinstance(getattr(arith, name), ModuleType)}
    assert public - submodules == set(arith.__all__)
