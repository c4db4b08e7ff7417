"""Traces and figures as files. Paths are checked before anything runs: a lab run is not lost to a typing mistake."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guestclock.check import Mark, Story
from guestclock.errors import UserError

Column = tuple[Story, list[Mark]]


def check_paths(trace: Path | None, figure: Path | None) -> None:
    """Raises UserError for a path that cannot be written to, or that is no picture's."""
    if figure is not None:
        from guestclock.report.figure import check_suffix

        check_suffix(figure)
    for option, path in (("--save-trace", trace), ("--figure", figure)):
        if path is not None and path.is_dir():
            raise UserError(f"{option} {path}: is a directory, expected a file's name")
        if path is not None:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{option} {path}: {path.parent} cannot be made: {error.strerror}") from None


def save(runs: Sequence[Column], trace: Path | None, figure: Path | None) -> list[str]:
    """Writes what was asked for. Returns a line for each file."""
    notes = []
    if trace is not None:
        notes += [f"trace: {path}" for path in _save_traces(runs, trace)]
    if figure is not None:
        from guestclock.report.figure import draw

        draw(runs, figure)
        notes.append(f"figure: {figure}")
    return notes


def _save_traces(runs: Sequence[Column], path: Path) -> list[Path]:
    written = []
    for number, (story, _) in enumerate(runs, 1):
        place = path if len(runs) == 1 else path.with_stem(f"{path.stem}-{_named(story.trace.meta, number)}")
        try:
            with place.open("w") as out:
                story.trace.save(out)
        except OSError as error:
            raise UserError(f"--save-trace {place}: cannot be written: {error.strerror}") from None
        written.append(place)
    return written


def _named(meta: dict[str, Any], number: int) -> str:
    """A run's part of a file name: its number keeps variations apart."""
    machine = meta["kernel"] if meta["on"] == "model" else meta["on"]
    return f"{number}-{re.sub(r'[^A-Za-z0-9.+-]', '-', str(machine))}"
