"""Proved for all values, by z3, about the very code of arith.kernel: z3 terms are passed in as a second number system.

Rates are those of the tables (a proof per rate), times are arbitrary integers. Each lemma has a twin that claims a
little too much, and z3 has to find its counterexample: a lemma that nothing can break says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import z3

from guestclock.arith import (
    hv_ref_time,
    mul_u64_u64_shr,
    nested_tsc_offset,
    nested_tsc_ratio,
    pvclock_scale_delta,
    raw_ns,
    s64,
    scale_tsc,
    tsc_ratio,
    u64,
)

# every shape of pvclock scale: shift below, at and above 0, mul at both ends of its range
SCALES = [(0xC5379CA5, -1), (0xAAAAAAAA, -1), (0x80000431, 0), (0xA626DCE3, 2), (0xA6AAAAAA, 6)]
SCALES += [(2**32 - 1, -5), (2**31, 31)]
RATES = [(2_500_000, 3_000_000, 48), (2_500_000, 3_000_000, 32), (3_000_000, 2_596_122, 48), (1, 2**32 - 1, 32)]
VMX, SVM = 48, 32


class Term:
    """An unknown integer: what arith.kernel may do to time, and nothing else. Comparisons are z3 formulas."""

    def __init__(self, term: Any) -> None:
        self.term = term

    def __add__(self, other: Any) -> Term:
        return Term(self.term + untermed(other))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Term:
        return Term(self.term - untermed(other))

    def __rsub__(self, other: Any) -> Term:
        return Term(untermed(other) - self.term)

    def __mul__(self, factor: Any) -> Term:
        return Term(self.term * untermed(factor))

    __rmul__ = __mul__

    def __neg__(self) -> Term:
        return Term(-self.term)

    def __lshift__(self, bits: int) -> Term:
        return Term(self.term * 2**bits)

    def __rshift__(self, bits: int) -> Term:
        return Term(self.term / 2**bits)  # z3's div on integers is floor for a positive divisor

    def __floordiv__(self, divisor: int) -> Term:
        return Term(self.term / divisor)

    def __lt__(self, other: Any) -> Any:
        return self.term < untermed(other)

    def __le__(self, other: Any) -> Any:
        return self.term <= untermed(other)

    def __gt__(self, other: Any) -> Any:
        return self.term > untermed(other)

    def __ge__(self, other: Any) -> Any:
        return self.term >= untermed(other)

    def __eq__(self, other: object) -> Any:
        return self.term == untermed(other)

    def __ne__(self, other: object) -> Any:
        return self.term != untermed(other)

    __hash__ = None  # type: ignore[assignment]

    def wrap_u64(self) -> Term:
        return Term(self.term % 2**64)

    def wrap_s64(self) -> Term:
        return Term((self.term + 2**63) % 2**64 - 2**63)


def untermed(value: Any) -> Any:
    return value.term if isinstance(value, Term) else value


def integer(name: str, below: int = 2**64, at_least: int = 0) -> tuple[Term, list[Any]]:
    """An unknown and the bounds it respects."""
    term = Term(z3.Int(name))
    return term, [term >= at_least, term < below]


def counterexample(given: list[Any], claim: Any) -> dict[str, int] | None:
    """Values for which all of `given` holds and the claim does not; None if it is proved that there are none."""
    solver = z3.Solver()
    solver.set(timeout=10_000)
    solver.add(*given, z3.Not(claim))
    answer = solver.check()
    assert answer != z3.unknown, f"z3 gave up: {solver.reason_unknown()}"
    if answer == z3.unsat:
        return None
    model = solver.model()
    return {str(name): model[name].as_long() for name in model.decls()}


def proved(given: list[Any], claim: Any) -> bool:
    found = counterexample(given, claim)
    assert found is None, f"counterexample {found}"
    return True


def below_overflow(shift: int) -> int:
    """The first delta whose left shift leaves u64."""
    return 2 ** (64 - shift) if shift > 0 else 2**64


@pytest.mark.parametrize(("mul", "shift"), SCALES)
def test_readings_never_go_back_while_the_delta_grows_and_does_not_overflow(mul: int, shift: int) -> None:
    earlier, a = integer("earlier", below_overflow(shift))
    later, b = integer("later", below_overflow(shift))
    claim = pvclock_scale_delta(earlier, mul, shift) <= pvclock_scale_delta(later, mul, shift)
    assert proved([*a, *b, earlier <= later], claim)


def test_readings_do_go_back_where_the_shift_overflows() -> None:
    earlier, a = integer("earlier")
    later, b = integer("later")
    claim = pvclock_scale_delta(earlier, 0xA626DCE3, 2) <= pvclock_scale_delta(later, 0xA626DCE3, 2)
    found = counterexample([*a, *b, earlier <= later], claim)
    assert found is not None
    assert found["later"] >= 2**62


def test_readings_do_not_advance_with_every_cycle() -> None:
    earlier, a = integer("earlier")
    later, b = integer("later")
    claim = pvclock_scale_delta(earlier, 0xC5379CA5, -1) < pvclock_scale_delta(later, 0xC5379CA5, -1)
    assert counterexample([*a, *b, earlier < later], claim) is not None


def rounding(delta: Term, mul: int, shift: int) -> Any:
    """2^64 times what a reading lacks of the exact product."""
    return delta * mul * 2 ** (32 + shift) - pvclock_scale_delta(delta, mul, shift) * 2**64


def most_lost(mul: int, shift: int) -> Fraction:
    """The bound on rounding, in ns: 1 for the truncation, and what the cycles are worth that a right shift drops."""
    cycles_dropped = 2**-shift - 1 if shift < 0 else 0
    return 1 + cycles_dropped * Fraction(mul, 2**32) * Fraction(2) ** shift


@pytest.mark.parametrize(("mul", "shift"), SCALES)
def test_a_reading_is_short_by_less_than_a_nanosecond_and_the_cycles_dropped(mul: int, shift: int) -> None:
    delta, bounds = integer("delta", below_overflow(shift))
    lost = rounding(delta, mul, shift)
    bound = most_lost(mul, shift) * 2**64
    assert bound.denominator == 1
    assert proved(bounds, z3.And(lost >= 0, lost < int(bound)))


@pytest.mark.parametrize(("mul", "shift"), [(0xC5379CA5, -1), (2**32 - 1, -5)])
def test_a_right_shift_does_lose_more_than_a_nanosecond(mul: int, shift: int) -> None:
    delta, bounds = integer("delta")
    assert counterexample(bounds, rounding(delta, mul, shift) < 2**64) is not None


def test_the_lost_cycle_at_2_596_122_khz_makes_1_385_ns() -> None:
    assert round(float(most_lost(0xC5379CA5, -1)), 3) == 1.385  # engine-spike section 3: 2.385 with the raw floor


def test_a_reading_fits_u64_without_another_wrap() -> None:
    delta, bounds = integer("delta", 2**70, at_least=-(2**70))
    reading = pvclock_scale_delta(delta, 2**32 - 1, 3)
    assert proved(bounds, z3.And(reading >= 0, reading < 2**64))
    too_wide = pvclock_scale_delta(delta, 2**33 - 1, 3)  # one bit more in mul, and it would not
    assert counterexample(bounds, too_wide < 2**64) is not None


@pytest.mark.parametrize("shift", [-1, -5, -31])
def test_a_negative_shift_loses_only_the_low_bits(shift: int) -> None:
    mul = 0xC5379CA5
    kept, a = integer("kept", 2 ** (64 + shift))
    low, b = integer("low", 2**-shift)
    whole = (kept << -shift) + low
    claim = pvclock_scale_delta(whole, mul, shift) == pvclock_scale_delta(kept << -shift, mul, shift)
    assert proved([*a, *b], claim)

    one_bit_more, c = integer("one_bit_more", 2 ** (1 - shift))
    whole = (kept << (1 - shift)) + one_bit_more
    claim = pvclock_scale_delta(whole, mul, shift) == pvclock_scale_delta(kept << (1 - shift), mul, shift)
    assert counterexample([*a, *c, whole < 2**64], claim) is not None


@pytest.mark.parametrize(("guest_khz", "host_khz", "frac_bits"), RATES)
def test_a_truncated_ratio_makes_the_guest_slow_by_less_than_tsc_in_2_to_the_frac_bits(
    guest_khz: int, host_khz: int, frac_bits: int
) -> None:
    tsc, bounds = integer("tsc", 2**56)
    one = 1 << frac_bits
    ratio = tsc_ratio(guest_khz, host_khz, frac_bits)
    scaled = scale_tsc(tsc, ratio, frac_bits)
    exact = tsc * guest_khz * one  # both sides times host_khz * ONE
    lost = exact - scaled * host_khz * one
    assert proved(bounds, z3.And(lost >= 0, lost < (tsc + one) * host_khz))
    if ratio * host_khz != guest_khz * one:
        assert counterexample(bounds, lost < one * host_khz) is not None  # not just one cycle: it grows with the TSC


@pytest.mark.parametrize(("l1", "l2", "bits"), [(2**32 // 3, 2**32 // 7, SVM), (0xD55555555555, 5 * 2**48 // 3, VMX)])
def test_a_nested_tsc_is_behind_two_stages_by_tsc_in_2_to_the_frac_bits(l1: int, l2: int, bits: int) -> None:
    tsc, bounds = integer("tsc", 2**56)
    at_once = scale_tsc(tsc, nested_tsc_ratio(l1, l2, bits), bits)
    in_stages = scale_tsc(scale_tsc(tsc, l1, bits), l2, bits)
    ahead = (in_stages - at_once) << bits
    assert proved(bounds, ahead <= tsc + (1 << bits))
    assert counterexample(bounds, in_stages == at_once) is not None


def test_u64_may_be_applied_early_to_sums_differences_and_products() -> None:
    x, a = integer("x", 2**70, at_least=-(2**70))
    y, b = integer("y", 2**70, at_least=-(2**70))
    assert proved([*a, *b], u64(u64(x) + u64(y)) == u64(x + y))
    assert proved([*a, *b], u64(u64(x) - u64(y)) == u64(x - y))
    assert proved(a, u64(u64(x) * 6462414) == u64(x * 6462414))
    assert proved(a, u64(u64(x) << 2) == u64(x << 2))


def test_u64_may_not_be_applied_late_to_shifts_and_comparisons() -> None:
    x, a = integer("x", 2**70, at_least=-(2**70))
    y, b = integer("y", 2**70, at_least=-(2**70))
    assert counterexample(a, u64(u64(x) >> 1) == u64(x >> 1)) is not None
    assert counterexample([*a, *b], (u64(x) <= u64(y)) == (x <= y)) is not None


def test_u64_and_s64_are_two_readings_of_the_same_word() -> None:
    x, bounds = integer("x", 2**70, at_least=-(2**70))
    assert proved(bounds, s64(u64(x)) == s64(x))
    assert proved(bounds, u64(s64(x)) == u64(x))
    assert proved(bounds, z3.And(s64(x) >= -(2**63), s64(x) < 2**63, u64(x) >= 0, u64(x) < 2**64))
    assert proved([*bounds, x >= 0, x < 2**63], s64(x) == u64(x))
    assert counterexample([*bounds, x >= 0, x <= 2**63], s64(x) == u64(x)) == {"x": 2**63}


def test_an_elapsed_time_is_huge_exactly_if_it_is_negative() -> None:
    earlier, a = integer("earlier", 2**63)
    later, b = integer("later", 2**63)
    elapsed = u64(later - earlier)
    assert proved([*a, *b], (elapsed >= 2**63) == (later < earlier))
    assert counterexample([*a, *b], (elapsed > 2**63) == (later <= earlier)) is not None


@pytest.mark.parametrize(("mul", "shift", "mult"), [(0xC5379CA5, -1, 6462414), (0xD5555555, -1, 6990507)])
def test_a_re_snapshot_steps_by_the_drift_and_2_4_ns_of_rounding(mul: int, shift: int, mult: int) -> None:
    """raw(T1) - raw(T0) - page(T1 - T0), for all instants and any phase of the raw clock."""
    t0, a = integer("t0", 2**60)
    t1, b = integer("t1", 2**60)
    phase, c = integer("phase", 2**24)
    step = raw_ns(t1, mult, 24, phase) - raw_ns(t0, mult, 24, phase) - pvclock_scale_delta(t1 - t0, mul, shift)
    # everything times 2^33; drift is exact
    drift = (t1 - t0) * (mult * 2**9 - mul)
    rounding_off = (step << 33) - drift
    given = [*a, *b, *c, t0 <= t1]
    low, high = -(2**33), 2 * 2**33 + mul
    assert proved(given, z3.And(rounding_off > low, rounding_off < high))
    assert counterexample(given, rounding_off < 2 * 2**33) is not None  # 2 ns would be a false alarm


def test_hyper_v_reference_time_never_goes_back_while_tsc_grows() -> None:
    scale = 0xFC7024AA3D70A3
    earlier, a = integer("earlier")
    later, b = integer("later")
    offset, c = integer("offset", 2**62)
    claim = hv_ref_time(earlier, scale, offset) <= hv_ref_time(later, scale, offset)
    assert proved([*a, *b, *c, earlier <= later], claim)
    negative, d = integer("negative", 0, at_least=-(2**62))
    claim = hv_ref_time(earlier, scale, negative) <= hv_ref_time(later, scale, negative)
    assert counterexample([*a, *b, *d, earlier <= later], claim) is not None


def test_a_wide_product_is_exact_before_its_one_wrap() -> None:
    a, bounds = integer("a")
    assert proved(bounds, mul_u64_u64_shr(a, 2**64 - 1, 64) < 2**64 - 1)
    assert proved(bounds, (mul_u64_u64_shr(a, 3, 1) == a * 3 >> 1) == (a * 3 < 2**65))
    assert counterexample(bounds, mul_u64_u64_shr(a, 3, 1) == a * 3 >> 1) is not None


def each_sign(offset: Term, function: Callable[[Term], Any]) -> Any:
    """mul_s64_u64_shr asks for the sign; both answers are followed, as an explorer would."""

    class Signed(Term):
        answer = False

        def __lt__(self, other: Any) -> Any:
            return self.answer

        def wrap_s64(self) -> Term:
            return self

    class Negative(Signed):
        answer = True

    return Term(z3.If(offset < 0, function(Negative(offset.term)).term, function(Signed(offset.term)).term))


def test_a_nested_offset_is_odd_in_its_sign() -> None:
    offset, bounds = integer("offset", 2**63, at_least=1 - 2**63)
    ratio = 2**48 // 3
    forth = each_sign(offset, lambda o: nested_tsc_offset(o, 0, ratio, VMX))
    back = each_sign(-offset, lambda o: nested_tsc_offset(o, 0, ratio, VMX))
    assert proved(bounds, u64(forth + back) == 0)
    floor = (offset * ratio) >> VMX
    assert counterexample(bounds, s64(forth) == floor) is not None  # truncation, not floor
