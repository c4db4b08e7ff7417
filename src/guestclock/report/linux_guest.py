"""A Linux guest's clocks over QEMU's operations: what they gained beside what they were to gain, as text and JSON."""

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
from guestclock.judges.linux_guest import Judged, Operation, Row
from guestclock.report.agree import AGREE, DIFFER
from guestclock.report.numbers import duration, grouped, short_duration
from guestclock.report.table import hanging

FORMAT = 1

READ = (
    "gained: from the guest's last reading before to its first one after. predicted: by QEMU's recipe on the model, "
    "played when QEMU made its calls, or by a sleep of its host's; as wide as those calls and the readings leave it "
    "open. had it run, had it stood: what the clock would have gained more or less than it did, had it counted on "
    "through what the guest missed, or not."
)


def page(console: Console, judged: Judged) -> None:
    """The verdict first, then a table for each operation."""
    style = "bold green" if judged.agrees else "bold red"
    what = f"QEMU on {judged.where} with Linux {judged.guest} on {judged.clocksource}, model {judged.profile}"
    verdict = AGREE if judged.agrees else DIFFER
    console.print(Text.assemble((f"{verdict}  ", style), (what, "bold")), soft_wrap=True)
    for difference in judged.differences:
        console.print(f"  not as in the recipe: {difference}", soft_wrap=True)
    for operation in judged.operations:
        _operation(console, operation)
    console.print()


def legend(console: Console) -> None:
    """What the tables' words mean."""
    for line in hanging("", READ, console.width):
        console.print(line, soft_wrap=True)


def document(judged: Iterable[Judged]) -> dict[str, Any]:
    """The same as JSON values; spans are {"lo", "hi"}."""
    return {"guestclock_linux_guest": FORMAT, "guests": [_guest(one) for one in judged]}


def write(judged: Iterable[Judged], out: TextIO) -> None:
    json.dump(document(judged), out, indent=2)
    out.write("\n")


def _guest(judged: Judged) -> dict[str, Any]:
    told = {"agrees": judged.agrees, **asdict(judged)}
    for operation, one in zip(told["operations"], judged.operations, strict=True):
        operation["rows"] = [{"agrees": row.agrees, **asdict(row)} for row in one.rows]
    return told


def _operation(console: Console, operation: Operation) -> None:
    apart, missed = duration(operation.apart_ns), duration(operation.missed_ns)
    console.print()
    console.print(
        f"  {operation.name}: {apart} of the host's between the two readings; the guest missed {missed} of them"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in ("gained", "predicted"):
        table.add_column(name, justify="right")
    table.add_column("")
    for name in ("had it run", "had it stood"):
        table.add_column(name, justify="right")
    for row in operation.rows:
        others = (_other(row, row.run), _other(row, row.freeze))
        style = "" if row.agrees else "red"
        table.add_row(row.clock, grouped(row.gained), _predicted(row.predicted), row.unit, *others, style=style)
    console.print(table)


def _predicted(span: Span | None) -> str:
    if span is None:
        return "nothing fits"
    return grouped(span.lo) if span.width == 0 else f"{grouped(span.lo)} .. {grouped(span.hi)}"


def _other(row: Row, span: Span | None) -> str:
    """By how much another policy's prediction is off what was read."""
    if span is None:
        return "nothing fits"
    if row.gained in span:
        return "the same"
    off = span.middle - row.gained
    return short_duration(off) if row.unit == "ns" else ("+" if off > 0 else "") + grouped(off)
