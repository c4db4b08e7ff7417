"""The counter benchmark as tables, beside the one of the thread that it is after; and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from guestclock import __version__
from guestclock.report.numbers import MINUS, grouped
from guestclock.report.table import hanging
from guestclock.runs.bench import INSTRUCTIONS, Benched
from guestclock.runs.timed import Timed

FORMAT = 1

NAMES = {
    "empty": "empty",
    "rdtsc": "RDTSC",
    "empty-ring0": "empty, ring 0",
    "rdmsr-tsc": "RDMSR IA32_TSC",
    "rdmsr-tsc-adjust": "RDMSR TSC_ADJUST",
    "tsc-clocksource": "TSC clocksource",
    "kvm-clock": "kvm-clock",
    "cntvct": "CNTVCT_EL0",
    "cntpct": "CNTPCT_EL0",
    "cntpct-offset": "CNTPCT_EL0, offset",
}

THREAD = {
    "nVHE": {"native": (54, 124, 258), "trapped": (148, 122, 348)},
    "VHE": {"native": (53, 92, 204), "trapped": (152, 94, 307)},
}
"""Average, standard deviation, 95th percentile, ns: Oliver Upton, 2021-07-16 (20210716212629), and 2021-07-22."""

MODES = {"neoverse-n1": "VHE", "neoverse-n1-nvhe": "nVHE", "cortex-a72": "nVHE (the CPU has no VHE)"}

COLUMNS = ("", "", "average", "std dev", "95th pct", "minimum", "outliers", "itself")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two reads of one machine that are compared: `less` is what it is without, `more` with what is asked about."""

    less: str
    more: str
    difference: str
    ratio: str


def pairs(done: Benched) -> list[Pair]:
    """What this machine's reads have to say: native against trapped, one conversion against two."""
    if done.arch == "arm64":
        return [Pair("cntpct", "cntpct-offset", f"trapped {MINUS} native", "trapped / native")]
    trapped = "rdmsr-tsc-adjust" if "rdmsr-tsc-adjust" in done.reads else "rdmsr-tsc"
    word = "emulated" if done.reads[trapped].how == "emulated" else "trapped"
    return [
        Pair("rdtsc", trapped, f"{word} {MINUS} native", f"{word} / native"),
        Pair("tsc-clocksource", "kvm-clock", f"two {MINUS} one", "two / one"),
    ]


def how(done: Benched, name: str) -> str:
    """What became of a read, in a word. On arm64 the fast path that emulates a trapped CNTPCT_EL0 counts no exit."""
    timed = done.reads[name]
    if done.arch == "arm64":
        return "trapped" if name == "cntpct-offset" else "native"
    return "not counted" if timed.exits is None else timed.how


# ---- the tables


def show(console: Console, machines: Sequence[Benched]) -> None:
    width = console.width if console.is_terminal else 10_000
    for done in machines:
        console.print(Text(title(done), style="bold"), soft_wrap=True)
        console.print(_table(done))
        for line in notes(done):
            for text in hanging("", line, width, "dim"):
                console.print(text, soft_wrap=True)
        console.print()
    console.print(Text("The thread of 2021: Ampere Mt. Jade, 10 000 reads, ns, measuring included", style="bold"))
    console.print(_thread_table())


def title(done: Benched) -> str:
    reads = next(iter(done.reads.values())).samples
    mode = [MODES[done.on.cpu]] if done.on.cpu in MODES else []
    return " · ".join((str(done.on), done.meta["kernel"], *mode, f"{grouped(reads)} reads of each", done.unit))


def _table(done: Benched) -> Table:
    table = _empty_table(COLUMNS)
    compared = pairs(done)
    for name in filter(done.reads.__contains__, NAMES):
        table.add_row(
            NAMES[name], how(done, name), *_cells(done, name), style="dim" if name.startswith("empty") else ""
        )
        for pair in compared:
            if pair.more == name:
                for label, values in compare(done, pair):
                    table.add_row(Text(f"  {label}", style="bold"), "", *values)
    return table


