"""Affine forms: at every point they are the ints they stand for; what no form can be is refused."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guestclock.arith.affine import Form, judged_by, numerator, primitive
from guestclock.explore.judge import FloorNames, Judge, Outcome

SYMBOLS = ("x", "y", "z")
NUMBERS = st.one_of(st.integers(-5, 5), st.integers(-(1 << 70), 1 << 70))
POINTS = st.fixed_dictionaries({s: st.integers(-(1 << 40), 1 << 40) for s in SYMBOLS})


DENS = st.sampled_from((1, 1, 2, 3, 1000))


@st.composite
def forms(draw: st.DrawFn, dens: st.SearchStrategy[int] = DENS) -> Form:
    """Made the way models make them: symbols times ints, summed, and true time in ps over a denominator."""
    terms = draw(st.dictionaries(st.sampled_from(SYMBOLS), NUMBERS.filter(bool), min_size=1))
    return Form(terms, draw(NUMBERS), draw(dens))


def value(form: Any, point: dict[str, int]) -> tuple[int, int]:
    """As a fraction: numerator and denominator."""
    if type(form) is int:
        return form, 1
    return form.const + sum(c * point[s] for s, c in form.terms.items()), form.den


def same(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] * b[1] == b[0] * a[1]


@given(forms(), forms(), POINTS)
def test_sums_and_differences_of_forms(a: Form, b: Form, point: dict[str, int]):
    (p, q), (r, s) = value(a, point), value(b, point)
    assert same(value(a + b, point), (p * s + r * q, q * s))
    assert same(value(a - b, point), (p * s - r * q, q * s))
    assert same(value(-a, point), (-p, q))
    assert +a is a


@given(forms(), NUMBERS, POINTS)
def test_sums_differences_and_products_with_ints(a: Form, n: int, point: dict[str, int]):
    p, q = value(a, point)
    for result, expected in (
        (a + n, p + n * q),
        (n + a, p + n * q),
        (a - n, p - n * q),
        (n - a, n * q - p),
        (a * n, p * n),
        (n * a, p * n),
        (a << 7, p << 7),
    ):
        assert same(value(result, point), (expected, q))


@given(forms(), forms(), POINTS)
def test_a_form_is_in_lowest_terms_and_an_int_where_nothing_is_unknown(a: Form, b: Form, point: dict[str, int]):
    back = (a + b) - b
    assert type(back) is Form
    assert 0 not in (a + b - b).terms.values()
    assert same(value(back, point), value(a, point))
    assert type(Form({"x": 3}, 5) - Form({"x": 3}, 2)) is int
    whole = Form({"x": 10}, 20, 10) + 0 * b
    assert same(value(whole, point), (point["x"] + 2, 1))
    doubled = Form({"x": 1}, 1, 2) * 2
    assert (doubled.terms, doubled.const, doubled.den) == ({"x": 1}, 1, 1)


@given(forms(), POINTS)
def test_at_rounds_down(a: Form, point: dict[str, int]):
    p, q = value(a, point)
    assert a.at(point) == p // q
    with pytest.raises(KeyError):
        a.at({})


@given(forms(), forms())
def test_key_is_equal_for_equal_forms_only(a: Form, b: Form):
    turned = Form(dict(reversed(a.terms.items())), a.const, a.den)
    assert a.key() == turned.key()
    equal = a.terms == b.terms and (a.const, a.den) == (b.const, b.den)
    assert (a.key() == b.key()) == equal


@given(forms(), st.integers(-50, 50).filter(bool))
def test_primitive_is_the_same_for_all_multiples_and_shifts(a: Form, n: int):
    linear, g = primitive(a)
    assert {s: c * g for s, c in linear} == a.terms
    assert linear[0][1] > 0
    times, by = primitive(numerator(Form({s: c * n for s, c in a.terms.items()}, 77)))
    assert (times, by) == (linear, g * n)


FORM = Form({"x": 2}, 1)
NO_TIME = (operator.mod, operator.and_, operator.or_, operator.xor, operator.truediv)


@pytest.mark.parametrize(
    "wrong",
    [
        *(lambda f, op=op: op(f, 3) for op in (*NO_TIME, operator.pow)),
        *(lambda f, op=op: op(3, f) for op in (*NO_TIME, operator.floordiv)),
        *(lambda f, op=op: op(3, f) for op in (operator.lshift, operator.rshift)),
        int, float, abs, round, hash, operator.index, operator.invert, range,
        lambda f: {f: 1},
        lambda f: f * f,
        lambda f: f * 1.5,
        lambda f: f + 1.5,
        lambda f: f - "1",
        lambda f: f // 0,
        lambda f: f // -2,
        lambda f: f // f,
        lambda f: divmod(f, 2),
        lambda f: [1, 2][f],
        lambda f: f"{f:d}",
    ],
)  # fmt: skip
def test_what_is_no_affine_form_is_refused(wrong: Callable[[Form], Any]):
    with pytest.raises(TypeError), judged_by(Recorder({"x": (0, 10)})):
        wrong(FORM)


@pytest.mark.parametrize(
    "question",
    [
        lambda f: f < 3,
        lambda f: f == 3,
        bool,
        lambda f: f >> 1,
        lambda f: f // 2,
        lambda f: f.wrap_u64(),
        lambda f: max(f, 1),
    ],
)
def test_where_nobody_explores_a_form_is_not_judged(question: Callable[[Form], Any]):
    with pytest.raises(TypeError, match="nobody explores"):
        question(FORM)


def test_a_form_is_never_equal_to_what_is_no_number():
    with judged_by(Recorder({"x": (0, 10)})):
        assert (FORM == None) is False  # noqa: E711
        assert (FORM == "2*x+1") is False
        assert FORM != "2*x+1"


# ---- with a judge: intervals, floors, wraps and comparisons


class Recorder(Judge):
    """A judge of independent symbols; forks are answered as the values at `point` say, and written down."""

    def __init__(self, box: dict[str, tuple[int, int]], point: dict[str, int] | None = None) -> None:
        super().__init__(self, FloorNames())
        self.box.update(box)
        self.point = dict(point or {})
        self.forks: list[Sequence[Outcome]] = []

    def upper(self, x: str, y: str, exact: bool) -> int | None:
        return None

    def place(self, symbol: str) -> int:
        return SYMBOLS.index(symbol)

    def values(self) -> dict[str, int]:
        """Of all symbols: floors are what integers make of their arguments."""
        out = dict(self.point)
        for name, (argument, divisor) in self.floors.items():
            out[name] = value(argument, out)[0] // divisor
        return out

    def fork(self, outcomes: Sequence[Outcome]) -> Any:
        self.forks.append(outcomes)
        values = self.values()
        true = [label for label, rows in outcomes if all(value(row, values)[0] <= 0 for row in rows)]
        assert len(true) == 1, "the outcomes of a fork must exclude each other and leave nothing out"
        return true[0]


@st.composite
def boxed_points(draw: st.DrawFn) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    box, point = {}, {}
    for s in SYMBOLS:
        lo = draw(st.integers(-(1 << 40), 1 << 40))
        hi = lo + draw(st.one_of(st.integers(0, 20), st.integers(0, 1 << 41)))
        box[s], point[s] = (lo, hi), draw(st.integers(lo, hi))
    return box, point


@given(forms(), boxed_points())
def test_an_interval_contains_every_point(a: Form, where: tuple[Any, Any]):
    box, point = where
    lo, hi = Recorder(box).bounds(numerator(a))
    assert lo <= value(a, point)[0] <= hi


@given(forms(), st.one_of(st.integers(1, 40), st.integers(1, 1 << 40)), boxed_points())
def test_a_floor_is_the_floor_of_ints(a: Form, divisor: int, where: tuple[Any, Any]):
    box, point = where
    judge = Recorder(box, point)
    with judged_by(judge):
        floored = a // divisor
    p, q = value(a, point)
    assert value(floored, judge.values()) == (p // (q * divisor), 1)
    for name, (lo, hi) in judge.box.items():
        assert lo <= judge.values()[name] <= hi


@given(forms(), st.integers(0, 40), st.integers(0, 40), boxed_points())
def test_floors_of_floors(a: Form, first: int, second: int, where: tuple[Any, Any]):
    box, point = where
    judge = Recorder(box, point)
    p, q = value(a, point)
    with judged_by(judge):
        inner = a // 1 >> first
        outer = (inner * 5 + 3) >> second
    expected = (((p // q) >> first) * 5 + 3) >> second
    assert value(outer, judge.values()) == (expected, 1)


@given(forms(), st.integers(1, 1000), boxed_points())
def test_one_argument_has_one_name(a: Form, divisor: int, where: tuple[Any, Any]):
    judge = Recorder(where[0])
    with judged_by(judge):
        first, again, shifted = a // divisor, a // divisor, (a + 5 * divisor) // divisor
    assert again - first == 0
    assert type(shifted - first) is int
    assert shifted - first == 5


@given(
    forms(st.just(1)),
    boxed_points(),
    st.sampled_from((("wrap_u64", 0, 64), ("wrap_s64", -(1 << 63), 64), ("wrap_u32", 0, 32))),
)
def test_a_wrap_is_modulo(a: Form, where: tuple[Any, Any], wrap: tuple[str, int, int]):
    box, point = where
    name, lowest, bits = wrap
    # Symbols of 2^41 times coefficients of 2^70 would be a fork of millions: as wide as the models' values get.
    small = Form({s: c % 1000 + 1 for s, c in a.terms.items()}, a.const)
    judge = Recorder({s: (lo, min(hi, lo + 10**6)) for s, (lo, hi) in box.items()})
    judge.point = {s: min(v, box[s][0] + 10**6) for s, v in point.items()}
    with judged_by(judge):
        wrapped = getattr(small, name)()
    p = value(small, judge.point)[0]
    assert value(wrapped, judge.values()) == ((p - lowest) % (1 << bits) + lowest, 1)


@given(forms(), st.one_of(forms(), NUMBERS), boxed_points())
def test_comparisons_are_those_of_the_values(a: Form, b: Any, where: tuple[Any, Any]):
    box, point = where
    (p, q), (r, s) = value(a, point), value(b, point)
    difference = p * s - r * q
    for compare in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne):
        with judged_by(Recorder(box, point)):
            assert compare(a, b) == compare(difference, 0)


@given(forms(st.just(1)), boxed_points(), st.integers(-3, 3))
@example(Form({"x": 1}), ({"x": (0, 5)}, {"x": 1}), 0)  # just above
@example(Form({"x": 1}), ({"x": (0, 5)}, {"x": 0}), 0)
def test_what_is_settled_is_not_asked_again(a: Form, where: tuple[Any, Any], n: int):
    box, point = where
    judge = Recorder(box, point)
    with judged_by(judge):
        answer = a <= n
        asked = len(judge.forks)
        assert (a <= n) == answer
        assert (3 * a <= 3 * n) == answer
        assert (-a >= -n) == answer
    assert len(judge.forks) == asked


@given(
    st.integers(1, 50),
    st.integers(1, 20),
    st.integers(-30, 30),
    st.integers(0, 30),
    st.integers(-100, 100),
    st.integers(0, 30),
)
def test_two_floors_are_as_far_apart_as_their_arguments_let_them(
    factor: int, divisor: int, least: int, more: int, y: int, further: int
):
    """x - y lies in least..least + more, by the order of events: so floors of their multiples lie near each other."""

    class Ordered(Recorder):
        def upper(self, x: str, y: str, exact: bool) -> int | None:
            return {("x", "y"): least + more, ("y", "x"): -least}.get((x, y))

    judge = Ordered({"x": (-1000, 1000), "y": (-1000, 1000)}, {"x": y + least + min(further, more), "y": y})
    with judged_by(judge):
        of_x, of_y = Form({"x": factor}) // divisor, Form({"y": factor}) // divisor
    values = judge.values()
    apart = of_x - of_y
    actual = value(apart, values)[0]
    assert actual == judge.point["x"] * factor // divisor - judge.point["y"] * factor // divisor
    if type(apart) is Form:
        for lo, hi in (judge.bounds(apart), judge.narrowest(apart)):
            assert lo <= actual <= hi
