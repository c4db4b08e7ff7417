"""Affine forms over unknown integers: the second number system, in which one run stands for all timings at once.

A form is (constant + sum of coefficient * symbol) / den, all integers. What the kernel does to a time is done to a form
exactly: sums, products with concrete ints, shifts. Truncation, wrap and comparison need to know more than the form, so
they ask a `Judge`: whoever explores has installed one (`judged_by`). Nothing here imports the explorer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import gcd, lcm
from typing import Any, Protocol

Symbol = str
"""The name of an unknown integer: a time of an event, the result of a floor, a value that was given from outside."""

Key = tuple[tuple[tuple[Symbol, int], ...], int, int]


class Judge(Protocol):
    """Answers what a form alone cannot."""

    def at_most_zero(self, form: Form) -> bool: ...
    def is_zero(self, form: Form) -> bool: ...
    def floor(self, form: Form, divisor: int) -> Form | int: ...
    def wrap(self, form: Form, lowest: int, bits: int) -> Form | int: ...


_judge: Judge | None = None


@contextmanager
def judged_by(judge: Judge) -> Iterator[None]:
    """Truncations, wraps and comparisons of forms inside are `judge`'s."""
    global _judge
    before, _judge = _judge, judge
    try:
        yield
    finally:
        _judge = before


def _asked() -> Judge:
    if _judge is None:
        raise TypeError("a form was truncated or compared where nobody explores")
    return _judge