def _cells(done: Benched, name: str) -> Iterator[str]:
    timed = done.reads[name]
    for value in _metrics(timed):
        yield amount(done, value * done.per_tick)
    yield _counted(timed.outliers(done.grain))
    itself = done.itself(name)
    yield "" if itself is None else amount(done, itself)


def _counted(n: int) -> str:
    return grouped(n) if n else ""


def _metrics(timed: Timed) -> tuple[Fraction, Fraction, Fraction, Fraction]:
    return timed.average, Fraction(timed.std_dev), Fraction(timed.percentile(95)), Fraction(timed.minimum)


def compare(done: Benched, pair: Pair) -> Iterator[tuple[str, list[str]]]:
    """(label, cells) of the difference and of the ratio: average, 95th percentile, minimum, the reads themselves."""
    less, more = done.reads[pair.less], done.reads[pair.more]
    columns: list[tuple[Fraction, Fraction] | None] = [
        (a * done.per_tick, b * done.per_tick) for a, b in zip(_metrics(less), _metrics(more), strict=True)
    ]
    columns[1] = None  # what two spreads differ by means nothing
    itself = done.itself(pair.less), done.itself(pair.more)
    assert itself[0] is not None
    assert itself[1] is not None
    columns += [None, (itself[0], itself[1])]
    yield pair.difference, _each(columns, lambda a, b: amount(done, b - a))
    yield pair.ratio, _each(columns, ratio)


def _each(columns: Sequence[tuple[Fraction, Fraction] | None], cell: Callable[[Fraction, Fraction], str]) -> list[str]:
    return ["" if column is None else cell(*column) for column in columns]


def ratio(a: Fraction, b: Fraction) -> str:
    """b / a to a tenth; nothing where a is not above zero: a coarse counter, or more noise than read."""
    return f"{_tenths(b / a)}" if a > 0 else "—"


def amount(done: Benched, value: Fraction) -> str:
    """In the machine's unit: to a tenth below 1000, but whole instructions whole."""
    if abs(value) >= 1000:
        return grouped(round(value))
    told = _tenths(value)
    return told.removesuffix(".0") if done.unit == INSTRUCTIONS else told


def _tenths(value: Fraction) -> str:
    tenths = round(value * 10)
    whole, tenth = divmod(abs(tenths), 10)
    return f"{MINUS if tenths < 0 else ''}{grouped(whole)}.{tenth}"


def _thread_table() -> Table:
    table = _empty_table(("", "", "average", "std dev", "95th pct"))
    for mode, rows in THREAD.items():
        for name, values in rows.items():
            table.add_row(mode, name, *map(str, values))
        native, trapped = rows["native"], rows["trapped"]
        apart = [str(b - a) for a, b in zip(native, trapped, strict=True)]
        times = [ratio(Fraction(a), Fraction(b)) for a, b in zip(native, trapped, strict=True)]
        for label, (average, _, p95) in ((f"trapped {MINUS} native", apart), ("trapped / native", times)):
            table.add_row("", Text(label, style="bold"), average, "", p95)
    return table


