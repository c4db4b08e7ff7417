"""Whether a real kernel, the model and the checker agree, as tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from guestclock.check import Span
from guestclock.judges.scenario import Judged, Row
from guestclock.judges.shown import Shown
from guestclock.judges.window import Edge
from guestclock.report.numbers import grouped, signed_span
from guestclock.report.table import hanging

FORMAT = 1
SHOWN = 5

AGREE = "AGREE"
DIFFER = "DISAGREE"


def judged_page(console: Console, judged: Judged) -> None:
    """One variation of a scenario: verdict first, then what breaks and by how much."""
    varied = f" ({judged.varied})" if judged.varied else ""
    _verdict(console, judged.agree, f"{judged.scenario}{varied} on {judged.where}, model and check {judged.profile}")
    for text in judged.differences[:SHOWN]:
        _hanging(console, "  traces differ: ", text)
    more = len(judged.differences) - SHOWN
    if more > 0:
        console.print(f"  and {more} more")
    equal = f"{grouped(judged.exact)} values equal to the last bit, {grouped(judged.close)} within their sandwich"
    _hanging(console, "  traces: ", equal)
    if judged.rows:
        console.print(_table(judged))
    if judged.shown:
        console.print(_shown(judged.shown))
    for name, why in [(row.property, row.why) for row in judged.rows] + [(s.clock, s.why) for s in judged.shown]:
        if why:
            _hanging(console, f"  {name}: ", why)
    if judged.refused:
        _hanging(console, "  refused by both: ", "; ".join(judged.refused))
    if judged.holds:
        _hanging(console, "  hold by all three: ", ", ".join(judged.holds))
    if judged.could:
        _hanging(console, "  did not break here, can by check: ", ", ".join(judged.could))
    console.print()


def edges_page(console: Console, edges: Iterable[Edge], agree: bool) -> None:
    """The window within which two writes of a TSC value are one: where each judge finds its edge."""
    edges = list(edges)
    _verdict(console, agree, "two writes of one TSC value: up to which time between them they are one")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("judge")
    table.add_column("the edge lies in, ns", justify="right")
    for edge in edges:
        table.add_row(edge.judge, _span(edge.ns))
    console.print(table)


def document(judged: Iterable[Judged], windows: Iterable[tuple[list[Edge], bool]]) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "guestclock_agree": FORMAT,
        "scenarios": [{"agree": one.agree, **_plain(asdict(one))} for one in judged],
        "windows": [{"agree": agree, "edges": [_plain(asdict(edge)) for edge in edges]} for edges, agree in windows],
    }


def write(judged: Iterable[Judged], windows: Iterable[tuple[list[Edge], bool]], out: TextIO) -> None:
    json.dump(document(judged, windows), out, indent=2)
    out.write("\n")


# ---- parts


def _verdict(console: Console, agree: bool, what: str) -> None:
    style = "bold green" if agree else "bold red"
    console.print(Text.assemble((f"{AGREE if agree else DIFFER}  ", style), (what, "bold")), soft_wrap=True)


def _table(judged: Judged) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    seen = any(row.seen is not None for row in judged.rows)
    table.add_column("breaks", min_width=max(len(row.property) for row in judged.rows))
    table.add_column("in step")
    for name in ("kernel", "model", *(["the guest's own reads"] if seen else []), "unit"):
        table.add_column(name, justify="left" if name == "unit" else "right")
    table.add_column("check")
    for row in judged.rows:
        steps = ", ".join(str(step + 1) for step in row.steps)
        amounts = [_amount(span) for span in (row.kernel, row.model, *([row.seen] if seen else []))]
        table.add_row(row.property, steps, *amounts, row.unit, _checked(row), style="red" if row.why else "")
    return table


def _shown(rows: list[Shown]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("less true time")
    for name in ("in step", "kernel", "model"):
        table.add_column(name, justify="right")
    for row in rows:
        amounts = [signed_span(span) for span in (row.kernel, row.model)]
        table.add_row(row.clock, str(row.step + 1), *amounts, style="red" if row.why else "")
    return table


def _checked(row: Row) -> str:
    if row.bound is None:
        return row.check
    return f"{row.check}, at most {grouped(row.bound)}" if row.bound else row.check


def _amount(span: Span | None) -> str:
    """The middle of a span, and half of what it leaves open."""
    if span is None:
        return ""
    return grouped(span.middle) + (f" ± {grouped(-(-span.width // 2))}" if span.width else "")


def _span(span: Span) -> str:
    return grouped(span.lo) if span.width == 0 else f"{grouped(span.lo)} .. {grouped(span.hi)}"


def _hanging(console: Console, first: str, text: str) -> None:
    for line in hanging(first, text, console.width):
        console.print(line, soft_wrap=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(of) for key, of in value.items()}
    return [_plain(of) for of in value] if isinstance(value, list | tuple) else value
