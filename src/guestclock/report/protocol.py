"""What `guestclock check threads/...` prints of a thread's designs: a table, then each violation with its replay."""

from __future__ import annotations

import json as json_
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console

from guestclock import __version__
from guestclock.checks import protocol_replay
from guestclock.checks.protocol import LISTED, Case, CaseResult, Cell, Design, Thread, check_case, table, thread
from guestclock.checks.protocol_replay import ProtocolReplay, Retold
from guestclock.checks.replay_file import ratio
from guestclock.checks.verdict import HOLDS, UNDECIDED, VIOLATED, Verdict
from guestclock.errors import UserError
from guestclock.report.check_table import Line, as_text, hanging
from guestclock.report.check_words import SHOWN, STYLES, in_seconds, up
from guestclock.report.numbers import clock_value, counted, duration, grouped
from guestclock.vmm.clocks import COUNTED

NOTHING = "-"
"""Of a cell: it was not asked, or no run gave anything to judge by."""


def chosen(of: Thread, designs: Sequence[str], cases: Sequence[str]) -> list[tuple[Design, Case]]:
    """What is to be checked. Raises UserError for a design or a case that is not there."""
    wanted = [of.design(name) for name in designs] or [d for d in of.designs if not d.broken]
    if not cases:
        return [(design, case) for design in wanted for case in design.cases()]
    made = [(design, of.find(design.name, name)) for design in wanted for name in dict.fromkeys(cases)]
    found = [(design, case) for design, case in made if case is not None]
    for name in cases:
        if not any(c.name == name for _, c in found):
            of.no_case(wanted, name)
    return found


def run(
    of: Thread,
    what: Sequence[tuple[Design, Case]],
    properties: Sequence[str],
    out: Path,
    progress: Callable[[str], None],
    *,
    budget_s: float | None = None,
    jobs: int = 1,
) -> tuple[list[CaseResult], dict[tuple[str, str, str], Path]]:
    """Every case's verdicts in their order, and the replay files by (design, case, property)."""
    for _, case in what:
        of.asked(case, properties)
    results: dict[int, CaseResult] = {}
    how: dict[str, Any] = {"properties": tuple(properties), "budget_s": budget_s}
    if jobs > 1:
        with ProcessPoolExecutor(jobs) as pool:
            waiting = {pool.submit(_case, of.name, d.name, c.name, how): n for n, (d, c) in enumerate(what)}
            for future in as_completed(waiting):
                results[waiting[future]] = result = future.result()
                progress(f"{result.design}, {result.case}: {len(results)} of {len(what)}")
    else:
        for n, (design, case) in enumerate(what):
            progress(f"{design.name}, {case.name}: {n + 1} of {len(what)}")
            results[n] = check_case(of, design.name, case.name, **how)
    done = [results[n] for n in sorted(results)]
    return done, _saved(of, done, out)


def _case(name: str, design: str, case: str, how: dict[str, Any]) -> CaseResult:
    return check_case(thread(name), design, case, **how)


def _saved(of: Thread, done: Sequence[CaseResult], out: Path) -> dict[tuple[str, str, str], Path]:
    paths = {}
    for result in done:
        for verdict in result.verdicts:
            file = protocol_replay.of(of.name, result, verdict) if verdict.status == VIOLATED else None
            if file is not None:
                words = (of.name.partition("/")[2], result.design, result.case, verdict.property)
                path = out / (".".join(re.sub(r"[^\w+-]+", "-", word) for word in words) + ".json")
                protocol_replay.save(file, path)
                paths[result.design, result.case, verdict.property] = path
    return paths


# ---- text


def show(console: Console, of: Thread, done: Sequence[CaseResult], paths: dict[tuple[str, str, str], Path]) -> None:
    for text in as_text(lines(of, done, paths, console.width)):
        console.print(text, soft_wrap=True)


