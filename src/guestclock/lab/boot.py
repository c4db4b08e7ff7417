"""Run a program inside a real kernel, and take its results back.

    Lab("6.12").run({"program": "probe"})

One run is one boot: six to eight seconds in virtual time, four to five without. Nothing goes in while it runs (input
would break determinism), so a program that depends on what it reads decides inside.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guestclock.errors import UserError
from guestclock.lab import qemu
from guestclock.lab.inside import END
from guestclock.lab.overlay import overlay
from guestclock.lab.setup import check_name, find_image
from guestclock.lab.tools import LabError, cache_dir, require

ODD_TSC_KHZ = 2_596_122
TAIL_LINES = 25


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

    def run(self, program: Mapping[str, Any], *, timeout_s: float = 600) -> list[dict[str, Any]]:
        """Boot, run the program, power off; the JSON lines it wrote, in order. timeout_s is wall-clock time.

        `UserError` where a tool or the kernel's image is missing, `LabError` where the run did not come to a good end.
        """
        require("qemu-system-x86_64")
        image = find_image(self.kernel)
        if image is None:
            advice = f"run 'guestclock lab setup --kernel {self.kernel}'"
            raise UserError(f"lab: kernel {self.kernel} is not set up: {advice}")
        with tempfile.TemporaryDirectory(prefix="guestclock-lab-") as work:
            output = Path(work)
            initrd = output / "initrd.cpio"
            initrd.write_bytes(image.base.read_bytes() + overlay(program, on=image, cache=cache_dir()))
            command = self.machine.command(kernel=image.kernel, initrd=initrd, output=output)
            try:
                qemu.run(command, timeout_s=timeout_s)
                results = _text(output / qemu.RESULTS)
                return parse_results(results)
            except LabError as trouble:
                raise LabError(f"{trouble}\n{_tail(_text(output / qemu.CONSOLE))}") from None
            finally:
                self.console = _text(output / qemu.CONSOLE)


def parse_results(text: str) -> list[dict[str, Any]]:
    """The JSON lines of a run, checked against its end marker."""
    *lines, last = text.splitlines() or [""]
    words = last.split()
    if len(words) != 3 or words[0] != END:
        raise LabError(f"lab: no end marker after {len(lines)} lines of results: the kernel or the program died")
    if words[1] != str(len(lines)):
        raise LabError(f"lab: {len(lines)} lines of results arrived, {words[1]} were written")
    if words[2] != "ok":
        raise LabError("lab: the program inside failed")
    return [json.loads(line) for line in lines]


def _tail(console: str) -> str:
    lines = [line.rstrip() for line in console.splitlines() if line.strip()]
    return "\n".join(f"  | {line}" for line in lines[-TAIL_LINES:]) or "  (nothing on the console)"


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""
