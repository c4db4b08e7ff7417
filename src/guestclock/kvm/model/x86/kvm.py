"""X86Kvm: carries out the operations of `kvm.api` as KVM does on x86."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from guestclock.abi.msr import MSR_KVM_SYSTEM_TIME, MSR_KVM_SYSTEM_TIME_NEW
from guestclock.arith import u32, u64
from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.api import ClockData, ClockReading, KvmError, Op
from guestclock.kvm.model.executor import Handler, ModelKvm, Spawner, handles
from guestclock.kvm.model.mutex import lock, unlock
from guestclock.kvm.model.x86 import guest, lifecycle, run
from guestclock.kvm.model.x86.host import KvmHost, KvmOptions
from guestclock.kvm.model.x86.kvmclock import KVM_CLOCK_REALTIME
from guestclock.kvm.model.x86.masterclock import pvclock_gtod_notify
from guestclock.kvm.model.x86.msr import get_msr, set_msr, system_time_gpa
from guestclock.kvm.model.x86.profile import Profile
from guestclock.kvm.model.x86.state import VcpuTime, VmTime
from guestclock.kvm.model.x86.stopped import start_all_tscs, stop_all_tscs
from guestclock.kvm.model.x86.suspend_time import NotTold
from guestclock.kvm.model.x86.tsc import kvm_set_tsc_khz, write_tsc_offset_attribute
from guestclock.kvm.model.x86.xen import kvm_xen_shared_info_init
from guestclock.machine import X86Machine
from guestclock.sim import Emit, cp

_HANDLERS: dict[type[Op], Handler] = dict(ModelKvm.handlers)


def _handles(op: type[Op]) -> Callable[[Handler], Handler]:
    return handles(_HANDLERS, op)


class X86Kvm(ModelKvm[VmTime, VcpuTime]):
    """KVM of one kernel (`profile`) on one machine; `execute` carries out any operation of `kvm.api`.

    scheduler: where kernel workers and vCPU threads run, as daemons. emit: where the trace goes, or None.
    """

    handlers: ClassVar[dict[type[Op], Handler]] = _HANDLERS
    host: KvmHost

    def __init__(
        self,
        machine: X86Machine,
        profile: Profile,
        scheduler: Spawner,
        emit: Emit | None = None,
        options: KvmOptions | None = None,
    ) -> None:
        self.host = host = KvmHost(machine, profile, scheduler, emit, options or KvmOptions())
        machine.on_clocksource_change.append(lambda: pvclock_gtod_notify(host))  # setup: subscribers
        machine.on_cpu_khz_change.append(
            lambda cpu: lifecycle.kvmclock_cpufreq_notifier(host, cpu)
        )  # setup: subscribers
        machine.on_resume.append(self._resume)  # setup: subscribers
        machine.tasks_frozen.append(self._tasks_frozen)  # setup: subscribers
        suspend_time = profile.suspend_time
        if suspend_time is not NotTold:
            machine.on_suspend_prepare.append(lambda: suspend_time.prepare(host))  # setup: subscribers
            machine.on_timekeeping_resume.append(lambda slept: suspend_time.resumed(host, slept))  # setup: subscribers
            machine.on_suspend_post.append(lambda: suspend_time.post(host))  # setup: subscribers
        if profile.pm_notifier:
            machine.on_suspend_prepare.append(lambda: lifecycle.kvm_arch_suspend_notifier(host))  # setup: subscribers

    def _stoppable(self, op: Any) -> VmTime:
        vm = self.vm(op)
        if not self.host.profile.stop_all_tscs:
            raise KvmError("ENOTTY", op, "no kernel has this call; the overlay stop-all-tscs gives it to one")
        return vm

    def vm_not_busy(self, op: Any) -> VmTime:
        """The VM an operation on clocks names; EBUSY while a stop is still to be taken from them."""
        vm = self.vm(op)
        if self.host.profile.suspend_time.busy(vm):
            raise KvmError("EBUSY", op, "the host has slept, and the VM's clocks are not yet adjusted")
        return vm

    def _tasks_frozen(self) -> bool:
        """Whether the freezer has every thread: none is inside an ioctl."""
        return not any(vm.ioctls or any(vcpu.mutex for vcpu in vm.vcpus) for vm in self.vms)

    def _resume(self) -> None:
        for cpu in range(self.host.machine.cpus):
            lifecycle.kvm_arch_enable_virtualization_cpu(self.host, cpu)


# ---- VM scope


@_handles(api.CheckExtension)
async def _check_extension(self: X86Kvm, op: api.CheckExtension) -> int:
    profile, host = self.host.profile, self.host
    answers = {
        8: 1,
        38: 4 if profile.xen else 0,  # of its bits only SHARED_INFO is modelled
        39: profile.adjust_clock,
        60: int(host.has_tsc_control),  # concrete: a capability
        61: int(profile.vcpu_khz_ioctl),  # concrete: a capability
        72: 1,
        76: int(profile.kvmclock_ctrl),  # concrete: a capability
        96: int(profile.hyperv),  # concrete: a capability
        127: int(profile.offset_attribute),  # concrete: a capability
        214: int(profile.vm_khz_ioctl and host.has_tsc_control),  # concrete: a capability
    }
    return answers.get(op.capability, 0)


@_handles(api.CreateVm)
async def _create_vm(self: X86Kvm, op: api.CreateVm) -> int:
    return lifecycle.kvm_arch_init_vm(self.host).id


@_handles(api.CreateVcpu)
async def _create_vcpu(self: X86Kvm, op: api.CreateVcpu) -> int:
    vm = self.vm(op)
    if op.id is not None and op.id < len(vm.vcpus):
        raise KvmError("EEXIST", op, f"vCPU {op.id} exists")
    return (await lifecycle.create_vcpu(vm)).index


@_handles(api.GetClock)
async def _get_clock(self: X86Kvm, op: api.GetClock) -> ClockData:
    return self.host.profile.get_clock(self.vm_not_busy(op))


@_handles(api.SetClock)
async def _set_clock(self: X86Kvm, op: api.SetClock) -> None:
    vm, profile = self.vm_not_busy(op), self.host.profile
    allowed = profile.adjust_clock if profile.adjust_clock & KVM_CLOCK_REALTIME else 0  # concrete: flags
    if op.flags & ~allowed:  # concrete: flags
        raise KvmError("EINVAL", op, f"flags {op.flags:#x}, this kernel takes {allowed:#x}")
    await profile.set_clock(vm, u64(op.clock_ns), op.flags, u64(op.realtime_ns))


@_handles(api.SetTscKhz)
async def _set_tsc_khz(self: X86Kvm, op: api.SetTscKhz) -> None:
    host = self.host
    profile = host.profile
    khz = u32(op.khz)
    if op.vcpu is None:
        vm = self.vm(op)
        if not profile.vm_khz_ioctl:
            raise KvmError("ENOTTY", op, "the VM's ioctl exists since 5.18")
        if vm.online_vcpus and not profile.vm_khz_after_vcpus:
            raise KvmError("EINVAL", op, "a vCPU exists")
    elif not profile.vcpu_khz_ioctl:
        raise KvmError("EINVAL", op, "the ioctl exists since 2.6.39")
    if host.has_tsc_control and khz >= host.max_guest_tsc_khz:
        raise KvmError("EINVAL", op, f"expected less than {host.max_guest_tsc_khz} kHz")
    khz = khz or host.machine.tsc_khz
    if op.vcpu is None:
        vm.default_tsc_khz = khz
        return
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    lifecycle.vcpu_load(vcpu)
    kept = kvm_set_tsc_khz(vcpu, khz)
    lifecycle.vcpu_put(vcpu)
    unlock(vcpu)
    if not kept:
        raise KvmError("EINVAL", op, f"{khz} kHz cannot be given, but virtual_tsc_khz is {khz} now")


@_handles(api.GetTscKhz)
async def _get_tsc_khz(self: X86Kvm, op: api.GetTscKhz) -> int:
    profile = self.host.profile
    if op.vcpu is None:
        if not profile.vm_khz_ioctl:
            raise KvmError("ENOTTY", op, "the VM's ioctl exists since 5.18")
        return self.vm(op).default_tsc_khz
    if not profile.vcpu_khz_ioctl:
        raise KvmError("EINVAL", op, "the ioctl exists since 2.6.39")
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    unlock(vcpu)
    return vcpu.virtual_tsc_khz


@_handles(api.StopAllTscs)
async def _stop_all_tscs(self: X86Kvm, op: api.StopAllTscs) -> int:
    vm = self._stoppable(op)
    if vm.tscs_stopped:
        raise KvmError("EBUSY", op, "the TSCs are stopped already")
    if not vm.vcpus:
        raise KvmError("EINVAL", op, "the VM has no vCPU")
    return await stop_all_tscs(vm)


@_handles(api.StartAllTscs)
async def _start_all_tscs(self: X86Kvm, op: api.StartAllTscs) -> None:
    vm = self._stoppable(op)
    if not vm.tscs_stopped:
        raise KvmError("EINVAL", op, "the TSCs are not stopped")
    await start_all_tscs(vm, u64(op.tsc))


@_handles(api.XenSharedInfoInit)
async def _xen_shared_info_init(self: X86Kvm, op: api.XenSharedInfoInit) -> None:
    vm = self.vm(op)
    if not self.host.profile.xen:
        raise KvmError("ENOTTY", op, "KVM_XEN_HVM_SET_ATTR does not exist here, in general it does since 5.12")
    await kvm_xen_shared_info_init(vm)


# ---- vCPU scope


@_handles(api.SetMsr)
async def _set_msr(self: X86Kvm, op: api.SetMsr) -> None:
    self.vm_not_busy(op)
    vcpu = self.vcpu(op)
    if vcpu.mutex:
        await lock(vcpu, op.name)
    else:
        vcpu.mutex = True
    lifecycle.vcpu_load(vcpu)
    accepted = await set_msr(vcpu, op.index, u64(op.data), by_host=True)
    lifecycle.vcpu_put(vcpu)
    unlock(vcpu)
    if not accepted:
        raise KvmError("EINVAL", op, f"MSR {op.index:#x} refused")


@_handles(api.GetMsr)
async def _get_msr(self: X86Kvm, op: api.GetMsr) -> int:
    self.vm_not_busy(op)
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    lifecycle.vcpu_load(vcpu)
    value = get_msr(vcpu, op.index, by_host=True)
    lifecycle.vcpu_put(vcpu)
    unlock(vcpu)
    if value is None:
        raise KvmError("EINVAL", op, f"MSR {op.index:#x} refused")
    return value


@_handles(api.SetTscOffset)
async def _set_tsc_offset(self: X86Kvm, op: api.SetTscOffset) -> None:
    self.vm_not_busy(op)
    vcpu = self.vcpu(op)
    if not self.host.profile.offset_attribute:
        raise KvmError("EINVAL", op, "KVM_VCPU_TSC_OFFSET exists since 5.16")
    await lock(vcpu, op.name)
    lifecycle.vcpu_load(vcpu)
    write_tsc_offset_attribute(vcpu, u64(op.offset))
    lifecycle.vcpu_put(vcpu)
    unlock(vcpu)


@_handles(api.GetTscOffset)
async def _get_tsc_offset(self: X86Kvm, op: api.GetTscOffset) -> int:
    self.vm_not_busy(op)
    vcpu = self.vcpu(op)
    if not self.host.profile.offset_attribute:
        raise KvmError("EINVAL", op, "KVM_VCPU_TSC_OFFSET exists since 5.16")
    await lock(vcpu, op.name)
    lifecycle.vcpu_load(vcpu)
    lifecycle.vcpu_put(vcpu)
    unlock(vcpu)
    return vcpu.l1_tsc_offset


@_handles(api.EnableKvmclock)
async def _enable_kvmclock(self: X86Kvm, op: api.EnableKvmclock) -> None:
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    lifecycle.vcpu_load(vcpu)
    msr = MSR_KVM_SYSTEM_TIME if op.old else MSR_KVM_SYSTEM_TIME_NEW
    await set_msr(vcpu, msr, system_time_gpa(vcpu.index) | 1, by_host=True)
    lifecycle.vcpu_put(vcpu)
    unlock(vcpu)


@_handles(api.KvmclockCtrl)
async def _kvmclock_ctrl(self: X86Kvm, op: api.KvmclockCtrl) -> None:
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    if not self.host.profile.kvmclock_ctrl:
        unlock(vcpu)
        raise KvmError("EINVAL", op, "the ioctl exists since 3.5")  # from memory, not checked
    active = vcpu.pv_time is not None
    if active:
        vcpu.pvclock_set_guest_stopped_request = True
        vcpu.req_clock_update = True
    unlock(vcpu)
    if not active:
        raise KvmError("EINVAL", op, "no active system-time page")


@_handles(api.Run)
async def _run(self: X86Kvm, op: api.Run) -> list[Any]:
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    return await guest.run(vcpu, op.actions)


@_handles(api.Start)
async def _start(self: X86Kvm, op: api.Start) -> None:
    vcpu = self.vcpu(op)
    await lock(vcpu, op.name)
    vcpu.running = True
    self.host.spawner.spawn(f"VM {op.vm} vCPU {op.vcpu}", run.thread(vcpu), daemon=True)


@_handles(api.Kick)
async def _kick(self: X86Kvm, op: api.Kick) -> None:
    vcpu = self.vcpu(op)
    if vcpu.running:
        vcpu.kicked = True
        await cp("Kick: vCPU is out", until=lambda: not vcpu.running)


@_handles(api.Peek)
async def _peek(self: X86Kvm, op: api.Peek) -> ClockReading:
    return guest.peek(self.vcpu(op))


@_handles(api.MoveToCpu)
async def _move_to_cpu(self: X86Kvm, op: api.MoveToCpu) -> None:
    vcpu = self.vcpu(op)
    cpus = self.host.machine.cpus
    if not 0 <= op.cpu < cpus:
        raise UserError(f"MoveToCpu: CPU {op.cpu} does not exist, this host has {cpus}")
    run.move_to_cpu(vcpu, op.cpu)


# ---- the host


@_handles(api.MarkTscUnstable)
async def _mark_tsc_unstable(self: X86Kvm, op: api.MarkTscUnstable) -> None:
    self.host.machine.mark_tsc_unstable("MarkTscUnstable")