def _empty_table(columns: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for at, column in enumerate(columns):  # on a narrow page names are folded, never numbers cut
        table.add_column(column, justify="right" if column else "left", no_wrap=at > 0)
    return table


def notes(done: Benched) -> Iterator[str]:
    """What has to be known to read the table."""
    yield (
        "empty: the measuring alone, which is in all rows. itself: the average without it, and without outliers (three "
        "times the quartiles' distance above the upper one: something of the host's was in between)."
    )
    if done.unit == INSTRUCTIONS:
        yield (
            "In the lab an instruction takes 1 ns of virtual time: these are instructions, the host's among them, and "
            "say nothing of the time on any hardware. There is no spread but that of the host's own ticks, where they "
            "fall into a read."
        )
        if done.per_tick > 1:
            yield (
                f"The counter's tick is {amount(done, done.per_tick)} instructions: spread, percentile and minimum are "
                "those of whole ticks, averages go below them."
            )
    elif done.grain > 1:
        yield f"The counter goes forward by {amount(done, done.grain * done.per_tick)} ns at a time here."
    if "rdmsr-tsc" in done.reads:
        yield from _of_rdmsr(done.reads["rdmsr-tsc"])
        rdtsc = done.undisturbed("rdtsc")
        one, two = (amount(done, done.undisturbed(name) - rdtsc) for name in ("tsc-clocksource", "kvm-clock"))
        yield f"Beyond RDTSC alone, a TSC clocksource's one conversion takes {one} {done.unit}, kvm-clock's two {two}."
    emulated = [(NAMES[name], timed) for name, timed in done.reads.items() if timed.how == "emulated"]
    if emulated:
        each = ", ".join(f"{name}: {round(Fraction(t.emulated or 0, t.samples))}" for name, t in emulated)
        yield f"Instructions a pass that KVM emulates, by its count ({each}): what these rows time is its emulator."


def _of_rdmsr(timed: Timed) -> Iterator[str]:
    if timed.exits is None:
        yield "Whether RDMSR exits is not known: this kernel does not count exits (KVM_CAP_BINARY_STATS_FD, 5.14)."
        return
    counted = f"{grouped(timed.exits)} exits in {grouped(timed.samples)} reads, by KVM's count"
    if timed.how == "exits":
        yield f"{NAMES['rdmsr-tsc']}: {counted}."
    elif timed.how == "native":
        yield (
            f"{NAMES['rdmsr-tsc']} does not exit here ({counted}): KVM lets the guest have it. "
            f"{NAMES['rdmsr-tsc-adjust']}, which KVM answers the same way, stands in."
        )


# ---- JSON


def write(machines: Sequence[Benched], out: TextIO) -> None:
    json.dump(document(machines), out, indent=1, ensure_ascii=False)
    out.write("\n")


def document(machines: Sequence[Benched]) -> dict[str, Any]:
    """guestclock_bench: this format's version; a new key does not change it, a new meaning does.

    counts are exact: ticks of the counter, and how many samples; everything else is in the machine's unit.
    """
    return {
        "guestclock_bench": FORMAT,
        "guestclock": __version__,
        "machines": [_machine(done) for done in machines],
        "thread": {
            mode: {name: dict(zip(("average", "std_dev", "p95"), values, strict=True)) for name, values in rows.items()}
            for mode, rows in THREAD.items()
        },
    }


def _machine(done: Benched) -> dict[str, Any]:
    return {
        "on": str(done.on),
        "meta": dict(done.meta),
        "unit": done.unit,
        "units_per_tick": str(done.per_tick),
        "reads": [_read(done, name) for name in done.reads],
        "pairs": [_pair(done, pair) for pair in pairs(done)],
        "notes": list(notes(done)),
    }


def _read(done: Benched, name: str) -> dict[str, Any]:
    timed, itself = done.reads[name], done.itself(name)
    average, std_dev, p95, minimum = (float(value * done.per_tick) for value in _metrics(timed))
    return {
        "read": name,
        "how": how(done, name),
        "average": average,
        "std_dev": std_dev,
        "p95": p95,
        "minimum": minimum,
        "maximum": float(timed.maximum * done.per_tick),
        "outliers": timed.outliers(done.grain),
        "itself": None if itself is None else float(itself),
        "exits": timed.exits,
        "emulated": timed.emulated,
        "counts": [list(pair) for pair in timed.counts],
    }


def _pair(done: Benched, pair: Pair) -> dict[str, Any]:
    less, more = done.itself(pair.less), done.itself(pair.more)
    assert less is not None
    assert more is not None
    return {
        "less": pair.less,
        "more": pair.more,
        "difference": float(more - less),
        "ratio": float(more / less) if less > 0 else None,
    }
