"""The bug corpus as text: a row per bug, what was found again, whether the fix holds; then what needs a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guestclock.checks.corpus import CaseResult, CorpusResult
from guestclock.checks.verdict import HOLDS, VIOLATED
from guestclock.corpus.entry import Case, Entry
from guestclock.report.check_words import in_seconds, up
from guestclock.report.numbers import folded, grouped

TITLES = ("bug", "rediscovered", "fix", "s", "orders")


def rows(results: Sequence[CorpusResult]) -> Iterator[tuple[str, str, str, str, str]]:
    """Cells of each bug that is checked, under TITLES."""
    for result in results:
        if result.before is not None:
            seconds = f"{result.seconds:.1f}"
            yield result.entry.name, before(result.before), after(result), seconds, grouped(result.orders)


def before(case: CaseResult) -> str:
    """What a run showed: 4.987 µs back."""
    if case.status != VIOLATED or case.value is None:
        return f"NO: {case.status}"
    return f"{exact(case)} {case.sense}"


def after(result: CorpusResult) -> str:
    case = result.after
    if case is None:
        return "none known"
    if case.status == HOLDS:
        return "holds"
    if case.bound is None:
        return case.status
    most = in_seconds(up(case.bound), case.unit, case.khz)
    return f"{'leaves' if result.as_expected else 'UNEXPECTED:'} at most {most} {case.sense}"


def exact(case: CaseResult) -> str:
    """Short amounts as they are: 4987 ns; long ones in seconds."""
    assert case.value is not None
    if case.unit == "ns" and case.value < 100_000:
        return f"{grouped(case.value)} ns"
    if case.unit == "cycles" and case.value >= 1 << 60:
        return f"{case.value:.1e} cycles"
    return in_seconds(case.value, case.unit, case.khz)


def text(results: Sequence[CorpusResult], width: int) -> Iterator[str]:
    """The whole report, in lines."""
    table = [TITLES, *rows(results)]
    widths = [max(len(row[i]) for row in table) for i in range(len(TITLES))]
    for row in table:
        cells = [
            f"{cell:<{w}}" if i < 3 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
    yield ""
    yield from hung("total: ", total(results), width)
    for result in results:
        left = result.entry.after
        if left is not None and left.why:
            yield from hung(f"{result.entry.name}: ", f"the fix does not bring it to nothing: {left.why}", width)
    for result in results:
        if result.entry.open is not None:
            yield from hung(f"open: {result.entry.name}: ", result.entry.open.why, width)
    for result in results:
        for case in result.cases:
            if case.replay:
                yield f"replay: {case.replay}"
    for result in results:
        for case in result.cases:
            if case.mistake:
                yield from hung("UNEXPECTED ", f"{result.entry.name} on {case.kernel}: {case.mistake}", width)


def total(results: Sequence[CorpusResult]) -> str:
    checked = [r for r in results if r.before is not None]
    fixed = [r for r in checked if r.after is not None]
    return (
        f"{sum(r.rediscovered for r in checked)} of {len(checked)} bugs rediscovered; of {len(fixed)} fixes "
        f"{sum(bool(r.fix_holds) for r in fixed)} hold, the others leave what is said below; "
        f"{len(results) - len(checked)} not checked yet; {sum(r.orders for r in results)} orders"
    )


def page_rows(entries: Sequence[Entry]) -> Iterator[str]:
    """docs/corpus.md's table: what each entry is about, where it comes from, what is asked of what."""
    yield "| bug | thread or commit | about | asked | before | after |"
    yield "|---|---|---|---|---|---|"
    for entry in entries:
        cells = [f"`{entry.name}`", entry.thread, entry.about]
        if entry.open is not None:
            cells += ["open", entry.open.why, ""]
        else:
            cells += [f"`{entry.property}`", _case(entry.before), _case(entry.after) or "no fix is known"]
        yield "| " + " | ".join(cells) + " |"


def _case(case: Case | None) -> str:
    if case is None:
        return ""
    about = f" ({case.about})" if case.about else ""
    return f"`{case.recipe}` on `{case.kernel}`{about}"


def hung(head: str, words: str, width: int) -> Iterator[str]:
    """`words` folded, later lines indented."""
    for number, line in enumerate(folded(words, max(width - len(head), 30))):
        yield (head if number == 0 else " " * len(head)) + line
