"""Variations of one scenario as a grid: the first name of [vary] down, the second across, one grid per machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from guestclock.check import Group, Look, Mark, Story, errors, groups
from guestclock.report.numbers import grouped, short_duration
from guestclock.report.words import MOVES, machine_named
from guestclock.vmm.clocks import ARM64, CLOCKS, X86_64, clocks_of

Column = tuple[Story, list[Mark]]

STEPPING = {X86_64: "kvmclock", ARM64: "cntvct"}
"""The clock whose steps are told of."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one variation ended.

    counter: the vCPUs' TSCs (arm64: CNTVCTs) after the last look. apart_ns: by how much they differ at most. step_ns:
    the largest break of kvmclock's (CNTVCT's) in the whole run, or None. carried: for each VM but the first, its clocks
    against true time at its end. once: how far the counters were apart meanwhile.
    """

    counter: str
    apart_ns: int
    step_ns: int | None
    back: bool
    carried: tuple[str, ...]
    once: str
    troubles: tuple[str, ...]

    @property
    def size_ns(self) -> int:
        """How much is off in all: what a figure shades."""
        return max(self.apart_ns, abs(self.step_ns or 0))


def outcome(story: Story, marks: Sequence[Mark]) -> Outcome:
    last = next((look for look in reversed(story.looks) if look.looked), None)
    found = [] if last is None else groups(story, last, story.clocks[0])
    stepping = STEPPING[story.arch]
    broken = [m for m in marks if m.clock == stepping and m.what in MOVES]
    worst = max(broken, key=lambda m: abs(m.time_ns.middle), default=None)
    troubles = dict.fromkeys(trouble for look in story.looks for trouble in look.troubles)
    return Outcome(
        counter=_together(story, last, found) if last else "nothing read",
        apart_ns=max((abs(_ahead_ns(story, last, g)) for g in found), default=0) if last else 0,
        step_ns=None if worst is None else worst.time_ns.middle,
        back=any(m.what == "steps back" for m in broken),
        carried=tuple(_carried(story)),
        once=_once_apart(story, marks),
        troubles=tuple(troubles),
    )


def _carried(story: Story) -> Iterator[str]:
    """What the first vCPU of each later VM ends with, against true time since the first VM's first reading."""
    ends: dict[int, dict[str, str]] = {}
    for clock in story.clocks:
        for (vm, vcpu), points in errors(story, clock).items():
            if vm > 0 and vcpu == 0:
                ends.setdefault(vm, {})[CLOCKS[clock].shown] = short_duration(points[-1].error_ns.middle)
    for vm, clocks in sorted(ends.items()):
        for name, error in clocks.items():
            yield f"VM {vm} {name} {error}"


def _once_apart(story: Story, marks: Sequence[Mark]) -> str:
    """How far vCPUs' counters were apart meanwhile, on arm64, where they are one unless a vCPU was left behind."""
    apart = [m for m in marks if story.arch == ARM64 and m.clock == story.clocks[0] and m.what == "differs"]
    worst = max(apart, key=lambda m: abs(m.time_ns.middle), default=None)
    if worst is None:
        return ""
    one, other = ("=".join(map(str, vcpus)) for vcpus in (worst.than, worst.vcpus))
    return f"once {one}≠{other} {short_duration(worst.time_ns.middle)}"


def _together(story: Story, look: Look, found: Sequence[Group]) -> str:
    """0=1, or 0≠1 +1.100 s: which vCPUs' counters are one, and how far ahead of the first the others are."""
    parts = ["=".join(map(str, found[0].vcpus))]
    for group in found[1:]:
        parts.append(f"{'='.join(map(str, group.vcpus))} {short_duration(_ahead_ns(story, look, group))}")
    return "≠".join(parts)


def _ahead_ns(story: Story, look: Look, group: Group) -> int:
    hz = look.readings[group.vcpus[0]].rate.of(story.nominal_hz)
    return round(group.ahead.middle * 10**9 / hz)


@dataclass(frozen=True, slots=True)
class Sheet:
    """One table: what its rows and columns are, and the outcomes, row by row; None was not run."""

    title: str
    head: str
    labels: list[str]
    across: list[str]
    rows: list[list[Outcome | None]]


