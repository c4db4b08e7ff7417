"""What `guestclock trace check` prints: the verdict, the worst cases with their places, what was not judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

from rich.console import Console

from guestclock.check.recorded import CLOCKS, COLUMNS, HOLDS, INVARIANTS, KEYS, KINDS, NOT_JUDGED, VIOLATED

from guestclock.check.recorded import Check, Finding, Judgement  # isort: skip
from guestclock.report.check_table import Line, as_text, hanging
from guestclock.report.numbers import NS_PER_S, duration, grouped

STATUS = {HOLDS: 0, VIOLATED: 1, NOT_JUDGED: 3}
SHOWN = {HOLDS: "holds", VIOLATED: "VIOLATED", NOT_JUDGED: "UNDECIDED"}
STYLES = {HOLDS: "green", VIOLATED: "bold red", NOT_JUDGED: "bold yellow"}
WIDTH = 12
NO_BREAK = "\u00a0"
UNKNOWN_NS = 2**61
"""A bound beyond this is none."""


def show(page: Console, judged: Judgement) -> None:
    for line in as_text(lines(judged, page.width)):
        page.print(line, soft_wrap=True)


def lines(judged: Judgement, width: int) -> Iterator[Line]:
    """The whole answer. A name is not broken from its number."""
    return ((text.replace(NO_BREAK, " "), style) for text, style in _lines(judged, width))


def _lines(judged: Judgement, width: int) -> Iterator[Line]:
    yield from hanging(f"{SHOWN[judged.status]:<{WIDTH}}", verdict(judged), width, STYLES[judged.status])
    for check in judged.of(VIOLATED):
        yield "", ""
        yield from _violated(check, judged, width)
    yield "", ""
    holding = judged.of(HOLDS)
    if holding:
        told = ", ".join(
            f"{check.label}{NO_BREAK}{check.name}{NO_BREAK}({grouped(check.compared)})" for check in holding
        )
        yield from hanging(f"{'holds':<{WIDTH}}", told, width, STYLES[HOLDS])
        yield from hanging(" " * WIDTH, "in brackets: how many readings or events were held to it", width, "dim")
    for remark in (remark for check in judged.checks for remark in check.remarks):
        yield from hanging(" " * WIDTH, remark, width, "dim")
    idle = judged.of(NOT_JUDGED)
    if idle:
        told = ", ".join(f"{check.label}{NO_BREAK}{check.name}" for check in idle)
        yield from hanging(f"{'not judged':<{WIDTH}}", told, width, "dim")
        yield from hanging(" " * WIDTH, "what each needs: guestclock trace invariants", width, "dim")


def verdict(judged: Judgement) -> str:
    """The first line's words."""
    broken, held = len(judged.of(VIOLATED)), len(judged.of(HOLDS))
    what = f"{_several(judged.readings, 'reading')} on {_several(judged.vcpus, 'vCPU')}"
    if judged.events:
        what += f", {_several(judged.events, 'event')}"
    where = ", ".join([*([judged.header.vm] if judged.header.vm else []), *judged.names])
    if not broken and not held:
        return f"nothing could be judged: {what} ({where})"
    counted = f"{broken} of {broken + held} invariants" if broken else f"{held} of {len(judged.checks)} invariants"
    return f"{counted}{'' if broken else ' judged, all hold'}: {what} ({where})"


def _violated(check: Check, judged: Judgement, width: int) -> Iterator[Line]:
    worst = check.worst
    assert worst is not None
    head = f"{'VIOLATED':<{WIDTH}}"
    label = f"{check.label} {check.name}: "
    yield from hanging(head, label + found(worst, judged), width, STYLES[VIOLATED])
    indent = " " * WIDTH
    yield from hanging(indent, _where(worst), width)
    if check.violations > 1:
        more = f"the worst of {grouped(check.violations)}"
        if check.first is not None and check.first is not worst:
            more += f"; the first: {', '.join(check.first.at)}".replace("line ", f"line{NO_BREAK}")
        yield from hanging(indent, more, width)
    yield from hanging(indent, f"should be: {check.about}", width)


