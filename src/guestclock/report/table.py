"""A trace as text: after every step what each clock reads, and what is wrong with it; at the end the sum of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from guestclock.check import (
    PROPERTIES,
    Look,
    Mark,
    Reading,
    Span,
    Story,
    errors,
    get_clock_error,
    groups,
    host_error,
    properties_of,
    unjudged,
)
from guestclock.check.story import CLOCK_TSC_STABLE
from guestclock.report.numbers import NS_PER_S, clock_value, duration, folded, grouped, short_duration, signed_span
from guestclock.report.words import Told, amount_named, flags_named, machine_named, told, vcpus_named
from guestclock.vmm.clocks import CLOCKS

STYLES = {2: "bold red", 1: "yellow", 0: "dim"}
SIGNS = {2: "!", 1: "!", 0: " "}


@dataclass(frozen=True, slots=True)
class Row:
    """One clock: whose, which, what it reads, its error, flags. style: rich's, "" for none."""

    cells: tuple[str, str, str, str, str]
    style: str = ""


@dataclass(frozen=True, slots=True)
class Heading:
    number: str
    say: str
    time: str


Line = Row | Heading | Told | str
ALIGN = ("<", "<", ">", ">", "<")
TITLES = Row(("", "", "reads", "− true time", ""), "dim")
HOST_COUNTERS = {"tsc": "TSC", "counter": "counter"}
NAME_WIDTH = max(len(p.name) for p in PROPERTIES)
SHORT_FROM = 22
"""An error of more characters than this is given to three decimals: the exact one is in the marks and in --json."""


class TraceTable:
    """One trace, step by step. Printed by rich: coloured on a terminal, plain and never folded elsewhere."""

    def __init__(self, story: Story, marks: list[Mark]) -> None:
        self.story, self.told = story, told(marks)
        self.errors = {
            clock: {id(p.reading): p.error_ns for points in errors(story, clock).values() for p in points}
            for clock in story.clocks
        }

    def lines(self) -> Iterator[Line]:
        yield TITLES
        for look in self.story.looks:
            number = "" if look.step < 0 else str(look.step + 1)
            yield Heading(number, look.say, f"t = {clock_value(look.at_ps // 1000)[:-4]} s")
            yield from self._clocks(look)
            yield from (Row(answer, "dim") for answer in _answers(look))
            yield from look.troubles
            yield from (t for t in self.told if t.step == look.step)

    def _clocks(self, look: Look) -> Iterator[Row]:
        counter = self.story.host_counter
        for name, clock in ((counter, HOST_COUNTERS[counter]), ("monotonic_raw", "RAW")):
            if name in look.host:
                value, _ = look.host[name]
                read = grouped(value) if name == counter else clock_value(value)
                yield Row(("host", clock, read, _error(host_error(self.story, look, name)), ""), "dim")
        for alike in self._alike(look):
            yield from self._of_vcpus(vcpus_named(alike), look.readings[alike[0]])
        if look.clock is not None:
            error = get_clock_error(self.story, look)
            stable = flags_named(look.clock.flags & CLOCK_TSC_STABLE and 1)
            yield Row(("KVM", "GET_CLOCK", clock_value(look.clock.clock_ns), _error(error), stable), "dim")

    def _of_vcpus(self, who: str, first: Reading) -> Iterator[Row]:
        for clock in self.story.clocks:
            shown, has_page = CLOCKS[clock].shown, clock == "kvmclock"
            flags = flags_named(_flags(first)) if has_page else ""
            if first.shows(clock):
                value = first.value(clock)
                read = grouped(value) if CLOCKS[clock].counts else clock_value(value)
                yield Row((who, shown, read, _error(self.errors[clock].get(id(first))), flags))
            else:
                yield Row((who, shown, "—", "", flags))
            who = ""

    def _alike(self, look: Look) -> list[list[int]]:
        """vCPUs that one row stands for: same lines, same flags, as far as can be told."""
        place: dict[tuple[object, ...], list[int]] = {}
        by_clock = [
            {v: number for number, g in enumerate(groups(self.story, look, clock)) for v in g.vcpus}
            for clock in self.story.clocks
        ]
        for vcpu, reading in sorted(look.readings.items()):
            key = (*(known.get(vcpu) for known in by_clock), _flags(reading))
            place.setdefault(key, []).append(vcpu)
        return list(place.values())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = list(self.lines())
        rows = [line for line in lines if isinstance(line, Row)]
        widths = [max(len(row.cells[i]) for row in rows) for i in range(5)]
        width = options.max_width if console.is_terminal else 10_000
        for line in lines:
            yield from _rendered(line, widths, width, console.is_terminal)


def _answers(look: Look) -> Iterator[tuple[str, str, str, str, str]]:
    """Registers that were read by themselves: what each vCPU's were, a row each."""
    for vcpu, register, value in look.answers:
        yield vcpus_named([vcpu]), register, grouped(value), "", ""


