"""What is known of forms while one order is run: intervals, floors, facts. What is not known forks.

Answers come, in this order, from intervals, from what earlier comparisons have settled, from the order of events, and
last from a fork: every outcome that cannot be proved impossible becomes a run of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from guestclock.arith.affine import Form, Symbol, Value, numerator, primitive

Rows = tuple[Form, ...]
"""Whole-numbered forms, each of which is at most 0."""

Outcome = tuple[Any, Rows]
Interval = tuple[int, int]


class Undecidable(Exception):
    """A comparison of unknown times where no run may fork: inside a guard."""


class Context(Protocol):
    """The order that is being run."""

    def upper(self, x: Symbol, y: Symbol) -> int | None:
        """The most that time x can be after time y, by order and bounds; None: unknown symbols, or no bound."""
        ...

    def fork(self, outcomes: Sequence[Outcome]) -> Any:
        """The label of the outcome that this run takes."""
        ...


class FloorNames:
    """One name per truncation of one argument, the same in all orders of a search."""

    def __init__(self) -> None:
        self._names: dict[Any, Symbol] = {}

    def name(self, key: Any) -> Symbol:
        return self._names.setdefault(key, f"q{len(self._names)}")


class Judge:
    """Answers for the forms of one run. box: the interval of every symbol. floors: symbol -> (argument, divisor)."""

    def __init__(self, context: Context, names: FloorNames) -> None:
        self.context, self.names = context, names
        self.box: dict[Symbol, Interval] = {}
        self.floors: dict[Symbol, tuple[Form, int]] = {}
        self.facts: dict[Any, Interval] = {}
        self.branches: list[Form] = []

    # ---- bounds

    def bounds(self, form: Form) -> Interval:
        """Whole numbers between which the form's value times its denominator lies."""
        lo = hi = form.const
        box = self.box
        for symbol, c in form.terms.items():
            low, high = box[symbol]
            if c > 0:
                lo += c * low
                hi += c * high
            else:
                lo += c * high
                hi += c * low
        key, g = primitive(form)
        fact = self.facts.get(key)
        if fact is not None:
            lo, hi = _narrowed(lo, hi, fact, g, form.const)
        if len(key) == 2 and key[0][1] == 1 and key[1][1] == -1:
            lo, hi = _narrowed(lo, hi, self.difference(key[0][0], key[1][0]), g, form.const)
        elif len(key) > 2:
            paired = self._paired(form)
            lo, hi = (lo if lo > paired[0] else paired[0]), (hi if hi < paired[1] else paired[1])
        return lo, hi

    def _paired(self, form: Form) -> Interval:
        """Bounds by taking what is added together with what is subtracted, newest first: q3 - q0 + q6 is no less than 0
        where q3 comes after q0, which no linear program with columns of 2^40 can tell from -1 (engine-spike trap 3).
        """
        rest = dict(form.terms)
        lo = hi = form.const
        for x in sorted(form.terms, reverse=True):
            for y in sorted(form.terms, reverse=True):
                a, b = rest.get(x, 0), rest.get(y, 0)
                if a > 0 > b and (x in self.floors) == (y in self.floors):
                    least, most = self.difference(x, y)
                    if least is None or most is None:
                        continue
                    common = a if a < -b else -b
                    lo += common * least
                    hi += common * most
                    rest[x], rest[y] = a - common, b + common
        for symbol, c in rest.items():
            low, high = self.box[symbol]
            lo += c * (low if c > 0 else high)
            hi += c * (high if c > 0 else low)
        return lo, hi

    def difference(self, x: Symbol, y: Symbol) -> tuple[int | None, int | None]:
        """Bounds of x - y by the order of events, or because a floor never falls where its argument grows."""
        of_x, of_y = self.floors.get(x), self.floors.get(y)
        if of_x is None and of_y is None:
            least = self.context.upper(y, x)
            return None if least is None else -least, self.context.upper(x, y)
        if of_x is None or of_y is None or of_x[1] != of_y[1]:
            return None, None
        apart: Value = of_x[0] - of_y[0]
        lo, hi = (apart, apart) if type(apart) is int else self.bounds(apart)  # type: ignore[arg-type]
        return lo // of_x[1], -(-hi // of_x[1])

    def settle(self, form: Form, lo: int | None, hi: int | None) -> None:
        """Remembers lo <= form <= hi for every multiple and shift of it."""
        key, g = primitive(form)
        if g < 0:
            lo, hi = hi, lo
        least = None if lo is None else -((form.const - lo) // g)
        most = None if hi is None else (hi - form.const) // g
        known = self.facts.get(key, (None, None))
        self.facts[key] = (  # type: ignore[assignment]
            least if known[0] is None or (least is not None and least > known[0]) else known[0],
            most if known[1] is None or (most is not None and most < known[1]) else known[1],
        )

    # ---- the questions of guestclock.arith.affine

    def at_most_zero(self, form: Form) -> bool:
        whole = numerator(form)
        lo, hi = self.bounds(whole)
        if hi <= 0:
            return True
        if lo >= 1:
            return False
        yes: bool = self._fork([(True, (whole,)), (False, (1 - whole,))])
        self.settle(whole, None if yes else 1, 0 if yes else None)
        return yes

    def is_zero(self, form: Form) -> bool:
        whole = numerator(form)
        lo, hi = self.bounds(whole)
        if lo > 0 or hi < 0:
            return False
        if lo == hi == 0:
            return True
        label = self._fork([("less", (whole + 1,)), ("more", (1 - whole,)), ("equal", (whole, -whole))])
        self.settle(whole, *{"less": (None, -1), "more": (1, None), "equal": (0, 0)}[label])
        return bool(label == "equal")

    def wrap(self, form: Form, lowest: int, bits: int) -> Value:
        if form.den != 1:
            raise TypeError("only whole numbers wrap")
        size = 1 << bits
        lo, hi = self.bounds(form)
        first, last = (lo - lowest) // size, (hi - lowest) // size
        if first == last:
            return form - first * size if first else form
        outcomes = [
            (k, (lowest + k * size - form, form - (lowest + (k + 1) * size - 1)))
            for k in sorted(range(first, last + 1), key=abs)
        ]
        turns = self._fork(outcomes)
        wrapped: Form = form - turns * size
        self.settle(wrapped, lowest, lowest + size - 1)
        return wrapped

    def floor(self, form: Form, divisor: int) -> Value:
        whole = form.den * divisor
        out: Value = form.const // whole
        rest: dict[Symbol, int] = {}
        for symbol, c in form.terms.items():
            turns = c // whole if c > 0 else -(-c // whole)
            if turns:
                out = Form({symbol: turns}) + out
            if c != turns * whole:
                rest[symbol] = c - turns * whole
        if not rest:
            return out
        argument = Form(rest, form.const % whole)
        lo, hi = self.bounds(argument)
        if lo // whole == hi // whole:
            return out + lo // whole
        name = self.names.name((whole, argument.key()))
        if name not in self.floors:
            self.name_floor(name, argument, whole, (lo // whole, hi // whole))
        return Form.of(name) + out

    def name_floor(self, name: Symbol, argument: Form, whole: int, box: Interval) -> None:
        self.floors[name] = argument, whole
        self.box[name] = box

    def _fork(self, outcomes: list[Outcome]) -> Any:
        label = self.context.fork(outcomes)
        self.branches += dict(outcomes)[label]
        return label


def _narrowed(
    lo: int, hi: int, known: tuple[int | None, int | None], g: int, const: int
) -> Interval:
    """lo..hi of g * L + const, where L is known to lie between known[0] and known[1]."""
    least, most = known if g > 0 else (known[1], known[0])
    if least is not None and g * least + const > lo:
        lo = g * least + const
    if most is not None and g * most + const < hi:
        hi = g * most + const
    return lo, hi


Guard = Callable[[], bool]
