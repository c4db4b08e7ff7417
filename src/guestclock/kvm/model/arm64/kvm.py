"""Arm64Kvm: carries out the operations of `kvm.api` as KVM does on arm64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from guestclock.abi.arm64 import (
    KVM_CAP_ARM_EL2,
    KVM_CAP_ARM_VTIMER_OFFSET,
    KVM_CAP_COUNTER_OFFSET,
    KVM_CAP_ONE_REG,
    KVM_CAP_PTP_KVM,
    KVM_CAP_STEAL_TIME,
    KVM_CAP_VCPU_ATTRIBUTES,
)
from guestclock.arith import u64
from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.api import CounterReading, KvmError, Op
from guestclock.kvm.model.arm64 import attributes, guest, lifecycle, one_reg, run
from guestclock.kvm.model.arm64.host import KvmHost, KvmOptions
from guestclock.kvm.model.arm64.offsets import kvm_vm_ioctl_set_counter_offset
from guestclock.kvm.model.arm64.profile import Profile
from guestclock.kvm.model.arm64.state import VcpuTime, VmTime
from guestclock.kvm.model.executor import Handler, ModelKvm, Spawner, handles
from guestclock.kvm.model.mutex import lock, unlock
from guestclock.machine import Arm64Machine
from guestclock.sim import Emit, cp

_HANDLERS: dict[type[Op], Handler] = dict(ModelKvm.handlers)


def _handles(op: type[Op]) -> Callable[[Handler], Handler]:
    return handles(_HANDLERS, op)


class Arm64Kvm(ModelKvm[VmTime, VcpuTime]):
    """KVM of one kernel (`profile`) on one machine; `execute` carries out any operation of `kvm.api`.

    scheduler: where vCPU threads run, as daemons. emit: where the trace goes, or None.
    """

    handlers: ClassVar[dict[type[Op], Handler]] = _HANDLERS
    host: KvmHost

    def __init__(
        self,
        machine: Arm64Machine,
        profile: Profile,
        scheduler: Spawner,
        emit: Emit | None = None,
        options: KvmOptions | None = None,
    ) -> None:
        self.host = host = KvmHost(machine, profile, scheduler, emit, options or KvmOptions())
        machine.tasks_frozen.append(self._tasks_frozen)  # setup: subscribers
        suspend_time = profile.suspend_time
        if suspend_time.holds:
            machine.on_suspend_prepare.append(lambda: suspend_time.prepare(host))  # setup: subscribers
            machine.on_suspend_post.append(lambda: suspend_time.post(host))  # setup: subscribers

    def _tasks_frozen(self) -> bool:
        """Whether the freezer has every thread: none is inside an ioctl."""
        return not any(vm.lock or any(vcpu.mutex for vcpu in vm.vcpus) for vm in self.vms)


# ---- VM scope


@_handles(api.CheckExtension)
async def _check_extension(self: Arm64Kvm, op: api.CheckExtension) -> int:
    profile, options = self.host.profile, self.host.options
    answers = {
        KVM_CAP_ONE_REG: 1,
        KVM_CAP_VCPU_ATTRIBUTES: 1,
        KVM_CAP_STEAL_TIME: 1,
        KVM_CAP_PTP_KVM: int(profile.ptp),  # concrete: a capability
        KVM_CAP_ARM_VTIMER_OFFSET: int(profile.timer_offset_reg == "opt-in"),  # concrete: a capability
        KVM_CAP_COUNTER_OFFSET: int(profile.counter_offset_ioctl),  # concrete: a capability
        KVM_CAP_ARM_EL2: int(options.nested),  # concrete: a capability
    }
    return answers.get(op.capability, 0)


@_handles(api.CreateVm)
async def _create_vm(self: Arm64Kvm, op: api.CreateVm) -> int:
    return lifecycle.kvm_arch_init_vm(self.host).id


@_handles(api.CreateVcpu)
async def _create_vcpu(self: Arm64Kvm, op: api.CreateVcpu) -> int:
    vm = self.vm(op)
    made = await lifecycle.create_vcpu(vm, op.id)
    if isinstance(made, VcpuTime):
        return made.index
    why = f"vCPU {op.id} exists" if made == "EEXIST" else "the irqchip is initialised"
    raise KvmError(made, op, why)


@_handles(api.SetCounterOffset)
async def _set_counter_offset(self: Arm64Kvm, op: api.SetCounterOffset) -> None:
    vm = self.vm(op)
    if not self.host.profile.counter_offset_ioctl:
        raise KvmError("EINVAL", op, "the ioctl exists since 6.4")
    if op.reserved != 0:
        raise KvmError("EINVAL", op, f"reserved is {op.reserved:#x}, expected 0")
    if not await kvm_vm_ioctl_set_counter_offset(vm, u64(op.offset)):
        raise KvmError("EBUSY", op, "a vCPU is in KVM_RUN or in another ioctl")


@_handles(api.CreateIrqchip)
async def _create_irqchip(self: Arm64Kvm, op: api.CreateIrqchip) -> None:
    refused = await lifecycle.create_irqchip(self.vm(op))
    if refused:
        why = "there is one" if refused == "EEXIST" else "a vCPU is in KVM_RUN, or has been"
        raise KvmError(refused, op, why)


# ---- vCPU scope


@_handles(api.SetOneReg)
async def _set_one_reg(self: Arm64Kvm, op: api.SetOneReg) -> None:
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    known = one_reg.has_reg(vcpu, op.id)
    if known:
        await one_reg.set_reg(vcpu, op.id, u64(op.value))
    unlock(vcpu)
    if not known:
        raise KvmError("ENOENT", op, f"this kernel has no register {op.id:#x}")


@_handles(api.GetOneReg)
async def _get_one_reg(self: Arm64Kvm, op: api.GetOneReg) -> int:
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    value = one_reg.get_reg(vcpu, op.id) if one_reg.has_reg(vcpu, op.id) else None
    unlock(vcpu)
    if value is None:
        raise KvmError("ENOENT", op, f"this kernel has no register {op.id:#x}")
    return value


@_handles(api.GetRegList)
async def _get_reg_list(self: Arm64Kvm, op: api.GetRegList) -> list[int]:
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    unlock(vcpu)
    return one_reg.reg_list(vcpu)


@_handles(api.VcpuInit)
async def _vcpu_init(self: Arm64Kvm, op: api.VcpuInit) -> None:
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    lifecycle.kvm_timer_vcpu_reset(vcpu)
    unlock(vcpu)


@_handles(api.SetVcpuAttr)
async def _set_vcpu_attr(self: Arm64Kvm, op: api.SetVcpuAttr) -> None:
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    refused = await attributes.set_attr(vcpu, op.group, op.attr, op.value)
    unlock(vcpu)
    if refused:
        raise KvmError(refused, op, f"group {op.group}, attribute {op.attr}")


@_handles(api.GetVcpuAttr)
async def _get_vcpu_attr(self: Arm64Kvm, op: api.GetVcpuAttr) -> int:
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    value = attributes.get_attr(vcpu, op.group, op.attr)
    unlock(vcpu)
    if value is None:
        raise KvmError("ENXIO", op, f"group {op.group} has no attribute {op.attr} here")
    return value


@_handles(api.Run)
async def _run(self: Arm64Kvm, op: api.Run) -> list[Any]:
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    _first_run(vcpu, op)
    return await guest.run(vcpu, op.actions)


@_handles(api.Start)
async def _start(self: Arm64Kvm, op: api.Start) -> None:
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    _first_run(vcpu, op)
    vcpu.running = True
    self.host.spawner.spawn(f"VM {op.vm} vCPU {op.vcpu}", run.thread(vcpu), daemon=True)


def _first_run(vcpu: VcpuTime, op: Op) -> None:
    if not lifecycle.kvm_timer_enable(vcpu):
        unlock(vcpu)
        raise KvmError("EINVAL", op, "two timers have the same interrupt number")


@_handles(api.Kick)
async def _kick(self: Arm64Kvm, op: api.Kick) -> None:
    vcpu = self.vcpu(op)
    if vcpu.running:
        vcpu.kicked = True
        await cp("Kick: vCPU is out", until=lambda: not vcpu.running)


@_handles(api.Peek)
async def _peek(self: Arm64Kvm, op: api.Peek) -> CounterReading:
    return guest.peek(self.vcpu(op))


@_handles(api.MoveToCpu)
async def _move_to_cpu(self: Arm64Kvm, op: api.MoveToCpu) -> None:
    vcpu = self.vcpu(op)
    cpus = self.host.machine.cpus
    if not 0 <= op.cpu < cpus:
        raise UserError(f"MoveToCpu: CPU {op.cpu} does not exist, this host has {cpus}")
    run.move_to_cpu(vcpu, op.cpu)


@_handles(api.Preempt)
async def _preempt(self: Arm64Kvm, op: api.Preempt) -> None:
    """Answers when the vCPU has lost the CPU; it comes back by itself."""
    vcpu = self.vcpu(op)
    if op.ns < 0:
        raise UserError(f"Preempt: {op.ns} ns, expected 0 or more")
    if not vcpu.running and not any(timer.loaded for timer in vcpu.timers):
        raise UserError(f"Preempt: vCPU {op.vcpu} is not in KVM_RUN, expected Start before it")
    vcpu.preempted_ns = op.ns
    vcpu.preempted = True
    await cp("Preempt: vCPU is put", until=lambda: not vcpu.preempted)