def found(finding: Finding, judged: Judgement) -> str:
    """What is wrong and by how much."""
    if not finding.unit:
        return finding.said
    if finding.unit == "ns":
        return f"{finding.said}: {duration(finding.amount)}"
    hz = judged.header.hz
    told = f"{finding.said}: {grouped(finding.amount)} {finding.unit}"
    return f"{told} ({duration(finding.amount * NS_PER_S // hz)})" if hz else told


def _where(finding: Finding) -> str:
    """Both readings with their places: a.csv: line 17: 1 234, then line 18: 1 233."""
    about, places = finding.about, list(finding.at)
    file = places[0].partition(": line ")[0]
    places[1:] = [p.removeprefix(f"{file}: ") for p in places[1:]]
    for key, index in (("before", 0), ("after", -1)):
        value = about.get(key)
        if value is not None and (key == "after" or len(places) > 1):
            places[index] += f": {grouped(value)}"
    told = ", then ".join(places).replace("line ", f"line{NO_BREAK}")
    if about.get("host") is not None:
        told += f", the host {grouped(about['host'])}"
    if about.get("due") is not None:
        told += f", due {grouped(about['due'])}"
    if about.get("most") is not None and -UNKNOWN_NS < about["least"] < about["most"]:
        told += f"; between {duration(about['least'])} and {duration(about['most'])}"
    return told


def _several(count: int, what: str) -> str:
    return f"{grouped(count)} {what}{'' if count == 1 else 's'}"


# ---- JSON


def write(judged: Judgement, out: TextIO) -> None:
    json.dump(as_json(judged), out, indent=2)
    out.write("\n")


def as_json(judged: Judgement) -> dict[str, Any]:
    return {
        "status": judged.status,
        "files": list(judged.names),
        "readings": judged.readings,
        "events": judged.events,
        "vcpus": judged.vcpus,
        "invariants": [
            {
                "number": check.number, "name": check.name, "status": check.status, "compared": check.compared,
                "violations": check.violations, "worst": _finding(check.worst), "first": _finding(check.first),
                "about": check.about, "needs": check.needs, "remarks": check.remarks,
            }
            for check in judged.checks
        ],
    }  # fmt: skip


def _finding(finding: Finding | None) -> dict[str, Any] | None:
    if finding is None:
        return None
    return {"said": finding.said, "amount": finding.amount, "unit": finding.unit, "at": list(finding.at),
            **finding.about}  # fmt: skip


# ---- what a trace is made of


def show_columns(page: Console) -> None:
    """Columns, clocks, events and header keys."""
    for line in as_text(_columns(page.width)):
        page.print(line, soft_wrap=True)


def _columns(width: int) -> Iterator[Line]:
    yield from hanging("", "A trace is CSV (a line of column names, then a row a line) or JSON lines.", width)
    yield "", ""
    yield "columns", "bold"
    yield from _table([(c.name, c.about) for c in COLUMNS], width)
    yield "", ""
    yield from hanging("clocks  ", ", ".join(CLOCKS), width)
    yield "", ""
    yield "events, and the columns that each must have (and may have)", "bold"
    for kind in KINDS:
        may = f" ({', '.join(kind.may)})" if kind.may else ""
        needs = f"{', '.join(kind.needs)}{may}".strip()
        yield from _table([(kind.name, kind.about + (f": {needs}" if needs else ""))], width, 9)
    yield "", ""
    yield "before the first row: CSV lines '# key: value', or a JSON object with \"guestclock_readings\": 1", "bold"
    yield from _table([(key.name, key.about) for key in KEYS], width)


def show_invariants(page: Console) -> None:
    """What each invariant says, needs, tolerates and cannot see."""
    for line in as_text(_invariants(page.width)):
        page.print(line, soft_wrap=True)


def _invariants(width: int) -> Iterator[Line]:
    for invariant in INVARIANTS:
        yield from hanging(f"I{invariant.number:<4}", f"{invariant.name}: {invariant.about}", width, "bold")
        for what, text in (
            ("needs", invariant.needs),
            ("tolerance", invariant.tolerance),
            ("blind to", invariant.blind),
        ):
            yield from hanging(f"     {what:<10} ", text, width)


def _table(rows: list[tuple[str, str]], width: int, least: int = 0) -> Iterator[Line]:
    left = max([least, *(len(name) for name, _ in rows)])
    for name, about in rows:
        yield from hanging(f"  {name:<{left}}  ", about, width)
