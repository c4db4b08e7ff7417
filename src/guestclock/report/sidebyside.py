"""Several runs of one scenario beside each other: after each step what matters, a column per machine or kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from guestclock.check import Look, Mark, Story, errors
from guestclock.report.numbers import folded, grouped, short_duration, spread
from guestclock.report.table import STYLES
from guestclock.report.words import Told, brief, machine_named, told, vcpus_named
from guestclock.vmm.clocks import ARM64, CLOCKS, X86_64

STEP_WIDTH = 24
COLUMN_WIDTH = 26
MAX_COLUMN_WIDTH = 46

Column = tuple[Story, list[Mark]]
Known = dict[str, dict[int, str]]
"""What is said of each clock's readings."""


def side_by_side(columns: Sequence[Column], width: int) -> Iterator[Table]:
    """Tables of as many columns as the width holds. All columns are of the same scenario, so of the same steps."""
    fit = max(1, (width - STEP_WIDTH) // (COLUMN_WIDTH + 2))
    for first in range(0, len(columns), fit):
        yield _table(columns[first : first + fit], width)


def _table(columns: Sequence[Column], width: int) -> Table:
    room = min(max(COLUMN_WIDTH, (width - STEP_WIDTH) // len(columns) - 2), MAX_COLUMN_WIDTH)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", width=STEP_WIDTH)
    for story, _ in columns:
        table.add_column(Text(machine_named(story.trace.meta)), width=room)
    sentences = [told(marks) for _, marks in columns]
    errors_of = [_first_errors(story) for story, _ in columns]
    for index, look in enumerate(columns[0][0].looks):
        cells = [
            _cell(story.looks[index], said, known, room) if index < len(story.looks) else Text("—")
            for (story, _), said, known in zip(columns, sentences, errors_of, strict=True)
        ]
        number = "" if look.step < 0 else f"{look.step + 1} "
        say = "\n  ".join(folded(f"{number}{look.say}", STEP_WIDTH - 3))
        table.add_row(Text(say), *cells)
    return table


def _first_errors(story: Story) -> Known:
    """Clock minus true time, short, by clock and reading."""
    return {
        clock: {
            id(p.reading): f"{short_duration(p.error_ns.middle)}{spread(p.error_ns)}"
            for points in errors(story, clock).values()
            for p in points
        }
        for clock in story.clocks
    }


def _cell(look: Look, said: Sequence[Told], known: Known, width: int) -> Text:
    cell = Text()
    for line, style in _lines(look, said, known):
        cell.append("\n" if cell else "").append("\n  ".join(folded(line, width - 2)), style=style)
    return cell


def _lines(look: Look, said: Sequence[Told], known: Known) -> Iterator[tuple[str, str]]:
    yield from (_page if "kvmclock" in known else _counters)(look, known)
    for trouble in dict.fromkeys(look.troubles):
        yield trouble, "yellow"
    for each in said:
        if each.step == look.step and each.weight:
            yield brief(each.mark), STYLES[each.weight]


def _counters(look: Look, known: Known) -> Iterator[tuple[str, str]]:
    """The first vCPU's counters against true time."""
    for clock, of_readings in known.items():
        for reading in list(look.showing(clock).values())[:1]:
            yield f"{CLOCKS[clock].shown} {of_readings.get(id(reading), 'not yet seen')}", "dim"
    for vcpu, register, value in look.answers:
        yield f"{vcpus_named([vcpu])} {register} {grouped(value)}", "dim"


def _page(look: Look, known: Known) -> Iterator[tuple[str, str]]:
    """The first vCPU's kvmclock against true time, and whose pages say STABLE."""
    with_page = look.showing("kvmclock")
    if not with_page:
        yield "no kvmclock yet", "dim"
        return
    stable = [v for v, r in with_page.items() if r.stable]
    flags = "STABLE" if len(stable) == len(with_page) else "not STABLE"
    if 0 < len(stable) < len(with_page):
        flags = f"STABLE on {vcpus_named(stable)}"
    first = next(iter(with_page.values()))
    yield f"{known['kvmclock'].get(id(first), '')}  {flags}", "dim"


CAPTIONS = {
    X86_64: "Each cell: vcpu0's kvmclock minus true time since its first reading, the flags, then what went wrong in "
    "this step.",
    ARM64: "Each cell: vcpu0's counters minus true time since their first readings, then what went wrong in this step.",
}
