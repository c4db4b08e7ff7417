"""arm64's operations on this machine's KVM: registers, the counter offset, attributes, the vGIC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from guestclock.abi import arm64 as abi
from guestclock.arith.kernel import u64
from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.device import host, ioctls, native
from guestclock.kvm.device.arm64.entry import answers, commands
from guestclock.kvm.device.arm64.ioctls import get_one_reg, get_reg_list, set_one_reg
from guestclock.kvm.device.arm64.tracing import Arm64Tracing
from guestclock.kvm.device.arm64.vcpu import Arm64Vcpu
from guestclock.kvm.device.arm64.vm import Arm64Vm
from guestclock.kvm.device.executor import DeviceKvm, Handler, Took, handles
from guestclock.kvm.device.ioctls import Answer, IoctlError, Stamps

_COUNTERS = (abi.KVM_REG_ARM_TIMER_CNT, abi.KVM_REG_ARM_PTIMER_CNT)
_CONTROLS = (abi.KVM_REG_ARM_TIMER_CTL, abi.KVM_REG_ARM_PTIMER_CTL)
_ATTR_BYTES = 8
"""Enough for either kind of attribute: an int's four bytes come first."""


class Arm64DeviceKvm(DeviceKvm[Arm64Vm, Arm64Vcpu]):
    """KVM of an arm64 machine."""

    handlers: ClassVar[dict[type[api.Op], Handler]] = DeviceKvm.handlers.copy()
    registers: ClassVar[Mapping[str, Callable[[], int]]] = {"counter": native.counter, "cntfrq": native.frequency}
    stamps_key = "host_counter"
    model_only: ClassVar[Mapping[str, str]] = {"Preempt": "no call asks for it"}

    def rate_hz(self) -> int:
        """CNTFRQ_EL0, by which kernels and guests reckon."""
        return native.frequency()

    def new_vm(self) -> Arm64Vm:
        return Arm64Vm(self.kvm_fd)

    def tracing(self) -> Arm64Tracing:
        return Arm64Tracing(self.counter_hz)

    def rates(self) -> dict[str, Any]:
        counter = {"counter_hz": self.counter_hz, "counter_start": self.counter_start}
        return {"arch": "arm64", "cpus": len(self.cpus), **counter}

    def has_run_on(self, took: Took, value: int, stamps: Stamps, written: int) -> bool:
        """Is a counter where it must be that was `written` in the operation and read as `value` within `stamps`?"""
        least, most = stamps[0] - took.end, stamps[1] - took.start
        return u64(value - written - least) <= most - least


def _handles(op: type[api.Op]) -> Callable[[Handler], Handler]:
    return handles(Arm64DeviceKvm.handlers, op)


# ---- VMs


@_handles(api.SetCounterOffset)
def _set_counter_offset(self: Arm64DeviceKvm, op: api.SetCounterOffset, took: Took) -> None:
    vm, offset = self.vm(op), u64(op.offset)
    argument = offset.to_bytes(8, "little") + u64(op.reserved).to_bytes(8, "little")
    took.at(vm.ioctl(abi.KVM_ARM_SET_COUNTER_OFFSET, argument).stamps)
    if vm.vcpus:  # there is no call that reads the offset: a counter shows it
        vcpu = vm.vcpus[0]
        value, stamps = vcpu.do(lambda: get_one_reg(vcpu.fd, abi.KVM_REG_ARM_TIMER_CNT))
        self.read_back(took, value, stamps, u64(value - stamps[0] + offset) <= stamps[1] - stamps[0])


@_handles(api.CreateIrqchip)
def _create_irqchip(self: Arm64DeviceKvm, op: api.CreateIrqchip, took: Took) -> None:
    name, init = self.vm(op).create_irqchip()
    took.at(init.stamps)
    took.more["irqchip"] = name


# ---- vCPUs


@_handles(api.SetOneReg)
def _set_one_reg(self: Arm64DeviceKvm, op: api.SetOneReg, took: Took) -> None:
    vcpu, value = self.vcpu(op), u64(op.value)
    took.at(vcpu.do(lambda: set_one_reg(vcpu.fd, op.id, value)).stamps)
    if op.id in _CONTROLS:  # reading one moves the fraction of a nanosecond that its timer carries (since 6.4)
        return
    now, stamps = vcpu.do(lambda: get_one_reg(vcpu.fd, op.id))
    same = self.has_run_on(took, now, stamps, value) if op.id in _COUNTERS else now == value
    self.read_back(took, now, stamps, same)