def lines(
    of: Thread, done: Sequence[CaseResult], paths: dict[tuple[str, str, str], Path], width: int
) -> Iterator[Line]:
    """The table, what each invariant says, then each design's violations."""
    yield of.name, "bold"
    yield from hanging("", of.about, width)
    yield "", ""
    rows = table(of, done)
    yield from table_lines(of, rows, width)
    yield "", ""
    left = max(len(question.name) for question in of.invariants) + 2
    for question in of.invariants:
        if any(cell(row[question.name]) != NOTHING for row in rows.values()):
            yield from hanging(f"{question.name:<{left}}", question.about, width, "dim")
    yield from hanging("bounds: ", of.bounds, width)
    cost = sum(result.tally.orders for result in done), sum(result.programs for result in done)
    seconds = sum(result.seconds for result in done)
    cases = f"{len(done)} cases, {grouped(cost[0])} orders, {grouped(cost[1])} linear programs, {seconds:.1f} s"
    yield from hanging("search: ", cases, width, "dim")
    contracts = sorted({name for result in done for name in result.contracts})
    if contracts:
        yield from hanging("by contract: ", "; ".join(contracts), width)
    for design in dict.fromkeys(result.design for result in done):
        yield from _violations(of, design, [r for r in done if r.design == design], paths, width)


def table_lines(of: Thread, rows: Any, width: int) -> Iterator[Line]:
    """A row per invariant of which something could be said, a column per design; as many columns as fit."""
    names = list(rows)
    shown = {name: {i: cell(c) for i, c in rows[name].items()} for name in names}
    widths = [max([len(name), *map(len, shown[name].values())]) + 2 for name in names]
    left = max(len(question.name) for question in of.invariants) + 2
    start = 0
    while start < len(names):
        end, used = start, left
        while end < len(names) and (end == start or used + widths[end] <= width):
            used += widths[end]
            end += 1
        part = list(zip(names[start:end], widths[start:end], strict=True))
        if start:
            yield "", ""
        yield f"{'':<{left}}{''.join(f'{name:<{w}}' for name, w in part)}".rstrip(), "bold"
        for question in of.invariants:
            if all(shown[name][question.name] == NOTHING for name in names):
                continue
            statuses = {rows[name][question.name].status for name, _ in part}
            style = next((STYLES[s] for s in (VIOLATED, UNDECIDED) if s in statuses), "")
            row = "".join(f"{shown[name][question.name]:<{w}}" for name, w in part)
            yield f"{question.name:<{left}}{row}".rstrip(), style
        start = end


def cell(answer: Cell) -> str:
    """What a person remembers: the worst value, or that it holds; "-": nothing was asked."""
    verdict = answer.verdict
    if verdict is None or answer.status not in (VIOLATED, UNDECIDED, HOLDS):
        return NOTHING
    if answer.status == VIOLATED and verdict.worst is not None:
        return _amount(verdict.worst, verdict, answer.khz)
    if answer.status == HOLDS and verdict.why == LISTED:
        return "holds*"
    return SHOWN[answer.status].lower() if answer.status == UNDECIDED else "holds"


def _amount(value: int, verdict: Verdict, khz: int) -> str:
    """In seconds where that can be: of cycles if their rate is known."""
    timed = verdict.unit == "ns" or (khz and verdict.unit in COUNTED)
    return in_seconds(value, verdict.unit, khz) if timed else counted(value, verdict.unit)


def _violations(
    of: Thread, design: str, done: Sequence[CaseResult], paths: dict[tuple[str, str, str], Path], width: int
) -> Iterator[Line]:
    left = max(len(question.name) for question in of.invariants) + 2
    yield "", ""
    yield from hanging(f"{design}  ", of.design(design).about, width, "bold")
    for result in done:
        for verdict in result.verdicts:
            if verdict.status not in (VIOLATED, UNDECIDED):
                continue
            head = f"  {SHOWN[verdict.status]:<10}{verdict.property:<{left}}"
            yield from hanging(head, f"{result.case}: {told(verdict, result.khz)}", width, STYLES[verdict.status])
            path = paths.get((result.design, result.case, verdict.property))
            if path is not None:
                yield f"{'':<{12 + left}}guestclock replay {path}", "dim"
    if not any(v.status in (VIOLATED, UNDECIDED) for result in done for v in result.verdicts):
        yield "  nothing", "green"


