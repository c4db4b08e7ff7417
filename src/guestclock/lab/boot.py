"""Run a program inside a real kernel, and take its results back.

    Lab("6.12").run({"program": "probe"})

Every program gets a machine of its own, as it was when its kernel had just booted: forked from a snapshot, which is
made at the first use and kept (see `snapshots`). Nothing goes in while it runs (input would break determinism), so a
program that depends on what it reads decides inside.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import BoundedSemaphore
from typing import Any

from guestclock.errors import UserError
from guestclock.lab import emulator, fork
from guestclock.lab.arch import ARM64, X86, Arch, arch_of
from guestclock.lab.arm64 import DEFAULT_CPU, ODD_COUNTER_HZ, Arm64Machine
from guestclock.lab.overlay import overlay
from guestclock.lab.process import end_all
from guestclock.lab.qemu import Machine, X86Machine
from guestclock.lab.setup import Image, check_name, find_image
from guestclock.lab.snapshots import Boot, Snapshot, find_or_make
from guestclock.lab.tools import LabError, cache_dir, no_room

ODD_TSC_KHZ = 2_596_122
DEFAULT_TIMEOUT_S = 600.0

AT_ONCE = max(1, min(4, len(os.sched_getaffinity(0))))
"""So many machines of this process run at a time: in virtual time, each keeps one CPU busy."""

_turns = BoundedSemaphore(AT_ONCE)


class Lab:
    """A kernel in a machine of its own. `run` may be called any number of times, from several threads."""

    def __init__(
        self,
        kernel: str,
        *,
        arch: str = X86.name,
        smp: int = 1,
        tsc_khz: int | None = ODD_TSC_KHZ,
        clocksource: str = "tsc",
        tsc_unstable: bool = False,
        cpu: str = "",
        counter_hz: int = ODD_COUNTER_HZ,
        memory_mib: int = 512,
        deterministic: bool = True,
        extra_cmdline: str = "",
        more: bytes = b"",
        cpu_s: int | None = None,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """kernel: "6.1", "6.12", ... as `guestclock lab setup` made it. arch: "x86" or "arm64".

        smp: CPUs of the inner host. More than one is not bit-identical from run to run (see `qemu`), nor does it make
        threads run side by side in virtual time; many vCPUs do not need it.
        tsc_khz: x86: what the kernel shall believe of its TSC; None lets it calibrate (1 GHz in virtual time).
        clocksource: x86: "tsc", "hpet" or "acpi_pm". tsc_unstable: x86: its kernel does not trust its TSC, ever.
        cpu: arm64: one of `arm64.CPUS`, or the usual one. counter_hz: arm64: what CNTFRQ_EL0 says; the counter's true
        period is the whole number of ns in it.
        deterministic: virtual time; every run of a program gives the same bytes. Otherwise the host's time.
        more: an archive of files that are inside besides the usual ones.
        cpu_s: CPU time that a program's machine may use; beyond it, it is Stuck. None: as much as it takes.
        progress: is told, a line each time, what takes long.
        """
        if smp < 1:
            raise UserError(f"lab: smp {smp}: expected at least 1")
        if memory_mib < 256:
            raise UserError(f"lab: memory_mib {memory_mib}: expected at least 256")
        self.kernel, self.arch = check_name(kernel), arch_of(arch)
        common: dict[str, Any] = {
            "smp": smp,
            "memory_mib": memory_mib,
            "deterministic": deterministic,
            "extra_cmdline": extra_cmdline,
        }
        self.machine: Machine
        if self.arch is ARM64:
            self.machine = Arm64Machine(cpu=cpu or DEFAULT_CPU, counter_hz=counter_hz, **common)
        elif cpu:
            raise UserError(f"lab: cpu {cpu!r}: an x86 lab has one kind of CPU only")
        else:
            own: dict[str, Any] = {"tsc_khz": tsc_khz, "clocksource": clocksource, "tsc_unstable": tsc_unstable}
            self.machine = X86Machine(**own, **common)
        self.console = ""
        """What the latest run wrote to the console."""
        self._more, self._cpu_s, self._progress = more, cpu_s, progress

    def run(self, program: Mapping[str, Any], *, timeout_s: float = DEFAULT_TIMEOUT_S) -> list[dict[str, Any]]:
        """`run_many` for one program."""
        return self.run_many([program], timeout_s=timeout_s)[0]

    def run_many(
        self, programs: Sequence[Mapping[str, Any]], *, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> list[list[dict[str, Any]]]:
        """Run these programs, each in a machine of its own; the JSON lines that each wrote, in order.

        timeout_s is wall-clock time, for each of them. `UserError` where QEMU or the kernel's image is missing, and
        what a program inside raised as one; `LabError` where it failed otherwise. The first failure is raised, at the
        end.
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
        machines = {program_sleeps(program): self.machine for program in programs}
        if True in machines:
            machines[True] = self.machine.that_sleeps()
        cache = cache_dir()
        with ExitStack() as opened, ThreadPoolExecutor(AT_ONCE) as pool:
            booted = {}
            for sleeps, machine in machines.items():
                try:
                    boot = self.boot(machine)
                    booted[sleeps] = boot, opened.enter_context(find_or_make(boot, cache, self._progress))
                except OSError as error:
                    raise no_room(error, cache) from None
            futures = [pool.submit(self._outcome, *booted[program_sleeps(p)], p, timeout_s) for p in programs]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                end_all()
                raise

    def boot(self, machine: Machine | None = None) -> Boot:
        """What this lab boots, on its usual machine or another. Raises `UserError` with what to do where something of
        it is missing.
        """
        image, start = ready(self.kernel, self.arch)
        machine = machine or self.machine
        archives = overlay(on=image, cache=cache_dir()) + self._more
        return Boot(tuple(start), machine, image, archives, machine.device_tree(start), machine.rom())

    def _outcome(
        self, boot: Boot, snapshot: Snapshot, program: Mapping[str, Any], timeout_s: float
    ) -> list[dict[str, Any]] | UserError | LabError:
        with _turns:
            try:
                lines, self.console = fork.run(boot, snapshot, program, timeout_s=timeout_s, cpu_s=self._cpu_s)
            except (UserError, LabError) as error:
                return error
            return lines


def program_sleeps(program: Mapping[str, Any]) -> bool:
    """Does a program put its host to sleep? A script says so itself ("sleeps")."""
    steps = program.get("steps", ())
    asleep = any(step.get("actor") == "host" and step.get("do") == "sleep" for step in steps)
    return bool(program.get("sleeps", asleep))


def ready(kernel: str, arch: Arch = X86) -> tuple[Image, list[str]]:
    """A kernel's image, and how QEMU is started. Raises `UserError` with what to do where one is missing."""
    image = find_image(kernel, arch=arch)
    start = emulator.command(arch=arch)
    if image is None:
        raise UserError(f"lab: kernel {kernel} is not set up: run '{emulator.setup_command(arch, kernel)}'")
    return image, start
