"""One entry into the guest: a Run's actions as commands of the mailbox, and the commands' answers."""

from __future__ import annotations

from typing import Any

from guestclock.arith.kernel import u64
from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.device.arm64 import guest
from guestclock.kvm.device.ioctls import IoctlError, Stamps

_HYPERVISOR = (api.EnterL2, api.ExitL2)


def commands(actions: tuple[api.GuestAction, ...]) -> list[guest.Command]:
    """Raises UserError for what this guest cannot do, and for more than its mailbox holds."""
    if len(actions) > guest.MAX_COMMANDS:
        raise UserError(f"Run: {len(actions)} actions, the guest's mailbox holds {guest.MAX_COMMANDS}")
    return [_command(action) for action in actions]


def _command(action: api.GuestAction) -> guest.Command:
    match action:
        case api.ReadCounters():
            return guest.Command(guest.READ)
        case api.ReadSysreg(name):
            return guest.Command(guest.MRS, _index(name))
        case api.WriteSysreg(name, value):
            return guest.Command(guest.MSR, _index(name), x=(u64(value), 0, 0, 0))
        case api.Hvc(x0, x1, x2, x3):
            return guest.Command(guest.HVC, x=(u64(x0), u64(x1), u64(x2), u64(x3)))
    if isinstance(action, _HYPERVISOR):
        raise UserError(f"Run: {type(action).__name__}: this guest is no hypervisor; run it on the model")
    raise UserError(f"Run: {type(action).__name__}: an arm64 guest has nothing of the kind")


def _index(name: str) -> int:
    if name not in guest.SYSREGS:
        raise UserError(f"Run: system register {name!r}: expected one of {', '.join(guest.SYSREGS)}")
    return guest.SYSREGS.index(name)


def answers(actions: tuple[api.GuestAction, ...], done: list[guest.Command], stamps: Stamps) -> list[Any]:
    """One answer per action. Raises IoctlError EFAULT where an instruction of the guest's faulted."""
    for action, command in zip(actions, done, strict=True):
        if command.fault:
            what = {guest.MRS: "MRS", guest.MSR: "MSR", guest.HVC: "HVC"}.get(command.command, type(action).__name__)
            of = f" of {guest.SYSREGS[command.index]}" if command.command in (guest.MRS, guest.MSR) else ""
            raise IoctlError("EFAULT", stamps, f"the guest's {what}{of} faulted, ESR_EL1 {command.fault:#x}")
    return [_answer(action, command, stamps) for action, command in zip(actions, done, strict=True)]


def _answer(action: api.GuestAction, command: guest.Command, stamps: Stamps) -> Any:
    match action:
        case api.ReadCounters():
            cntvct, cntpct, cntvct_after, _ = command.x
            return api.CounterReading(cntvct, cntpct, cntvct_after, stamps)
        case api.ReadSysreg():
            return command.x[0]
        case api.Hvc():
            return command.x
    return None
