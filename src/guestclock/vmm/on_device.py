"""A program run on this machine's KVM: the entry for the lab's inside and for `--on kvm`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guestclock.errors import UserError
from guestclock.kvm.api import Host, drive
from guestclock.kvm.device import open_device
from guestclock.sim.trace import TRACE_VERSION
from guestclock.vmm.steps import play

OPTIONS = {"host_ops_allowed": bool, "trace": bool}


def run_program(program: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
    """Plays a program's steps and emits a saved trace, line by line: the meta first, then each event as JSON values.

    program: `steps` and what else `guestclock.vmm.steps.play` reads; "options" are those of `open_device`. Raises
    UserError for a program or an operation that cannot be carried out here; what was done until then has been emitted.
    """
    options = program.get("options", {})
    for name, value in options.items():
        if name not in OPTIONS:
            raise UserError(f"program: unknown option {name!r} (known: {', '.join(OPTIONS)})")
        if not isinstance(value, OPTIONS[name]):
            raise UserError(f"program: option {name}: {value!r}, expected true or false")
    # The meta must come first, and KVM's rate, which belongs to it, is known once the device is open.
    waiting: list[dict[str, Any]] = []
    send = waiting.append
    with open_device(lambda event: send(event.as_json()), **options) as kvm:
        emit({"guestclock_trace": TRACE_VERSION, **kvm.meta()})
        for line in waiting:
            emit(line)
        send = emit
        drive(play(Host(), program), kvm.execute)
