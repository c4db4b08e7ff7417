import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.scenario.quantity import NS_PER_UNIT, Cycles, Duration, Nanoseconds, Number, Step


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1 h", 3_600_000_000_000),
        ("300 ms", 300_000_000),
        ("5 s", 5_000_000_000),
        ("4.9 s", 4_900_000_000),
        ("250 us", 250_000),
        ("250 µs", 250_000),
        ("10 ns", 10),
        ("0.000000001 s", 1),
        ("5.01s", 5_010_000_000),
        ("40 h", 144_000_000_000_000),
        ("1 min", 60_000_000_000),
        ("1 d", 86_400_000_000_000),
        ("1 h - 1 ns", 3_599_999_999_999),
        ("0 s", 0),
        ("1_000 s", 10**12),
    ],
)
def test_durations_are_exact(text, ns):
    assert Duration.parse(text, {}).literal == ns


@given(st.integers(0, 2**70), st.sampled_from(sorted(NS_PER_UNIT)))
def test_any_whole_number_of_units_is_that_many_ns(count, unit):
    assert Step.parse(f"{count} {unit}", {}).literal == count * NS_PER_UNIT[unit]


@given(st.integers(0, 10**12), st.integers(0, 10**9 - 1))
def test_nine_decimals_of_a_second_are_nanoseconds(whole, part):
    assert Step.parse(f"{whole}.{part:09d} s", {}).literal == whole * 10**9 + part


def terms(quantity):
    return [(t.kind, t.value, t.factor) for t in quantity.terms]


def test_a_sum_keeps_its_terms_apart():
    parsed = Cycles.parse("$saved + 1 s - 400 + max($tsc) - 0x10 + 7 cycles", {})
    assert terms(parsed) == [
        ("name", "saved", 1), ("ns", 10**9, 1), ("int", 400, -1), ("max", "tsc", 1), ("int", 16, -1), ("int", 7, 1),
    ]  # fmt: skip


def test_a_varied_value_keeps_the_sign_before_it():
    assert terms(Cycles.parse("$saved - $late", {"late": "1 s - 5"})) == [
        ("name", "saved", 1), ("ns", 10**9, -1), ("int", 5, 1),
    ]  # fmt: skip
    assert terms(Cycles.parse("- $late", {"late": "-1 s"})) == [("ns", 10**9, 1)]
    assert str(Cycles.parse("$saved - $late", {"late": "1 s"})) == "$saved - 1 s"


def test_integers_may_come_as_integers():
    assert terms(Cycles.parse(-400, {})) == [("int", 400, -1)]
    assert terms(Number.parse(0x12, {})) == [("int", 18, 1)]


@pytest.mark.parametrize(
    ("kind", "written", "message"),
    [
        (Duration, "5", "'5' has no unit, expected a duration like '300 ms'"),
        (Duration, 5, "'5' has no unit, expected a duration like '300 ms'"),
        (Duration, "-1 s", "'-1 s' is negative, expected a duration like '300 ms'"),
        (Duration, "1001 d", "'1001 d' is too long, expected at most 1000 d"),
        (Duration, "1 s - 2 s", "'1 s - 2 s' is negative, expected a duration like '300 ms'"),
        (Duration, "0.5 ns", "'0.5 ns' is finer than 1 ns"),
        (Duration, "5 sec", "'5 sec': expected a duration like '300 ms'"),
        (Duration, "soon", "'soon': expected a duration like '300 ms'"),
        (Duration, "", "'': expected a duration like '300 ms'"),
        (Duration, "1 s 2 s", "'1 s 2 s': expected a duration like '300 ms'"),
        (Duration, "1 s +", "'1 s +': expected a duration like '300 ms'"),
        (Duration, "$x", "'$x': '$x' is not in [vary]"),
        (Duration, 0.5, "expected a duration like '300 ms', got a fraction without a unit"),
        (Duration, True, "expected a duration like '300 ms', got true or false"),
        (Duration, ["1 s"], "expected a duration like '300 ms', got a list"),
        (Nanoseconds, "5", "'5' has no unit, expected a duration like '5 s' or a saved clock like '$clock + 1 s'"),
        (Step, "$x", "'$x': '$x' is not in [vary]"),
        (Number, "5 s", "'5 s': expected an integer or a saved value like '$saved + 1'"),
        (Cycles, "1.5", "'1.5': expected a number like 400, a duration like '5 s' or a sum like '$saved + 1 s - 400'"),
    ],
)
def test_what_is_no_quantity_is_told_in_one_line(kind, written, message):
    with pytest.raises(ValueError) as raised:
        kind.parse(written, {})
    told = str(raised.value)
    assert told == message
    assert "\n" not in told


def test_a_misspelt_variation_is_suggested():
    with pytest.raises(ValueError, match=r"did you mean '\$delay'"):
        Duration.parse("$dealy", {"delay": "1 s"})
