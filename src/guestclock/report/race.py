"""Whose guest saw its host's sleep before its clocks were put right: as text and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from guestclock.lab.race import WINDOW, Raced
from guestclock.report.numbers import counted, duration, grouped
from guestclock.report.table import hanging

FORMAT = 1
NONE = "-"

ABOUT = {
    "asked": "asked before, it answers with its vCPU stopped and its counter noted",
    "looks": "not asked; before each KVM_RUN it looks whether the host has slept",
    "told": "not asked; it hears of it afterwards",
}

READ = (
    "saw it: sleeps after which the guest ran before its clocks were put right. in the window: sleeps for which the "
    "kernel's freezer held the vCPU's thread when it had begun to look and was not yet in KVM_RUN; window: how much of "
    "the thread's round that is, and so how often it is to be expected. stepped back: by how much a clock of the "
    "guest's fell when they were put right. went on: by how much its clocks did over a sleep that it did not see."
)


def keeps(raced: Sequence[Raced]) -> bool | None:
    """Whether the VMM that is asked has put its guest's clocks right before the guest ran, each time; None: it was not
    among them, and of the others nothing is demanded.
    """
    hits = [len(one.hits) for one in raced if one.vmm == "asked"]
    return not any(hits) if hits else None


def page(console: Console, where: str, away_ns: int, raced: Sequence[Raced]) -> None:
    if keeps(raced) is not None:
        verdict = ("HOLDS  ", "bold green") if keeps(raced) else ("VIOLATED  ", "bold red")
        console.print(Text.assemble(verdict, ("a guest whose VMM is asked sees no sleep", "bold")), soft_wrap=True)
    console.print(f"{where}: its host sleeps for {duration(away_ns)}, {counted(len(raced[0].nights), 'times')} each")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("VMM")
    for name in ("saw it", "in the window", "window", "stepped back, most", "went on, least", "most"):
        table.add_column(name, justify="right")
    for one in raced:
        table.add_row(one.vmm, *_cells(one), style="bold red" if one.hits and one.vmm == "asked" else "")
    console.print(table)
    for one in raced:
        for line in hanging(f"  {one.vmm}: ", ABOUT[one.vmm], console.width):
            console.print(line, soft_wrap=True)
    for line in hanging("", READ, console.width):
        console.print(line, soft_wrap=True)


def _cells(one: Raced) -> tuple[str, ...]:
    looks = one.vmm == "looks"
    held = grouped(sum(night.frozen == WINDOW for night in one.nights)) if looks else NONE
    back = max((ns for night in one.nights for ns in night.back_ns.values()), default=0)
    unseen = [max(night.went_on_ns.values()) for night in one.nights if not night.before]
    share = f"{100 * one.window_ns / one.round_ns:.1f} %" if looks else NONE
    spread = (duration(min(unseen)), duration(max(unseen))) if unseen else (NONE, NONE)
    return grouped(len(one.hits)), held, share, duration(back) if back else NONE, *spread


def document(where: str, away_ns: int, raced: Sequence[Raced]) -> dict[str, Any]:
    """The same as JSON values, each sleep by itself."""
    told = [{**asdict(one), "saw_it": len(one.hits)} for one in raced]
    return {"guestclock_race": FORMAT, "where": where, "away_ns": away_ns, "keeps": keeps(raced), "vmms": told}


def write(where: str, away_ns: int, raced: Sequence[Raced], out: TextIO) -> None:
    json.dump(document(where, away_ns, raced), out, indent=2)
    out.write("\n")
