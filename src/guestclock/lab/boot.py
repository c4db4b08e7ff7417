"""Run a program inside a real kernel, and take its results back.

    Lab("6.12").run({"program": "probe"})

One run is one boot: six to eight seconds in virtual time, four to five without; so several programs share one where
they can. Nothing goes in while it runs (input would break determinism), so a program that depends on what it reads
decides inside.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from guestclock.errors import UserError
from guestclock.lab import emulator, qemu
from guestclock.lab.inside import END, ERROR, MARK, PROGRAM, USER_ERROR
from guestclock.lab.overlay import overlay
from guestclock.lab.setup import Image, check_name, find_image
from guestclock.lab.tools import LabError, cache_dir

ODD_TSC_KHZ = 2_596_122
TAIL_LINES = 25
DEFAULT_TIMEOUT_S = 600.0


class Lab:
    """A kernel in a machine of its own. `run` may be called any number of times, from several threads."""

    def __init__(
        self,
        kernel: str,
        *,
        smp: int = 1,
        tsc_khz: int | None = ODD_TSC_KHZ,
        memory_mib: int = 512,
        deterministic: bool = True,
        extra_cmdline: str = "",
    ) -> None:
        """kernel: "6.1", "6.12", ... as `guestclock lab setup` made it.

        smp: CPUs of the inner host. More than one is not bit-identical from run to run (see `qemu`), nor does it make
        threads run side by side in virtual time; many vCPUs do not need it.
        tsc_khz: what the kernel shall believe of its TSC; None lets it calibrate (1 GHz in virtual time).
        deterministic: virtual time; every run of a program gives the same bytes. Otherwise faster, in the host's time.
        """
        if smp < 1:
            raise UserError(f"lab: smp {smp}: expected at least 1")
        if memory_mib < 256:
            raise UserError(f"lab: memory_mib {memory_mib}: expected at least 256")
        self.kernel = check_name(kernel)
        self.machine = qemu.Machine(
            smp=smp,
            tsc_khz=tsc_khz,
            memory_mib=memory_mib,
            deterministic=deterministic,
            extra_cmdline=extra_cmdline,
        )
        self.console = ""
        """What the latest run wrote to the console."""

    def run(self, program: Mapping[str, Any], *, timeout_s: float = DEFAULT_TIMEOUT_S) -> list[dict[str, Any]]:
        """`run_many` for one program."""
        return self.run_many([program], timeout_s=timeout_s)[0]

    def run_many(
        self, programs: Sequence[Mapping[str, Any]], *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> list[list[dict[str, Any]]]:
        """Boot once, run these programs one after the other, power off; the JSON lines that each wrote, in order.

        timeout_s is wall-clock time, for all of it. `UserError` where QEMU or the kernel's image is missing, and what
        a program inside raised as one; `LabError` where it failed otherwise. The first failure is raised, at the end.
        """
        outcomes = self.outcomes(programs, timeout_s=timeout_s)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return [outcome for outcome in outcomes if not isinstance(outcome, Exception)]

    def outcomes(
        self, programs: Sequence[Mapping[str, Any]], *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> list[list[dict[str, Any]] | UserError | LabError]:
        """As `run_many`, but a program that failed inside has its error in its place."""
        if not programs:
            return []
        image, start = ready(self.kernel)
        with tempfile.TemporaryDirectory(prefix="guestclock-lab-") as work:
            output = Path(work)
            initrd = output / "initrd.cpio"
            batch = {"program": "batch", "programs": list(programs)}
            initrd.write_bytes(image.base.read_bytes() + overlay(batch, on=image, cache=cache_dir()))
            arguments = self.machine.arguments(kernel=image.kernel, initrd=initrd, output=output)
            try:
                qemu.run([*start, *arguments], timeout_s=timeout_s)
                return parse_results(_text(output / qemu.RESULTS), len(programs))
            except LabError as trouble:
                raise LabError(f"{trouble}\n{_tail(_text(output / qemu.CONSOLE))}") from None
            finally:
                self.console = _text(output / qemu.CONSOLE)


def ready(kernel: str) -> tuple[Image, list[str]]:
    """A kernel's image, and how QEMU is started. Raises `UserError` with what to do where one is missing."""
    image = find_image(kernel)
    start = emulator.command()
    if image is None:
        raise UserError(f"lab: kernel {kernel} is not set up: run 'guestclock lab setup --kernel {kernel}'")
    return image, start


def parse_results(text: str, programs: int) -> list[list[dict[str, Any]] | UserError | LabError]:
    """What each of so many programs wrote, or how it failed. `LabError` where a line or a program is missing."""
    *lines, last = text.splitlines() or [""]
    words = last.split()
    if len(words) != 3 or words[0] != END:
        raise LabError(f"lab: no end marker after {len(lines)} lines of results: the kernel or the program died")
    if words[1] != str(len(lines)):
        raise LabError(f"lab: {len(lines)} lines of results arrived, {words[1]} were written")
    outcomes: list[list[dict[str, Any]] | UserError | LabError] = []
    written: list[dict[str, Any]] = []
    for line in map(json.loads, lines):
        if line.get(MARK) == PROGRAM and line["index"] == len(outcomes):
            written = []
            outcomes.append(written)
        elif not outcomes:
            raise LabError("lab: results of no program")
        elif line.get(MARK) == ERROR:
            outcomes[-1] = _failure(line, len(outcomes) - 1, programs)
        else:
            written.append(line)
    if len(outcomes) != programs:
        raise LabError(f"lab: results of {len(outcomes)} programs, expected {programs}")
    return outcomes


def _failure(line: Mapping[str, Any], index: int, programs: int) -> UserError | LabError:
    if line["kind"] == USER_ERROR:
        return UserError(line["message"])
    which = f" {index + 1} of {programs}" if programs > 1 else ""
    told = f"lab: the program inside failed{which}: {line['kind']}: {line['message']}"
    return LabError(f"{told}\n{_tail(line['traceback'])}")


def _tail(console: str) -> str:
    lines = [line.rstrip() for line in console.splitlines() if line.strip()]
    return "\n".join(f"  | {line}" for line in lines[-TAIL_LINES:]) or "  (nothing on the console)"


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