class Form:
    """An integer that is not known: (const + sum of terms) / den. Never changed after it was made.

    terms: symbol -> coefficient, none of them 0. den: 1 or more. Where den is 1 the value is a whole number whatever
    the symbols are; true time in ps is the one quantity that is not.
    Only what a time can do is there: `%`, `&`, `/`, int(), hash(), a product of two forms raise TypeError.
    """

    __slots__ = ("const", "den", "terms")

    def __init__(self, terms: dict[Symbol, int], const: int = 0, den: int = 1) -> None:
        self.terms, self.const, self.den = terms, const, den

    @classmethod
    def of(cls, symbol: Symbol) -> Form:
        return cls({symbol: 1})

    # ---- exact arithmetic

    def _plus(self, other: Any, sign: int) -> Any:
        if type(other) is int or type(other) is bool:
            return Form(self.terms, self.const + sign * other * self.den, self.den) if other else self
        if type(other) is not Form:
            return NotImplemented
        den, factor, times = self.den, 1, sign
        if den != other.den:
            den = lcm(self.den, other.den)
            factor, times = den // self.den, sign * (den // other.den)
        terms = dict(self.terms) if factor == 1 else {s: c * factor for s, c in self.terms.items()}
        for symbol, coefficient in other.terms.items():
            total = terms.get(symbol, 0) + coefficient * times
            if total:
                terms[symbol] = total
            else:
                del terms[symbol]
        const = self.const * factor + other.const * times
        return _lowest(terms, const, den)

    def __add__(self, other: Any) -> Any:
        return self._plus(other, 1)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Any:
        return self._plus(other, -1)

    def __rsub__(self, other: Any) -> Any:
        return self.__neg__()._plus(other, 1)

    def __neg__(self) -> Form:
        return Form({s: -c for s, c in self.terms.items()}, -self.const, self.den)

    def __pos__(self) -> Form:
        return self

    def __mul__(self, factor: Any) -> Any:
        if type(factor) is not int:
            if type(factor) is Form:
                raise TypeError("a product of two unknown times is no affine form")
            return NotImplemented
        if factor == 1:
            return self
        if factor == 0:
            return 0
        return _lowest({s: c * factor for s, c in self.terms.items()}, self.const * factor, self.den)

    __rmul__ = __mul__

    def __lshift__(self, bits: int) -> Any:
        return self * (1 << bits)

    # ---- what must be asked for

    def __rshift__(self, bits: int) -> Any:
        return _asked().floor(self, 1 << bits) if bits else self

    def __floordiv__(self, divisor: Any) -> Any:
        if type(divisor) is not int:
            raise TypeError("division of a time by something that is no concrete int")
        if divisor <= 0:
            raise TypeError(f"division of a time by {divisor}, expected a positive int")
        return _asked().floor(self, divisor)

    def wrap_u64(self) -> Any:
        return _asked().wrap(self, 0, 64)

    def wrap_s64(self) -> Any:
        return _asked().wrap(self, -(1 << 63), 64)

    def wrap_u32(self) -> Any:
        return _asked().wrap(self, 0, 32)

    def wrap_s32(self) -> Any:
        return _asked().wrap(self, -(1 << 31), 32)

    def __le__(self, other: Any) -> bool:
        return _at_most_zero(self - other)

    def __lt__(self, other: Any) -> bool:
        return _at_most_zero(_least_more(self - other))

    def __ge__(self, other: Any) -> bool:
        return _at_most_zero(other - self)

    def __gt__(self, other: Any) -> bool:
        return _at_most_zero(_least_more(other - self))

    def __eq__(self, other: Any) -> bool:
        if type(other) is not Form and type(other) is not int:
            return False
        difference = self - other
        return _asked().is_zero(difference) if type(difference) is Form else difference == 0

    def __ne__(self, other: Any) -> bool:
        return not self == other

    def __bool__(self) -> bool:
        return self != 0

    # A form must not become a key, an index or a float: the model would depend on what is not known.
    __hash__ = None  # type: ignore[assignment]

    def _not_for_times(self, *_: Any) -> Any:
        raise TypeError("only + - * << >> // by concrete ints and comparisons are possible with an unknown time")

    __mod__ = __rmod__ = __and__ = __rand__ = __or__ = __ror__ = __xor__ = __truediv__ = __rtruediv__ = _not_for_times
    __rfloordiv__ = __divmod__ = __pow__ = __rlshift__ = __rrshift__ = __abs__ = __round__ = _not_for_times
    __int__ = __index__ = __float__ = __invert__ = _not_for_times

    # ---- for whoever explores

    def key(self) -> Key:
        """Equal for equal forms."""
        return tuple(sorted(self.terms.items())), self.const, self.den

    def at(self, values: dict[Symbol, int]) -> int:
        """Its value, rounded down, where every symbol has one. Raises KeyError for a symbol without."""
        return (self.const + sum(c * values[s] for s, c in self.terms.items())) // self.den

    def __repr__(self) -> str:
        shown = " ".join(f"{c:+d}*{s}" if abs(c) != 1 else f"{'+' if c > 0 else '-'}{s}" for s, c in self.terms.items())
        return f"({shown} {self.const:+d})" + (f"/{self.den}" if self.den != 1 else "")

    def __format__(self, spec: str) -> str:
        raise TypeError("an unknown time has no digits to print")

    __str__ = __repr__


Value = Form | int


def _lowest(terms: dict[Symbol, int], const: int, den: int) -> Value:
    if den != 1:
        common = gcd(den, const, *terms.values())
        if common != 1:
            den //= common
            const //= common
            terms = {s: c // common for s, c in terms.items()}
    if not terms and den == 1:
        return const
    return Form(terms, const, den)


def _least_more(difference: Any) -> Any:
    """`x < 0` as `this <= 0`: strict for whole numbers, and for den > 1 in steps of 1/den."""
    if type(difference) is Form:
        return Form(difference.terms, difference.const + 1, difference.den)
    return difference + 1


def _at_most_zero(difference: Any) -> bool:
    if type(difference) is Form:
        return _asked().at_most_zero(difference)
    return bool(difference <= 0)


def numerator(form: Form) -> Form:
    """The form times its denominator: a whole number, with the same sign."""
    return form if form.den == 1 else Form(form.terms, form.const)


def primitive(form: Form) -> tuple[tuple[tuple[Symbol, int], ...], int]:
    """(L, g): the terms are g times L, where L has coprime coefficients and a positive first one."""
    items = sorted(form.terms.items())
    common = gcd(*form.terms.values())
    if items[0][1] < 0:
        common = -common
    return tuple((symbol, c // common) for symbol, c in items), common
