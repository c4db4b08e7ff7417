"""Verdicts as text: the worst first, then the bounds they rest on; several kernels side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from guestclock.checks.verdict import HOLDS, UNDECIDED, VACUOUS, VIOLATED, Result, Verdict
from guestclock.report.check_words import ORDER, SHOWN, STYLES, bounds, cell, cost, told
from guestclock.report.numbers import folded

Line = tuple[str, str]
"""Text, and rich's style for it."""


def ordered(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return sorted(verdicts, key=lambda v: ORDER.index(v.status))


def verdict_lines(result: Result, width: int) -> Iterator[Line]:
    """A line per verdict; those with nothing to say about share one."""
    verdicts = ordered(result.verdicts)
    left = max((len(v.property) for v in verdicts), default=0)
    for verdict in verdicts:
        if verdict.status == HOLDS and told(verdict, result.spec) == "exactly":
            continue
        if verdict.status != VACUOUS:
            head = f"{SHOWN[verdict.status]:<10}{verdict.property:<{left}}  "
            yield from hanging(head, told(verdict, result.spec), width, STYLES[verdict.status])
    for status, why in ((HOLDS, "exactly"), (VACUOUS, None)):
        alike = [v for v in verdicts if v.status == status and why in (None, told(v, result.spec))]
        if alike:
            names = ", ".join(v.property for v in alike)
            yield from hanging(f"{SHOWN[status]:<10}", names, width, STYLES[status])
    yield from hanging("bounds: ", bounds(result), width, "")
    yield from hanging("search: ", cost(result), width, "dim")


def side_by_side(named: Sequence[tuple[str, Result]], width: int) -> Iterator[Line]:
    """A row per property, a column per kernel; as many columns beside each other as fit."""
    properties = list(dict.fromkeys(v.property for _, result in named for v in result.verdicts))
    left = max(map(len, properties), default=0) + 2
    found = [(name, {v.property: cell(v, r.spec) for v in r.verdicts}, r) for name, r in named]
    widths = [max([len(name), *map(len, cells.values())]) + 2 for name, cells, _ in found]
    start = 0
    while start < len(found):
        end, used = start, left
        while end < len(found) and (end == start or used + widths[end] <= width):
            used += widths[end]
            end += 1
        if start:
            yield "", ""
        head = "".join(f"{name:<{w}}" for (name, _, _), w in zip(found[start:end], widths[start:end], strict=True))
        yield f"{'':<{left}}{head}".rstrip(), "bold"
        for name in properties:
            row = "".join(
                f"{cells.get(name, ''):<{w}}"
                for (_, cells, _), w in zip(found[start:end], widths[start:end], strict=True)
            )
            statuses = {v.status for _, _, r in found[start:end] for v in r.verdicts if v.property == name}
            style = next((STYLES[s] for s in (VIOLATED, UNDECIDED) if s in statuses), "")
            yield f"{name:<{left}}{row}".rstrip(), style
        start = end


def hanging(first: str, text: str, width: int, style: str = "") -> Iterator[Line]:
    """`text` in lines of at most `width`, indented under its own beginning."""
    for number, line in enumerate(folded(text, max(width - len(first), 20))):
        yield (first if number == 0 else " " * len(first)) + line, style


def as_text(lines: Iterator[Line]) -> Iterator[Text]:
    for line, style in lines:
        yield Text(line.rstrip(), style=style, no_wrap=True, overflow="ignore")
