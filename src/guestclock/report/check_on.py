"""What a real kernel makes of the calls of each violation that a check has found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from guestclock.checks import replay_file
from guestclock.checks.forced import forced
from guestclock.errors import UserError
from guestclock.report.check import Checked, retold
from guestclock.report.numbers import grouped
from guestclock.runs.on import parse_on


def ask(done: Sequence[Checked], machines: Sequence[str], progress: Callable[[str], None]) -> None:
    """Enters into `real` of each what the machines show. Raises UserError for one that is none, or is not here."""
    for machine in machines:
        if parse_on(machine).kind == "model":
            raise UserError(f"--on {machine}: is what check does by itself; expected kvm or lab:KERNEL")
    for each in done:
        for name in each.replays:
            path = each.worst.get(name, each.replays[name])
            file = replay_file.load(path)
            for machine in machines:
                each.real.setdefault(name, []).append(_one(file, path.name, machine, progress))


def _one(file: replay_file.ReplayFile, name: str, machine: str, progress: Callable[[str], None]) -> tuple[str, str]:
    try:
        run = forced(file, retold(file, name), machine, progress)
    except UserError as refused:
        if not str(refused).startswith("--on"):
            raise
        return machine, "not asked: " + str(refused).removeprefix("--on: ").removeprefix(f"--on {machine}: ")
    most = "" if run.most == run.least else f" to {grouped(run.most)}"
    shown = f"{grouped(run.least)}{most} {file.unit}" if run.violated else f"at most {grouped(run.most)} {file.unit}"
    verdict = "violated" if run.violated else "NOT violated"
    return f"{machine} ({run.kernel})", f"{verdict} there too: {shown}" if run.violated else f"{verdict} there: {shown}"