def told(verdict: Verdict, khz: int = 0) -> str:
    """A violated or undecided verdict's line."""
    if verdict.status == VIOLATED and verdict.worst is not None:
        short = _amount(verdict.worst, verdict, khz)
        exact = counted(verdict.worst, verdict.unit)
        return f"{exact}{f' ({short})' if short != exact else ''} {verdict.sense}: {verdict.who}"
    if verdict.bound is not None and verdict.bound > verdict.tolerance:
        return f"at most {grouped(up(verdict.bound))} {verdict.unit} {verdict.sense}, proved; {verdict.why}"
    return verdict.why


# ---- JSON


def write(of: Thread, done: Sequence[CaseResult], paths: dict[tuple[str, str, str], Path], stream: TextIO) -> None:
    """One document: every case's verdicts; exact values as "numerator/denominator"."""
    document = {
        "guestclock_thread": 1,
        "guestclock": __version__,
        "thread": of.name,
        "bounds": of.bounds,
        "cases": [
            {
                "design": result.design,
                "case": result.case,
                "complete": result.complete,
                "orders": result.tally.orders,
                "linear_programs": result.programs,
                "contracts": sorted(result.contracts),
                "never": list(result.never),
                "verdicts": [_verdict(result, v, paths) for v in result.verdicts],
            }
            for result in done
        ],
    }
    json_.dump(document, stream, indent=2)
    stream.write("\n")


def _verdict(result: CaseResult, verdict: Verdict, paths: dict[tuple[str, str, str], Path]) -> dict[str, Any]:
    path = paths.get((result.design, result.case, verdict.property))
    return {
        "property": verdict.property,
        "status": verdict.status,
        "worst": verdict.worst,
        "bound": ratio(verdict.bound),
        "tolerance": ratio(verdict.tolerance),
        "unit": verdict.unit,
        "sense": verdict.sense,
        "who": verdict.who,
        "asked": verdict.asked,
        "why": verdict.why,
        "replay": None if path is None else str(path),
    }


# ---- replay


def replay(console: Console, path: Path, *, json: bool) -> bool:
    """Runs a thread's replay file again and shows it; whether it shows the recorded value."""
    file = protocol_replay.load(path)
    found = protocol_replay.retold(file, str(path))
    if json:
        print(json_.dumps(_replayed(file, found), indent=2))
    else:
        for text in as_text(replay_lines(file, found, console.width)):
            console.print(text, soft_wrap=True)
    return found.value == file.value


def _replayed(file: ProtocolReplay, found: Retold) -> dict[str, Any]:
    return {
        "guestclock_replayed": 1,
        "guestclock": __version__,
        "thread": file.thread,
        "design": file.design,
        "case": file.case,
        "property": file.property,
        "unit": file.unit,
        "recorded": file.value,
        "value": found.value,
        "steps": [{"ps": ps, "actor": actor, "label": label} for ps, actor, label in found.steps],
    }


def replay_lines(file: ProtocolReplay, found: Retold, width: int) -> Iterator[Line]:
    same = "as recorded" if found.value == file.value else f"NOT as recorded ({grouped(file.value)} {file.unit})"
    yield from hanging("", found.about, width, "bold")
    told_ = f"{grouped(found.value)} {file.unit} {file.sense}: {file.who}, {same}"
    yield from hanging(f"{file.property}  ", told_, width, "bold red")
    yield "", ""
    rows = [(ps, actor, label, "") for ps, actor, label in found.steps]
    rows += [(ps, "the guest", f"reads ({name})", "bold") for ps, name in found.readings]
    rows.sort(key=lambda row: row[0])
    left = max((len(actor) for _, actor, _, _ in rows), default=0)
    for ps, actor, label, style in rows:
        yield f"  {clock_value(ps // 1000):>22} s  {actor:<{left}}  {label}", style


def no_option(of: str, given: Sequence[tuple[str, object]]) -> None:
    """Raises UserError for an option of a recipe's that a thread does not take."""
    for option, value in given:
        if value:
            raise UserError(f"{option}: is a recipe's or a scenario's; {of} takes --design, --case, --property")


__all__ = ["cell", "chosen", "duration", "lines", "no_option", "replay", "run", "show", "table_lines", "told", "write"]