class Grids:
    """All variations of all machines, as tables of outcomes; what is the same everywhere is said once, below."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self.names = list(columns[0][0].trace.meta["variation"])
        self.values = [_ordered(story.trace.meta["variation"][name] for story, _ in columns) for name in self.names]
        self.cells: dict[tuple[str, tuple[Any, ...]], Outcome] = {}
        for story, marks in columns:
            machine = machine_named(story.trace.meta)
            chosen = tuple(story.trace.meta["variation"].values())
            self.cells[machine, chosen] = outcome(story, marks)
        self.machines = _ordered(machine for machine, _ in self.cells)
        outcomes = list(self.cells.values())
        arch = columns[0][0].arch
        self.counter, self.stepping = CLOCKS[clocks_of(arch)[0]].shown, CLOCKS[STEPPING[arch]].shown
        readings = [reading for story, _ in columns for reading in story.readings]
        self.has_several = any(reading.vcpu > 0 for reading in readings)
        self.has_stepping = any(reading.shows(STEPPING[arch]) for reading in readings)
        self.steps_matter = any(o.step_ns is not None for o in outcomes)
        self.counter_matters = any(o.apart_ns for o in outcomes) or not self.steps_matter
        # Room for it is in a single table only; there the destination's clocks are the question.
        self.carried_matters = len(self.names) == 1 and any(o.carried for o in outcomes)

    def sheets(self) -> Iterator[Sheet]:
        """One per machine; with a single name in [vary] one for all machines, a row each."""
        if len(self.names) == 1:
            rows = [[self.cells.get((m, (value,))) for value in self.values[0]] for m in self.machines]
            yield Sheet("", f"{self.names[0]} across", self.machines, [_shown(v) for v in self.values[0]], rows)
            return
        head = f"{self.names[0]} down, {self.names[1]} across"
        across = [_shown(v) for v in self.values[1]]
        for machine in self.machines:
            for rest in _choices(self.values[2:]):
                title = machine + "".join(f", {n} = {v}" for n, v in zip(self.names[2:], rest, strict=True))
                rows = [[self.cells.get((machine, (a, b, *rest))) for b in self.values[1]] for a in self.values[0]]
                yield Sheet(title, head, [_shown(v) for v in self.values[0]], across, rows)

    def tables(self, width: int) -> Iterator[Text | Table]:
        """Each sheet as a heading and a table, in several parts where it is wider than that."""
        for sheet in self.sheets():
            cells = [[self._cell(o) for o in row] for row in sheet.rows]
            left = max(len(label) for label in sheet.labels) + 2
            for first, last in _parts(left, [_widest(head, column) for head, column in _columns(sheet, cells)], width):
                heading = Text(f"{sheet.title}  " if sheet.title else "", style="bold")
                yield heading.append(f"({sheet.head})", style="not bold dim")
                table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
                table.add_column("", no_wrap=True)
                for value in sheet.across[first:last]:
                    table.add_column(value)
                for label, row in zip(sheet.labels, cells, strict=True):
                    table.add_row(label, *row[first:last])
                yield table

    def _cell(self, o: Outcome | None) -> Text:
        if o is None:
            return Text("not run", style="dim")
        cell = Text()
        for line, style in self.told(o):
            cell.append("\n" if cell else "").append(line, style=style)
        return cell

    def told(self, o: Outcome) -> Iterator[tuple[str, str]]:
        """A cell's lines and their styles."""
        if self.counter_matters:
            yield o.counter, "yellow" if o.apart_ns else ""
        if o.step_ns is not None:
            named = f"{self.stepping} " if self.counter_matters or self.stepping == self.counter else ""
            yield named + short_duration(o.step_ns), "bold red" if o.back else "yellow"
        elif self.steps_matter and not self.counter_matters:
            yield "no step", "dim"
        if self.carried_matters:
            yield from ((line, "dim") for line in o.carried)
        if o.once:
            yield o.once, "yellow"
        yield from ((trouble, "yellow") for trouble in o.troubles)

    def legend(self) -> Iterator[str]:
        if not self.has_several:
            pass  # one vCPU is neither ahead nor behind
        elif self.counter_matters:
            yield (
                f"0=1: the {self.counter}s of vCPUs 0 and 1 read the same after the last step. "
                "0≠1 +1.100 s: they do not, vCPU 1's is that far ahead."
            )
        elif len(self.cells) > 1:
            yield f"After the last step all vCPUs' {self.counter}s read the same in every variation."
        if self.steps_matter:
            named = self.counter_matters or self.stepping == self.counter
            shown = f"{self.stepping} −5 ns" if named else "−5 ns"
            yield f"{shown}: the largest step that any vCPU's {self.stepping} took."
        elif self.has_stepping:
            yield f"No vCPU's {self.stepping} stepped in any variation."
        else:
            yield f"No vCPU has a {self.stepping} in any variation."
        if any(o.once for o in self.cells.values()):
            yield f"once 0≠1 −1 s: in some step vCPU 1's {self.counter} was that far ahead of vCPU 0's."
        if self.carried_matters:
            counter = self.counter
            yield (
                f"VM 1 {counter} −1 s: at that VM's end vCPU 0's {counter} is so far from where the first VM's would "
                "have been."
            )


def _columns(sheet: Sheet, cells: list[list[Text]]) -> Iterator[tuple[str, list[Text]]]:
    for number, head in enumerate(sheet.across):
        yield head, [row[number] for row in cells]


def _widest(head: str, column: Sequence[Text]) -> int:
    return max(len(line) for text in (head, *(cell.plain for cell in column)) for line in text.split("\n"))


def _parts(left: int, widths: Sequence[int], room: int) -> Iterator[tuple[int, int]]:
    """Ranges of columns that fit beside the labels, each of one column at least."""
    first, used = 0, left
    for number, width in enumerate(widths):
        if number > first and used + width + 2 > room:
            yield first, number
            first, used = number, left
        used += width + 2
    yield first, len(widths)


def _shown(value: Any) -> str:
    return grouped(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _ordered(values: Any) -> list[Any]:
    return list(dict.fromkeys(values))


def _choices(lists: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    chosen: list[tuple[Any, ...]] = [()]
    for values in lists:
        chosen = [(*c, v) for c in chosen for v in values]
    return chosen


def is_grid(metas: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these runs differ by more than their machine."""
    return any(meta.get("variation") for meta in metas)
