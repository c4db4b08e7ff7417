"""A check as a person runs it: it can be interrupted, and what was interrupted goes on from a file."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guestclock.checks.target import Target
from guestclock.errors import UserError
from guestclock.report.check import Checked, checked, file_name


def run(
    targets: Sequence[Target],
    out: Path,
    progress: Callable[[str], None],
    resume: Path | None,
    how: dict[str, Any],
) -> tuple[list[Checked], list[str]]:
    """All targets, one after the other, and what there is to say about those that did not come to an end.

    Interrupted, it tells what it knows by then. Raises UserError for a file that is not this check's.
    """
    if resume is not None and len(targets) != 1:
        raise UserError(f"--resume {resume}: is one search's, but this command has {len(targets)}")
    state = None if resume is None else _read(resume)
    done: list[Checked] = []
    remarks: list[str] = []
    with _interruptible() as interrupted:
        for target in targets:
            try:
                each = checked(target, out, progress, **how, resume=state, stop=interrupted)
            except UserError as error:
                raise UserError(f"--resume {resume}: {error}" if _of_the_file(error) else str(error)) from None
            done.append(each)
            if each.result.state is not None:
                path = resume or out / f"{file_name(target)}.search.json"
                _write(path, each.result.state)
                why = "interrupted" if interrupted() else "the budget ended"
                remarks.append(f"{why} after {each.result.tally.orders} orders; it goes on with --resume {path}")
            if interrupted():
                break
    return done, remarks


def _of_the_file(error: UserError) -> bool:
    return "search's file" in str(error)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C ends the search between two orders; once more ends the program."""
    heard: list[int] = []

    def hear(number: int, frame: Any) -> None:
        if heard:
            raise KeyboardInterrupt
        heard.append(number)

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield lambda: bool(heard)
    finally:
        signal.signal(signal.SIGINT, before)


def _read(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--resume {path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"--resume {path}: damaged, not JSON: {error}") from None
    if not isinstance(state, dict):
        raise UserError(f"--resume {path}: not a search's file")
    return state


def _write(path: Path, state: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(state) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
