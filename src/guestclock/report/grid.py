"""Variations of one scenario as a grid: the first name of [vary] down, the second across, one grid per machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from guestclock.check import Group, Look, Mark, Story, groups
from guestclock.report.numbers import short_duration
from guestclock.report.words import machine_named

Column = tuple[Story, list[Mark]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one variation ended. tsc: the vCPUs' TSCs after the last look. steps: kvmclock's breaks in the whole run."""

    tsc: str
    agree: bool
    steps: str
    back: bool
    troubles: str


def outcome(story: Story, marks: Sequence[Mark]) -> Outcome:
    last = next((look for look in reversed(story.looks) if look.looked), None)
    found = [] if last is None else groups(story, last, "tsc")
    broken = [m for m in marks if m.name in ("kvmclock-never-back", "kvmclock-runs")]
    troubles = dict.fromkeys(trouble for look in story.looks for trouble in look.troubles)
    return Outcome(
        tsc=_together(story, last, found) if last else "nothing read",
        agree=len(found) <= 1,
        steps=_worst_step(broken),
        back=any(m.what == "steps back" for m in broken),
        troubles=", ".join(troubles),
    )


def _together(story: Story, look: Look, found: Sequence[Group]) -> str:
    """0=1, or 0≠1 +1.100 s: which vCPUs' TSCs are one, and how far ahead of the first the others are."""
    parts = ["=".join(map(str, found[0].vcpus))]
    for group in found[1:]:
        hz = look.readings[group.vcpus[0]].rate.of(story.tsc_khz * 1000)
        ahead_ns = round(group.ahead.middle * 10**9 / hz)
        parts.append(f"{'='.join(map(str, group.vcpus))} {short_duration(ahead_ns)}")
    return "≠".join(parts)


def _worst_step(broken: Sequence[Mark]) -> str:
    if not broken:
        return "no step"
    worst = max(broken, key=lambda m: abs(m.amount.middle))
    return f"{short_duration(worst.amount.middle)}"


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
        self.tsc_matters = not all(o.agree for o in outcomes) or all(o.steps == "no step" for o in outcomes)
        self.steps_matter = any(o.steps != "no step" for o in outcomes)

    def tables(self) -> Iterator[Table]:
        """One grid per machine; with a single name in [vary] one table for all machines, a row each."""
        if len(self.names) == 1:
            yield self._table(f"{self.names[0]} →", self.machines, [(m, ()) for m in self.machines], self.values[0])
            return
        for machine in self.machines:
            for rest in _choices(self.values[2:]):
                told = "".join(f", {n} = {v}" for n, v in zip(self.names[2:], rest, strict=True))
                head = f"{self.names[0]} ↓  {self.names[1]} →"
                rows = [(machine, (value,)) for value in self.values[0]]
                table = self._table(head, [str(v) for v in self.values[0]], rows, self.values[1], rest)
                table.title = Text(machine + told, style="bold")
                yield table

    def _table(
        self,
        head: str,
        labels: Sequence[str],
        rows: Sequence[tuple[str, tuple[Any, ...]]],
        across: Sequence[Any],
        rest: tuple[Any, ...] = (),
    ) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title_justify="left")
        table.add_column(head, no_wrap=True)
        for value in across:
            table.add_column(str(value), no_wrap=True)
        for label, (machine, before) in zip(labels, rows, strict=True):
            found = [self.cells.get((machine, (*before, value, *rest))) for value in across]
            table.add_row(label, *(self._cell(o) for o in found))
        return table

    def _cell(self, o: Outcome | None) -> Text:
        if o is None:
            return Text("not run", style="dim")
        lines = []
        if self.tsc_matters:
            lines.append((o.tsc, "" if o.agree else "yellow"))
        if self.steps_matter:
            style = "bold red" if o.back else "" if o.steps == "no step" else "yellow"
            lines.append((f"kvmclock {o.steps}" if self.tsc_matters else o.steps, style))
        if o.troubles:
            lines.append((o.troubles, "yellow"))
        cell = Text()
        for line, style in lines:
            cell.append("\n" if cell else "").append(line, style=style)
        return cell

    def legend(self) -> Iterator[str]:
        if self.tsc_matters:
            yield (
                "0=1: the TSCs of vCPUs 0 and 1 read the same after the last step. "
                "0≠1 +1.100 s: they do not, vCPU 1's is that far ahead."
            )
        elif len(self.cells) > 1:
            yield "After the last step all vCPUs' TSCs read the same in every variation."
        if self.steps_matter:
            shown = "kvmclock −5 ns" if self.tsc_matters else "−5 ns"
            yield f"{shown}: the largest step that any vCPU's kvmclock took."
        else:
            yield "No vCPU's kvmclock stepped in any variation."


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
