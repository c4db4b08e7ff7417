"""Numbers as they are read: digits in threes, a sign where it matters, exact to the last one."""

from __future__ import annotations

import re

from guestclock.check import Span

MINUS = "−"
NS_PER_S = 10**9

_INSIDE_NUMBER = re.compile(r"(?<=\d) (?=\d{3}(?!\d)|(?:ns|µs|ms|s|min|h|kHz|cycles)\b)|(?<=±) | (?=±)")


def counted(value: int, unit: str) -> str:
    """A number of things, whose name is given in the plural unless it is an SI unit: 1 sleep, 2 sleeps, 1 ns."""
    if value == 1 and len(unit) > 2 and unit.endswith("s"):
        unit = unit.removesuffix("ies") + "y" if unit.endswith("ies") else unit.removesuffix("s")
    return f"{grouped(value)} {unit}"


def grouped(value: int) -> str:
    """12 980 662 000, in groups of three from the right; a true minus sign."""
    return (MINUS if value < 0 else "") + f"{abs(value):,}".replace(",", " ")


def signed(value: int) -> str:
    return ("+" if value > 0 else "") + grouped(value)


def duration(ns: int) -> str:
    """An exact duration: 4 987 ns, 1.234 567 ms, 5.000 s; zeros after the third decimal are left out."""
    size = abs(ns)
    if size < 1_000_000:
        return f"{grouped(ns)} ns"
    unit, name = (NS_PER_S, "s") if size >= NS_PER_S else (1_000_000, "ms")
    return f"{MINUS if ns < 0 else ''}{grouped(size // unit)}.{_decimals(size % unit, unit)} {name}"


def signed_duration(ns: int) -> str:
    return ("+" if ns > 0 else "") + duration(ns)


def short_duration(ns: int) -> str:
    """To three decimals, rounded: +1.100 s, −0.200 s, +12.345 ms. For tables; the exact value stands elsewhere."""
    size, sign = abs(ns), "+" if ns > 0 else MINUS if ns < 0 else ""
    for unit, name, least in ((NS_PER_S, "s", 100), (1_000_000, "ms", 1000), (1_000, "µs", 1000)):
        thousandths = (size * 1000 + unit // 2) // unit
        if thousandths >= least:
            return f"{sign}{grouped(thousandths // 1000)}.{thousandths % 1000:03} {name}"
    return f"{sign}{size} ns"


def clock_value(ns: int) -> str:
    """A clock's reading in seconds with all nine decimals: 3 605.000 004 987."""
    return f"{MINUS if ns < 0 else ''}{grouped(abs(ns) // NS_PER_S)}.{_in_threes(f'{abs(ns) % NS_PER_S:09}')}"


def signed_span(span: Span) -> str:
    """A signed duration with half of what a reading leaves open: −1 944 ± 7 913 ns."""
    value, half = signed_duration(span.middle), duration(-(-span.width // 2))
    if span.width == 0:
        return value
    number, _, unit = value.rpartition(" ")
    return f"{number} ± {half}" if half.endswith(f" {unit}") else f"{value} ± {half}"


def spread(span: Span) -> str:
    """Half of what a reading leaves open, as " ± 300 ns"; nothing for an exact value."""
    return f" ± {duration(-(-span.width // 2))}" if span.width else ""


def folded(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width`, never broken inside a number or between it and its unit."""
    atoms = _INSIDE_NUMBER.sub("\0", text).split(" ")
    lines = [atoms[0]]
    for atom in atoms[1:]:
        if len(lines[-1]) + 1 + len(atom) <= width:
            lines[-1] += f" {atom}"
        else:
            lines.append(atom)
    return [line.replace("\0", " ") for line in lines]


def _decimals(rest: int, unit: int) -> str:
    digits = f"{rest:0{len(str(unit)) - 1}}"
    while len(digits) > 3 and digits.endswith("000"):
        digits = digits[:-3]
    return _in_threes(digits)


def _in_threes(digits: str) -> str:
    return " ".join(digits[i : i + 3] for i in range(0, len(digits), 3))
