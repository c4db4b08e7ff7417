"""What a scenario may write where a number is wanted: "5 s", 123, "$saved + 1 s - 400", "max($tsc)".

A quantity is a sum of terms. Durations carry their unit and are exact (decimals, no floats); bare integers are cycles
(ticks on arm64); names are values that earlier steps saved, or that `[vary]` gives.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from fractions import Fraction

NS_PER_UNIT = {
    "ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "min": 60 * 10**9, "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}  # fmt: skip

Value = int | str | bool
Vary = Mapping[str, Value]

TOKEN = re.compile(
    r"""\s*(?:
      (?P<duration>\d[\d_]*(?:\.\d+)?\s*(?P<unit>ns|us|µs|ms|s|min|h|d)\b)
    | (?P<int>0x[0-9a-fA-F]+|\d[\d_]*)(?:\s*(?:cycles|ticks)\b)?(?![\w.])
    | max\(\s*\$(?P<max>[A-Za-z_]\w*)\s*\)
    | \$(?P<name>[A-Za-z_]\w*(?:\.\w+)?)
    | (?P<sign>[+-])
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Term:
    """One addend. kind: "int" (cycles, ticks), "ns", "name" (a saved value) or "max" (the highest of one per vCPU)."""

    kind: str
    value: int | str
    factor: int = 1


class Quantity:
    """A sum of terms, and how it was written (with `[vary]` names filled in)."""

    __slots__ = ("terms", "text")

    WANTED = "a number like 400, a duration like '5 s' or a sum like '$saved + 1 s - 400'"
    HOLDS = frozenset({"int", "ns", "name", "max"})

    def __init__(self, terms: tuple[Term, ...], text: str) -> None:
        self.terms, self.text = terms, text

    @classmethod
    def parse(cls, written: object, vary: Vary) -> Quantity:
        """Raises ValueError with what was expected instead of `written`."""
        if isinstance(written, bool) or not isinstance(written, int | str):
            raise ValueError(f"expected {cls.WANTED}, got {_told(written)}")
        text = str(written).strip()
        quantity = cls(tuple(_terms(text, vary, cls.WANTED)), fill_in(text, vary))
        for term in quantity.terms:
            if term.kind not in cls.HOLDS:
                raise ValueError(cls.refuse(term, text, vary))
        quantity.check()
        return quantity

    @classmethod
    def refuse(cls, term: Term, text: str, vary: Vary) -> str:
        if term.kind == "int":
            return f"{text!r} has no unit, expected {cls.WANTED}"
        if term.kind == "name":
            return f"{text!r}: '${term.value}' is not in [vary]{did_you_mean(f'${term.value}', dollars(vary))}"
        return f"{text!r}: expected {cls.WANTED}"

    def check(self) -> None:
        pass

    @property
    def literal(self) -> int:
        """The sum of a quantity without saved values."""
        return sum(t.value * t.factor for t in self.terms if isinstance(t.value, int))

    def __str__(self) -> str:
        return self.text


class Cycles(Quantity):
    """A counter's value or offset: durations count as cycles of vCPU 0's TSC, or as ticks of the counter."""

    __slots__ = ()


class Nanoseconds(Quantity):
    """A clock's value: durations and saved clock readings."""

    __slots__ = ()
    WANTED = "a duration like '5 s' or a saved clock like '$clock + 1 s'"
    HOLDS = frozenset({"ns", "name", "max"})


class Duration(Quantity):
    """How long something takes; not negative, and known before the run."""

    __slots__ = ()
    WANTED = "a duration like '300 ms'"
    HOLDS = frozenset({"ns"})
    MOST_DAYS = 1000
    """KVM's works run every 300 s: a million periods would keep a run for minutes, and nobody has asked."""

    def check(self) -> None:
        if self.literal < 0:
            raise ValueError(f"{self.text!r} is negative, expected {self.WANTED}")
        if self.literal > self.MOST_DAYS * NS_PER_UNIT["d"]:
            raise ValueError(f"{self.text!r} is too long, expected at most {self.MOST_DAYS} d")


class Step(Quantity):
    """How far a clock is moved at once, forward or back."""

    __slots__ = ()
    WANTED = "a duration like '2 s' or '-300 ms'"
    HOLDS = frozenset({"ns"})


class Number(Quantity):
    """The contents of a register: integers and saved values."""

    __slots__ = ()
    WANTED = "an integer or a saved value like '$saved + 1'"
    HOLDS = frozenset({"int", "name"})


def _terms(text: str, vary: Vary, wanted: str) -> Iterator[Term]:
    """Signs and terms in turn; several signs before one term multiply (`- -1 s` is 1 s)."""
    position, sign, due = 0, 1, True
    while position < len(text):
        token = TOKEN.match(text, position)
        if token is None or (token["sign"] is None and not due):
            raise ValueError(f"{text!r}: expected {wanted}")
        position = token.end()
        if token["sign"] is not None:
            sign, due = (sign if due else 1) * (-1 if token["sign"] == "-" else 1), True
            continue
        for term in _term(token, vary, wanted):
            yield Term(term.kind, term.value, term.factor * sign)
        sign, due = 1, False
    if due:
        raise ValueError(f"{text!r}: expected {wanted}")


def _term(token: re.Match[str], vary: Vary, wanted: str) -> Iterator[Term]:
    if token["duration"] is not None:
        yield Term("ns", duration_ns(token["duration"], token["unit"]))
    elif token["int"] is not None:
        yield Term("int", int(token["int"], 0 if token["int"].startswith("0x") else 10))
    elif token["max"] is not None:
        yield Term("max", token["max"])
    elif token["name"] in vary:
        yield from _terms(str(vary[token["name"]]), {}, wanted)
    else:
        yield Term("name", token["name"])


def duration_ns(text: str, unit: str) -> int:
    """ "4.9 s" is 4 900 000 000; a part of a nanosecond is an error."""
    number = Fraction(text[: -len(unit)].strip().replace("_", "")) * NS_PER_UNIT[unit]
    if number.denominator != 1:
        raise ValueError(f"{text!r} is finer than 1 ns")
    return number.numerator


def fill_in(text: str, vary: Vary) -> str:
    """The text with `[vary]` names replaced by what they stand for in this variation."""
    return re.sub(r"\$([A-Za-z_]\w*)", lambda m: str(vary.get(m[1], m[0])), text)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " (did you mean 'x'?)", or nothing where no known word is near."""
    near = get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def dollars(names: Iterable[str]) -> list[str]:
    return [f"${name}" for name in names]


def _told(value: object) -> str:
    kinds = {bool: "true or false", float: "a fraction without a unit", list: "a list", dict: "a table"}
    return kinds.get(type(value), repr(value))
