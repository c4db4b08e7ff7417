"""One program in a machine of its own, forked from a snapshot: it meets nothing that another one left behind."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from guestclock.errors import UserError
from guestclock.lab import exchange
from guestclock.lab.inside import ERROR, MARK, USER_ERROR
from guestclock.lab.process import Memory, Process, path_of, tail
from guestclock.lab.snapshots import STOPPED, Boot, Snapshot, devices, load_state
from guestclock.lab.tools import LabError

Lines = list[dict[str, Any]]


def run(
    boot: Boot, snapshot: Snapshot, program: Mapping[str, Any], *, timeout_s: float, cpu_s: int | None = None
) -> tuple[Lines, str]:
    """(The JSON lines that a program wrote, what came out on the console.)

    timeout_s is wall-clock time; cpu_s: CPU time, see `Process`. `UserError` where the program inside raised one;
    `LabError` where it failed otherwise, the machine died, or the time was up.
    """
    try:
        asked = exchange.with_program(json.dumps(program).encode())
    except ValueError as trouble:
        raise UserError(f"lab: the program is too long: {trouble}") from None
    with (
        Memory("exchange", asked, size=exchange.SIZE) as shared,
        Memory("results") as results,
        Memory("state", snapshot.state) as state,
    ):
        hardware = [
            *boot.machine.hardware(recorded=True),
            *devices(boot.machine, path_of(snapshot.ram), shared.path, share=False),
        ]
        command = [*boot.start, *hardware, "-incoming", "defer"]
        fds = (snapshot.ram, shared.fd, results.fd)
        on_one_cpu = boot.machine.deterministic and not boot.machine.recordable
        with Process(command, fds=fds, timeout_s=timeout_s, on_one_cpu=on_one_cpu, cpu_s=cpu_s) as qemu:
            load_state(qemu, state.fd)
            qemu.command("cont")
            while (event := qemu.event()).name != STOPPED:
                # In virtual time nothing else would wake it, and it sleeps on by itself (`sleep_rom`).
                if event.name == "SUSPEND" and boot.machine.deterministic:
                    qemu.command("system_wakeup")
            return parse_results(_results(qemu, snapshot, results)), qemu.console()


def _results(qemu: Process, snapshot: Snapshot, into: Memory) -> str:
    """What a stopped machine has in its end of the exchange."""

    def save(at: int, length: int) -> bytes:
        qemu.command("pmemsave", val=snapshot.facts.exchange_at + at, size=length, filename=into.path)
        return into.read(length)

    length = exchange.results_length(save(0, exchange.HEADER.size))
    if length is None:
        raise LabError(f"lab: the program inside stopped without results\n{tail(qemu.console())}")
    return save(exchange.RESULTS_AT, length).decode() if length else ""


def parse_results(text: str) -> Lines:
    """What a program wrote, a JSON value a line; how it failed, as an exception."""
    lines: Lines = [json.loads(line) for line in text.splitlines()]
    if lines and lines[-1].get(MARK) == ERROR:
        failure = lines[-1]
        if failure["kind"] == USER_ERROR:
            raise UserError(failure["message"])
        told = f"lab: the program inside failed: {failure['kind']}: {failure['message']}"
        raise LabError(f"{told}\n{tail(failure['traceback'])}")
    return lines
