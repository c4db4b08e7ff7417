"""A program run on this machine's KVM: the entry for the lab's inside and for `--on kvm`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guestclock.errors import UserError
from guestclock.kvm.api import Host, Recipe, drive
from guestclock.kvm.device import open_device
from guestclock.sim.trace import TRACE_VERSION
from guestclock.vmm.half import play_half
from guestclock.vmm.steps import play

OPTIONS = {"host_ops_allowed": bool, "trace": bool}
SCRIPT = "script"
"""What a script's recipe is called."""

EmitLine = Callable[[dict[str, Any]], None]


def run_program(program: dict[str, Any], emit: EmitLine) -> None:
    """Plays a program's steps and emits a saved trace, line by line: the meta first, then each event as JSON values.

    program: `steps` and what else `guestclock.vmm.steps.play` reads; "options" are those of `open_device`. Raises
    UserError for a program or an operation that cannot be carried out here; what was done until then has been emitted.
    """
    _run(lambda: play(Host(), program), program, emit)


def run_script(program: dict[str, Any], emit: EmitLine) -> None:
    """Runs a recipe given as text: what to ask next depends on what was read, or is asked a thousand times.

    program: "source" defines `async def script(host, tell)`, which gets a `kvm.api.Host`; each `tell(x)`, a dict of
    JSON values, is a line. "events": whether the trace is emitted around these lines too. "options": see `run_program`.
    """
    names: dict[str, Any] = {}
    exec(compile(program["source"], SCRIPT, "exec"), names)
    if SCRIPT not in names:
        raise UserError(f"program: the source does not define 'async def {SCRIPT}(host, tell)'")
    events = emit if program.get("events", False) else lambda line: None
    _run(lambda: names[SCRIPT](Host(), emit), program, events)


def run_half(program: dict[str, Any], emit: EmitLine) -> None:
    """Plays one half of a migration, see `guestclock.vmm.half`. After a save's trace comes {"snapshot": ...}."""
    snapshot = _run(lambda: play_half(Host(), program), program, emit)
    if snapshot is not None:
        emit({"snapshot": snapshot})


def _run(recipe: Callable[[], Recipe], program: dict[str, Any], emit: EmitLine) -> Any:
    """What the recipe returns."""
    options = program.get("options", {})
    for name, value in options.items():
        if name not in OPTIONS:
            raise UserError(f"program: unknown option {name!r} (known: {', '.join(OPTIONS)})")
        if not isinstance(value, OPTIONS[name]):
            raise UserError(f"program: option {name}: {value!r}, expected true or false")
    # The meta must come first, and the counter's rate, which belongs to it, is known once the device is open.
    waiting: list[dict[str, Any]] = []
    send = waiting.append
    with open_device(lambda event: send(event.as_json()), **options) as kvm:
        emit({"guestclock_trace": TRACE_VERSION, **kvm.meta()})
        for line in waiting:
            emit(line)
        send = emit
        return drive(recipe(), kvm.execute)
