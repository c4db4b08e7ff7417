"""What comparing random programs with a real kernel found, in words, as JSON, and as files to run again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from guestclock.compare.session import Compared, Session
from guestclock.compare.verdict import Verdict
from guestclock.errors import UserError

SHOWN = 5


def lines(session: Session, differing: list[Compared], files: dict[int, Path]) -> Iterator[str]:
    """The page. files: where each differing program was kept, by seed."""
    for compared in differing:
        program, verdict = compared.shortest or (compared.program, compared.verdict)
        what = "a program" if compared.seed < 0 else f"seed {compared.seed}"
        yield f"DIFFERS  {what} on {session.where}, against {session.profile}"
        yield from _told(verdict)
        yield ""
        short = f", cut down from {len(compared.program['steps'])}" if compared.shortest else ""
        yield f"  the program, {_count(len(program['steps']), 'step')}{short}:"
        for number, step in enumerate(program["steps"], 1):
            yield f"    {number:>2}  {step['say']}"
        if compared.seed in files:
            yield f"  again: guestclock lab compare {_lab(session)} --program {files[compared.seed]}"
        yield ""
    yield session.tally.line(f"{session.where} ({session.profile})")
    left_open = session.tally.numbers()["left_open"]
    if left_open:
        told = ", ".join(f"{name.rpartition(', ')[0]} to {width} {name.rpartition(', ')[2]}"
                         for name, width in sorted(left_open.items()))  # fmt: skip
        yield f"what only sandwiches tell, all readings together: {told}"


def _told(verdict: Verdict) -> Iterator[str]:
    for difference in verdict.differences[:SHOWN]:
        yield f"  {difference}"
    more = len(verdict.differences) - SHOWN
    if more > 0:
        yield f"  and {more} more"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _lab(session: Session) -> str:
    return session.where.removeprefix("lab:") + ("" if session.cpu or session.arch == "x86_64" else " --arch arm64")


def write(session: Session, differing: list[Compared], files: dict[int, Path], out: TextIO) -> None:
    """The same as JSON."""
    document = {
        "where": session.where,
        "arch": session.arch,
        "profile": session.profile,
        **session.tally.numbers(),
        "differences": [_as_json(compared, files) for compared in differing],
    }
    json.dump(document, out, indent=2)
    out.write("\n")


def _as_json(compared: Compared, files: dict[int, Path]) -> dict[str, Any]:
    program, verdict = compared.shortest or (compared.program, compared.verdict)
    return {
        "seed": compared.seed,
        "program": program,
        "file": str(files[compared.seed]) if compared.seed in files else None,
        "differences": [
            {"operation": d.index, "name": d.operation, "what": d.what, "real": d.real, "model": d.model}
            for d in verdict.differences
        ],
    }


def keep(compared: Compared, session: Session, out: Path) -> Path:
    """Writes the (shortest) program that differs; where to. UserError where it cannot be written."""
    program, _ = compared.shortest or (compared.program, compared.verdict)
    path = out / f"compare-{session.arch}-{session.kernel}-{max(compared.seed, 0)}.json"
    try:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(program, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def read_program(path: Path) -> dict[str, Any]:
    """A program that `keep` wrote, or that somebody wrote like it. Raises UserError."""
    try:
        program = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    if not isinstance(program, dict) or not isinstance(program.get("steps"), list) or "vcpus" not in program:
        raise UserError(f"{path}: expected a program: an object with vcpus and steps")
    return {"program": "steps", **program}
