"""One entry into the guest: a Run's actions as commands of the mailbox, and the commands' answers as readings."""

from __future__ import annotations

from typing import Any

from guestclock.abi.msr import SYSTEM_TIME_MSRS
from guestclock.abi.pvclock import PVCLOCK_GUEST_STOPPED, PvclockVcpuTimeInfo
from guestclock.arith.kernel import pvclock_scale_delta, u64
from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.device.ioctls import IoctlError
from guestclock.kvm.device.x86 import guest
from guestclock.kvm.device.x86.vcpu import X86Vcpu, page_of


def reading(tsc: int, page: PvclockVcpuTimeInfo | None, host_tsc: tuple[int, int]) -> api.ClockReading:
    """What TSC and page mean together: kvmclock by Definition B, as every guest computes it."""
    kvmclock_ns = None
    if page is not None and page.tsc_to_system_mul and not page.version & 1:  # a page that was written has a scale
        elapsed = u64(tsc - page.tsc_timestamp)
        kvmclock_ns = u64(page.system_time + pvclock_scale_delta(elapsed, page.tsc_to_system_mul, page.tsc_shift))
    return api.ClockReading(tsc, page, kvmclock_ns, host_tsc)


class Entry:
    """The commands of one Run. A WRMSR of the system-time MSR moves the page for the commands behind it."""

    def __init__(self, vcpu: X86Vcpu, op: api.Run) -> None:
        if len(op.actions) > guest.MAX_COMMANDS:
            raise UserError(f"Run: {len(op.actions)} actions, the guest's mailbox holds {guest.MAX_COMMANDS}")
        self._actions = op.actions
        self._pages: list[int | None] = []
        self.page_after = vcpu.page_gpa
        self.commands = [self._command(vcpu, action) for action in op.actions]

    def _command(self, vcpu: X86Vcpu, action: api.GuestAction) -> guest.Command:
        if isinstance(action, api.Wrmsr) and action.index in SYSTEM_TIME_MSRS:
            self.page_after = page_of(action.data)
        self._pages.append(self.page_after)
        match action:
            case api.ReadClocks():
                return vcpu.mailbox.reader(guest.READ, self.page_after)
            case api.ClearGuestStopped():
                return vcpu.mailbox.reader(guest.CLEAR_STOPPED, self.page_after)
            case api.Wrmsr(index, data):
                return guest.Command(guest.WRMSR, index, u64(data))
            case api.Rdmsr(index):
                return guest.Command(guest.RDMSR, index)
        raise UserError(f"Run: {type(action).__name__}: this guest is no hypervisor; run it on the model")

    def answers(self, commands: list[guest.Command], host_tsc: tuple[int, int]) -> list[Any]:
        """One answer per action. Raises IoctlError EFAULT where an instruction of the guest's faulted."""
        for command in commands:
            if command.fault:
                what = "WRMSR" if command.command == guest.WRMSR else "RDMSR"
                raise IoctlError("EFAULT", host_tsc, f"the guest's {what} of {command.index:#x} faulted")
        return [
            self._answer(action, command, page, host_tsc)
            for action, command, page in zip(self._actions, commands, self._pages, strict=True)
        ]

    @staticmethod
    def _answer(action: api.GuestAction, command: guest.Command, gpa: int | None, host_tsc: tuple[int, int]) -> Any:
        match action:
            case api.ReadClocks():
                page = None if gpa is None else PvclockVcpuTimeInfo.unpack(command.page)
                return reading(command.tsc, page, host_tsc)
            case api.ClearGuestStopped():
                return bool(command.count & PVCLOCK_GUEST_STOPPED)
            case api.Rdmsr():
                return command.tsc
        return None