def _flags(reading: Reading) -> int | None:
    return None if reading.page is None or reading.kvmclock_ns is None else reading.page.flags


def _error(error: Span | None) -> str:
    if error is None:
        return ""
    exact = signed_span(error)
    return exact if len(exact) <= SHORT_FROM else short_duration(error.middle)


def _rendered(line: Line, widths: list[int], width: int, terminal: bool) -> Iterator[Text]:
    match line:
        case Row(cells, style):
            parts = [f"{cell:{align}{w}}" for cell, align, w in zip(cells, ALIGN, widths, strict=True)]
            yield Text(("   " + "  ".join(parts)).rstrip(), style=style, no_wrap=True, overflow="ignore")
        case Heading(number, say, time):
            yield Text("")
            yield from _heading(f"{number:>2} ", say, time, min(width, 3 + sum(widths) + 8), terminal)
        case Told(_, weight, sentence, _):
            yield from hanging(f" {SIGNS[weight]} ", sentence, width, STYLES[weight])
        case str():
            yield from hanging("   ", line, width, "yellow")


def _heading(number: str, say: str, time: str, width: int, terminal: bool) -> Iterator[Text]:
    """The sentence, and the time at the right end of its last line."""
    lines = list(hanging(number, say, width if terminal else 10_000, "bold"))
    room = width - lines[-1].cell_len - len(time)
    if room < 2 and terminal:
        lines.append(Text(""))
        room = width - len(time)
    lines[-1].append(" " * max(room, 2)).append(time, style="not bold dim")
    yield from lines


def hanging(first: str, text: str, width: int, style: str = "") -> Iterator[Text]:
    """`text` in lines of at most `width`, indented under its own beginning."""
    for number, line in enumerate(folded(text, width - len(first))):
        indent = first if number == 0 else " " * len(first)
        yield Text(indent + line, style=style, no_wrap=True, overflow="ignore")


# ---- the sum


def title(story: Story) -> str:
    """A trace's machine and what it needs to be made again."""
    meta = story.trace.meta
    parts = [machine_named(meta), _rate(story)]
    if meta.get("variation"):
        parts.append(", ".join(f"{k} = {v}" for k, v in meta["variation"].items()))
    if meta.get("seed") is not None:
        parts.append(f"seed {meta['seed']}")
    return " · ".join(parts)


def _rate(story: Story) -> str:
    if story.host_counter == "tsc":
        return f"TSC {grouped(story.nominal_hz // 1000)} kHz"
    return f"counter {grouped(story.nominal_hz)} Hz"


def summary(story: Story, marks: list[Mark]) -> Iterator[tuple[int, str]]:
    """(weight, line): the properties that do not hold, each with its worst; then those that do, and those
    that the trace gave nothing to judge by.
    """
    by_name: dict[str, list[Mark]] = {}
    for mark in marks:
        by_name.setdefault(mark.name, []).append(mark)
    for prop in properties_of(story):
        found = by_name.get(prop.name)
        if found:
            weight = max(t.weight for t in told(found))
            yield weight, f"{prop.name:<{NAME_WIDTH}}  {_worst(found)}"
    idle = [p.name for p in unjudged(story) if p.name not in by_name]
    holding = [p.name for p in properties_of(story) if p.name not in by_name and p.name not in idle]
    looks = sum(look.looked for look in story.looks)
    if not by_name and not idle:
        agreed = "vCPUs agreed, flags told the truth" if "kvmclock" in story.clocks else "vCPUs and counters agreed"
        yield 0, f"No clock stepped back or jumped, {agreed}{_resolution(story)} ({looks} looks)."
    elif holding:
        yield 0, f"{'holds':<{NAME_WIDTH}}  {', '.join(holding)} ({looks} looks{_resolution(story)})"
    if idle:
        yield 0, f"{'nothing to judge':<{NAME_WIDTH}}  {', '.join(idle)}"


def _worst(marks: list[Mark]) -> str:
    worst = max(marks, key=lambda m: abs(m.time_ns.middle))
    steps = sorted({m.step for m in marks})
    where = f"step{'s' if len(steps) > 1 else ''} {_steps_named(steps)}"
    if worst.clock == "page":
        return where
    bound = "up to " if len({abs(m.time_ns.middle) for m in marks}) > 1 else ""
    return f"{bound}{amount_named(worst)}, {where}"


def _steps_named(steps: list[int]) -> str:
    named = ["start" if s < 0 else str(s + 1) for s in steps]
    return ", ".join(named) if len(named) <= 6 else f"{', '.join(named[:5])}, … ({len(named)} in all)"


def _resolution(story: Story) -> str:
    """What a real host's readings leave open; nothing to say on the model, where they are exact."""
    widths = [count.when.counter.width for r in story.readings for count in r.counts.values() if count.when.counter]
    half_ns = -(-max(widths, default=0) * NS_PER_S // (2 * story.nominal_hz))
    return f", {HOST_COUNTERS[story.host_counter]} known to ± {duration(half_ns)}" if half_ns > 1 else ""
