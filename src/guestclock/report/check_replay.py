"""What `guestclock replay` prints."""

from __future__ import annotations

import json as json_
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from guestclock import __version__
from guestclock.checks.replay_file import ReplayFile, portable
from guestclock.checks.story import Story
from guestclock.report.check import retold, why_lines
from guestclock.report.check_story import story_lines
from guestclock.report.check_table import Line, as_text, hanging
from guestclock.report.check_words import amount, khz_of, who_named
from guestclock.report.numbers import grouped

if TYPE_CHECKING:
    from guestclock.checks.forced import Forced


def what(file: ReplayFile) -> str:
    """The recipe or scenario, its size and kernel."""
    spec = file.spec
    recipe = portable(spec.recipe) or "a scenario"
    return f"{recipe}, {spec.vcpus} vCPU{'s' if spec.vcpus != 1 else ''}, on {portable(spec.kernel)}"


def lines(file: ReplayFile, story: Story, width: int) -> Iterator[Line]:
    khz = khz_of(file.spec)
    shown = f"{amount(story.value, file.unit, khz)} {file.sense}: {who_named(file.who)}"
    same = "as recorded" if story.value == file.value else f"NOT as recorded ({grouped(file.value)} {file.unit})"
    yield what(file), "bold"
    yield from hanging(f"{file.property}  ", f"{shown}, {same}", width, "bold red")
    yield "", ""
    yield from story_lines(story, width, "  ")
    yield from why_lines(story, width, set())


def show(console: Console, file: ReplayFile, story: Story) -> None:
    for text in as_text(lines(file, story, console.width)):
        console.print(text, soft_wrap=True)


def show_forced(console: Console, file: ReplayFile, run: Forced, *, json: bool) -> None:
    """What a real kernel made of the same calls."""
    if json:
        document = {
            "guestclock_replayed": 1,
            "guestclock": __version__,
            "property": file.property,
            "on": run.on,
            "kernel": run.kernel,
            "unit": file.unit,
            "recorded": file.value,
            "violated": run.violated,
            "at_least": run.least,
            "at_most": run.most,
        }
        print(json_.dumps(document, indent=2))
        return
    khz = khz_of(file.spec)
    named = f"{run.on} ({run.kernel})"
    if run.violated:
        most = "" if run.most == run.least else f" to {grouped(run.most)}"
        told = f"violated: {grouped(run.least)}{most} {file.unit} apart"
    else:
        told = f"holds: at most {grouped(run.most)} {file.unit} apart"
    for line, style in (
        (what(file), "bold"),
        (f"recorded  {amount(file.value, file.unit, khz)} {file.sense}: {who_named(file.who)}", ""),
        (f"{named}  {told}", "bold red" if run.violated else "green"),
    ):
        for text in as_text(hanging("", line, console.width, style)):
            console.print(text, soft_wrap=True)


__all__ = ["lines", "retold", "show", "show_forced", "what"]