@_handles(api.GetOneReg)
def _get_one_reg(self: Arm64DeviceKvm, op: api.GetOneReg, took: Took) -> int:
    vcpu = self.vcpu(op)
    value, stamps = vcpu.do(lambda: get_one_reg(vcpu.fd, op.id))
    took.at(stamps)
    return value


@_handles(api.GetRegList)
def _get_reg_list(self: Arm64DeviceKvm, op: api.GetRegList, took: Took) -> list[int]:
    vcpu = self.vcpu(op)
    ids, stamps = vcpu.do(lambda: get_reg_list(vcpu.fd))
    took.at(stamps)
    timers = set(abi.TIMER_REGS.values())
    return [id_ for id_ in ids if id_ in timers]


@_handles(api.VcpuInit)
def _vcpu_init(self: Arm64DeviceKvm, op: api.VcpuInit, took: Took) -> None:
    vcpu = self.vcpu(op)
    took.at(vcpu.do(vcpu.init).stamps)


@_handles(api.SetVcpuAttr)
def _set_vcpu_attr(self: Arm64DeviceKvm, op: api.SetVcpuAttr, took: Took) -> None:
    vcpu, value = self.vcpu(op), u64(op.value).to_bytes(_ATTR_BYTES, "little")
    took.at(vcpu.do(lambda: ioctls.set_attr(vcpu.fd, op.group, op.attr, value)).stamps)
    try:
        answer = vcpu.do(lambda: ioctls.get_attr(vcpu.fd, op.group, op.attr, _ATTR_BYTES))
    except IoctlError:  # some can only be written
        return
    now = int.from_bytes(answer.data, "little")
    self.read_back(took, now, answer.stamps, now == u64(op.value))


@_handles(api.GetVcpuAttr)
def _get_vcpu_attr(self: Arm64DeviceKvm, op: api.GetVcpuAttr, took: Took) -> int:
    vcpu = self.vcpu(op)
    answer: Answer = vcpu.do(lambda: ioctls.get_attr(vcpu.fd, op.group, op.attr, _ATTR_BYTES))
    took.at(answer.stamps)
    return int.from_bytes(answer.data, "little")


@_handles(api.Run)
def _run(self: Arm64DeviceKvm, op: api.Run, took: Took) -> list[Any]:
    vcpu = self.vcpu(op)
    done, stamps = vcpu.run(commands(op.actions))
    took.at(stamps)
    return answers(op.actions, done, stamps)


@_handles(api.Peek)
def _peek(self: Arm64DeviceKvm, op: api.Peek, took: Took) -> api.CounterReading:
    vcpu = self.vcpu(op, in_guest_too=True)
    if vcpu.spinning:
        (cntvct, shown, cntvct_after), stamps = vcpu.sample()
        took.at(stamps)
        return api.CounterReading(cntvct, shown, cntvct_after, stamps)
    cntvct, first = vcpu.do(lambda: get_one_reg(vcpu.fd, abi.KVM_REG_ARM_TIMER_CNT))
    cntpct: int | None = None
    try:
        cntpct, _ = vcpu.do(lambda: get_one_reg(vcpu.fd, abi.KVM_REG_ARM_PTIMER_CNT))
    except IoctlError as refusal:
        if refusal.errno != "ENOENT":  # there is no such register before 6.4
            raise
    cntvct_after, last = vcpu.do(lambda: get_one_reg(vcpu.fd, abi.KVM_REG_ARM_TIMER_CNT))
    took.at((first[0], last[1]))
    return api.CounterReading(cntvct, cntpct, cntvct_after, (first[0], last[1]))


# ---- the host


@_handles(api.HostSleep)
def _host_sleep(self: Arm64DeviceKvm, op: api.HostSleep, took: Took) -> None:
    self.change_host(op)
    if op.kind != "s2idle":
        raise UserError(f"HostSleep: kind {op.kind!r}: expected 's2idle': arm64 firmware here has no other sleep")
    if op.tsc != "running":
        raise UserError(f"HostSleep: a counter that is {op.tsc}: the system counter runs on whatever sleeps")
    host.sleep_s2idle(op.ns)
