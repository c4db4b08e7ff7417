"""Traces and figures as files. Paths are checked before anything runs: a lab run is not lost to a typing mistake."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guestclock.check import Mark, Story
from guestclock.errors import UserError

Column = tuple[Story, list[Mark]]


def check_paths(trace: Path | None, figure: Path | None) -> None:
    """Raises UserError for a path that cannot be written to, or that is no picture's. Makes nothing yet."""
    if figure is not None:
        from guestclock.report.figure import check_suffix

        check_suffix(figure)
        if trace is not None and os.path.realpath(trace) == os.path.realpath(figure):
            raise UserError(f"--figure {figure}: --save-trace writes there, expected another name")
    for option, path in (("--save-trace", trace), ("--figure", figure)):
        if path is None:
            continue
        if os.path.isdir(path):
            raise UserError(f"{option} {path}: is a directory, expected a file's name")
        place = path if os.path.lexists(path) else _nearest(path.parent)
        if not os.path.isdir(place) and place != path:
            raise UserError(f"{option} {path}: {place} is no directory")
        if not os.access(place, os.W_OK if place == path else os.W_OK | os.X_OK):
            raise UserError(f"{option} {path}: cannot be written: no permission for {place}")


def _nearest(directory: Path) -> Path:
    """The directory itself, or what there is of the way to it."""
    while not os.path.lexists(directory):
        directory = directory.parent
    return directory


def _make_room(option: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{option} {path}: {path.parent} cannot be made: {error.strerror}") from None


def save(runs: Sequence[Column], trace: Path | None, figure: Path | None) -> list[str]:
    """Writes what was asked for. Returns a line for each file."""
    notes = []
    if trace is not None:
        _make_room("--save-trace", trace)
        notes += [f"trace: {path}" for path in _save_traces(runs, trace)]
    if figure is not None:
        from guestclock.report.figure import draw

        _make_room("--figure", figure)
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
