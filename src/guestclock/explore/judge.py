"""What is known of forms while one order is run: intervals, floors, facts. What is not known forks.

Answers come, in this order, from intervals, from what earlier comparisons have settled, from the order of events, and
last from a fork: every outcome that cannot be proved impossible becomes a run of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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

    def upper(self, x: Symbol, y: Symbol, exact: bool) -> int | None:
        """The most that time x can be after time y, by order (exact: by all bounds); None: unknown, or no bound."""
        ...

    def place(self, symbol: Symbol) -> int:
        """Where a time stands in the order of events, as it is run; -1 for what is no time."""
        ...

    def contradicted(self) -> None:
        """What is known of some form contradicts itself: no times allow this order."""
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
        self.context: Context = context
        self.names = names
        self.box: dict[Symbol, Interval] = {}
        self.floors: dict[Symbol, tuple[Form, int]] = {}
        self.facts: dict[Any, Interval] = {}
        self.branches: list[Form] = []
        self._exact = False
        self._places: dict[Symbol, int] = {}
        self._ranges: dict[tuple[Symbol, bool], Interval] = {}

    def of_events(self, events: Iterable[Any]) -> Judge:
        """What is known from these steps alone."""
        judge = Judge(self.context, self.names)
        judge.box, judge.floors = self.box, self.floors
        for event in events:
            for what, *told in event.lessons:
                if what == "settle":
                    judge.settle(*told)
        return judge

    # ---- bounds

    def narrowest(self, form: Form) -> Interval:
        """As bounds(), by everything that is known of times: dearer, for when the cheaper one has settled nothing."""
        self._exact = True
        try:
            return self.bounds(form)
        finally:
            self._exact = False

    def bounds(self, form: Form) -> Interval:
        """Whole numbers between which the form's value times its denominator lies."""
        if not form.terms:
            return form.const, form.const  # a fraction: what was unknown has cancelled
        lo, hi = self._interval(form, self._range)
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
        """Bounds by taking what is added together with what is subtracted: q3 - q0 + q6 is no less than 0 where q3
        comes after q0, which no linear program with columns of 2^40 can tell from -1.

        Each subtracted time goes with the nearest added one after it, as clocks that were read earlier usually are.
        """
        lo = hi = form.const
        waiting: dict[bool, list[tuple[Symbol, int]]] = {False: [], True: []}
        for symbol, c in sorted(form.terms.items(), key=lambda term: -self._place(term[0])):
            stack = waiting[symbol in self.floors]
            while c and (k := self._partner(stack, symbol, c)) is not None:
                other, d = stack[k]
                common = min(abs(c), abs(d))
                least, most = self.difference(other, symbol) if d > 0 else self.difference(symbol, other)
                if least is None:
                    least = self.box[other if d > 0 else symbol][0] - self.box[symbol if d > 0 else other][1]
                if most is None:
                    most = self.box[other if d > 0 else symbol][1] - self.box[symbol if d > 0 else other][0]
                lo += common * least
                hi += common * most
                c += common if c < 0 else -common
                d += common if d < 0 else -common
                if d:
                    stack[k] = other, d
                else:
                    del stack[k]
            if c:
                stack.append((symbol, c))
        for symbol, c in (*waiting[False], *waiting[True]):
            low, high = self._range(symbol)
            lo += c * (low if c > 0 else high)
            hi += c * (high if c > 0 else low)
        return lo, hi

    def _partner(self, stack: list[tuple[Symbol, int]], symbol: Symbol, c: int) -> int | None:
        """Who of those that wait goes with a symbol: the latest of the other sign; with a floor one of the same
        divisor, else of a multiple or a part of it.
        """
        floor = self.floors.get(symbol)
        also: int | None = None
        for k in range(len(stack) - 1, -1, -1):
            other, d = stack[k]
            if (d > 0) == (c > 0):
                continue
            if floor is None or self.floors[other][1] == floor[1]:
                return k
            if also is None and _divides(self.floors[other][1], floor[1]):
                also = k
        return also

    def _place(self, symbol: Symbol) -> int:
        """Where a symbol stands in the order of events: a floor where the latest time in its argument does."""
        known = self._places.get(symbol)
        if known is None:
            if symbol in self.floors:
                known = max((self._place(s) for s in self.floors[symbol][0].terms), default=-1)
            else:
                known = self.context.place(symbol)
            self._places[symbol] = known
        return known

    def difference(self, x: Symbol, y: Symbol) -> tuple[int | None, int | None]:
        """Bounds of x - y by the order of events, or because a floor never falls where its argument grows."""
        of_x, of_y = self.floors.get(x), self.floors.get(y)
        if of_x is None and of_y is None:
            least = self.context.upper(y, x, self._exact)
            return None if least is None else -least, self.context.upper(x, y, self._exact)
        if of_x is None or of_y is None or not _divides(of_x[1], of_y[1]):
            return None, None
        whole = max(of_x[1], of_y[1])  # floor(a / n) is floor(2 a / 2 n): a clocksource's shift may change by one
        apart: Value = of_x[0] * (whole // of_x[1]) - of_y[0] * (whole // of_y[1])
        lo, hi = (apart, apart) if type(apart) is int else self.bounds(apart)  # type: ignore[arg-type]
        return lo // whole, -(-hi // whole)

    def settle(self, form: Form, lo: int | None, hi: int | None) -> None:
        """Remembers lo <= form <= hi for every multiple and shift of it."""
        self._ranges.clear()
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
        for bounds in (self.bounds, self.narrowest):
            lo, hi = bounds(whole)
            if lo > hi:
                self.context.contradicted()
            if hi <= 0:
                return True
            if lo >= 1:
                return False
        yes: bool = self._fork([(True, (whole,)), (False, (1 - whole,))])
        self.settle(whole, None if yes else 1, 0 if yes else None)
        return yes

    def is_zero(self, form: Form) -> bool:
        whole = numerator(form)
        for bounds in (self.bounds, self.narrowest):
            lo, hi = bounds(whole)
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
        for bounds in (self.bounds, self.narrowest):
            lo, hi = bounds(form)
            first, last = (lo - lowest) // size, (hi - lowest) // size
            if first == last:
                return form - first * size if first else form
        if last < first:
            self.context.contradicted()
        outcomes: list[Outcome] = [
            (k, (lowest + k * size - form, form - (lowest + (k + 1) * size - 1)))
            # What is known may contradict itself, where no times allow this order: then any turn will do.
            for k in sorted(range(min(first, last), max(first, last) + 1), key=abs)
        ]
        turns = self._fork(outcomes)
        wrapped: Form = form - turns * size
        self.settle(wrapped, lowest, lowest + size - 1)
        return wrapped

    def floor(self, form: Form, divisor: int) -> Value:
        return self._floor(form, form.den * divisor)

    def _floor(self, form: Form, whole: int) -> Value:
        """Of what form has above its denominator, divided by `whole`."""
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
        inner = self._inner(argument) if _is_power_of_two(whole) else None
        if inner is not None:
            within, n = self.floors[inner]
            return out + self._floor(within + (argument - Form.of(inner)) * n, n * whole)
        name = self.names.name((whole, argument.key()))
        # By what its symbols can be at all: whoever meets it next may know less of the order than this step does. And
        # said again by whoever computes it: in another order this step may be the first.
        lo, hi = self._interval(argument, self.box.__getitem__)
        self.name_floor(name, argument, whole, (lo // whole, hi // whole))
        quotient: Value = Form.of(name) + out
        return quotient

    def _inner(self, argument: Form) -> Symbol | None:
        """A shift in a shift's argument that need not be there: floor((floor(x / n) + y) / m) is
        floor((x + n y) / (n m)). Not so of other divisions: of x - n floor(x / n) a program knows more than of n parts.
        """
        found = [symbol for symbol, c in argument.terms.items() if c == 1 and symbol in self.floors]
        return found[0] if len(found) == 1 and _is_power_of_two(self.floors[found[0]][1]) else None

    def _range(self, symbol: Symbol) -> Interval:
        """Where a symbol lies by all that is known here: a floor also where its argument does."""
        floor = self.floors.get(symbol)
        if floor is None:
            return self.box[symbol]
        known = self._ranges.get((symbol, self._exact))
        if known is None:
            lo, hi = self.bounds(floor[0])
            least, most = self.box[symbol]
            known = max(least, lo // floor[1]), min(most, hi // floor[1])
            self._ranges[symbol, self._exact] = known
        return known

    def range_of(self, symbol: Symbol) -> Interval:
        """The narrowest interval that is known of a floor."""
        self._exact = True
        try:
            return self._range(symbol)
        finally:
            self._exact = False

    def forget(self) -> None:
        """Ranges that were worked out hold until a fact is added or another step is looked from."""
        self._ranges.clear()

    def _interval(self, form: Form, of: Callable[[Symbol], Interval]) -> Interval:
        lo = hi = form.const
        for symbol, c in form.terms.items():
            low, high = of(symbol)
            lo += c * (low if c > 0 else high)
            hi += c * (high if c > 0 else low)
        return lo, hi

    def name_floor(self, name: Symbol, argument: Form, whole: int, box: Interval) -> None:
        self.floors[name] = argument, whole
        self.box[name] = box

    def _fork(self, outcomes: list[Outcome]) -> Any:
        label = self.context.fork(outcomes)
        self.branches += dict(outcomes)[label]
        return label


def _divides(one: int, other: int) -> bool:
    return one == other or max(one, other) % min(one, other) == 0


def _is_power_of_two(n: int) -> bool:
    return n & (n - 1) == 0


def _narrowed(lo: int, hi: int, known: tuple[int | None, int | None], g: int, const: int) -> Interval:
    """lo..hi of g * L + const, where L is known to lie between known[0] and known[1]."""
    least, most = known if g > 0 else (known[1], known[0])
    if least is not None and g * least + const > lo:
        lo = g * least + const
    if most is not None and g * most + const < hi:
        hi = g * most + const
    return lo, hi


Guard = Callable[[], bool]
