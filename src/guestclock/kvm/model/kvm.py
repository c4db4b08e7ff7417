"""ModelKvm: carries out the operations of `kvm.api` on the model."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from guestclock.abi.msr import MSR_KVM_SYSTEM_TIME, MSR_KVM_SYSTEM_TIME_NEW
from guestclock.arith import u32, u64
from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.api import ClockData, ClockReading, KvmError, Op
from guestclock.kvm.model import guest, lifecycle, run
from guestclock.kvm.model.host import KvmHost, KvmOptions, Spawner
from guestclock.kvm.model.kvmclock import KVM_CLOCK_REALTIME
from guestclock.kvm.model.masterclock import pvclock_gtod_notify
from guestclock.kvm.model.msr import get_msr, set_msr, system_time_gpa
from guestclock.kvm.model.profile import Profile
from guestclock.kvm.model.state import VcpuTime, VmTime
from guestclock.kvm.model.stopped import start_all_tscs, stop_all_tscs
from guestclock.kvm.model.tsc import kvm_set_tsc_khz, write_tsc_offset_attribute
from guestclock.kvm.model.xen import kvm_xen_shared_info_init
from guestclock.kvm.record import record
from guestclock.machine import Machine
from guestclock.sim import PS_PER_NS, Checkpoint, Emit, cp

Handler = Callable[["ModelKvm", Any], Coroutine[Checkpoint, None, Any]]

_HANDLERS: dict[type[Op], Handler] = {}


def _handles(op: type[Op]) -> Callable[[Handler], Handler]:
    def enter(handler: Handler) -> Handler:
        _HANDLERS[op] = handler  # setup: at import
        return handler

    return enter


class ModelKvm:
    """KVM of one kernel (`profile`) on one machine; `execute` carries out any operation of `kvm.api`.

    scheduler: where kernel workers and vCPU threads run, as daemons. emit: where the trace goes, or None.
    """

    def __init__(
        self,
        machine: Machine,
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
        if profile.pm_notifier:
            machine.on_suspend_prepare.append(lambda: lifecycle.kvm_arch_suspend_notifier(host))  # setup: subscribers

    @property
    def vms(self) -> tuple[VmTime, ...]:
        """Every VM, by number."""
        return self.host.vms

    async def execute(self, op: Op) -> Any:
        """Carries out one operation, as a thread of the VMM does; raises KvmError where the kernel refuses it."""
        host = self.host
        await cp(type(op).__name__)
        machine = host.machine
        while not machine.tasks_run():
            await cp(type(op).__name__, until=machine.tasks_run)
        emit = host.emit
        if emit is None:
            return await _HANDLERS[type(op)](self, op)
        start_ps = host.timeline.now_ps
        try:
            answer = await _HANDLERS[type(op)](self, op)
        except KvmError as error:
            record(emit, op, start_ps, host.timeline.now_ps, error)
            raise
        record(emit, op, start_ps, host.timeline.now_ps, answer)
        return answer

    def vm(self, op: Any) -> VmTime:
        """The VM an operation names."""
        if not 0 <= op.vm < len(self.vms):
            raise UserError(f"{op.name}: VM {op.vm} does not exist, expected one of {len(self.vms)}")
        vm: VmTime = self.vms[op.vm]
        return vm

    def vcpu(self, op: Any) -> VcpuTime:
        """The vCPU an operation names."""
        vms = self.host.state.vms
        vcpus = (vms[op.vm] if 0 <= op.vm < len(vms) else self.vm(op)).vcpus
        if not 0 <= op.vcpu < len(vcpus):
            raise UserError(f"{op.name}: vCPU {op.vcpu} of VM {op.vm} does not exist, expected one of {len(vcpus)}")
        vcpu: VcpuTime = vcpus[op.vcpu]
        return vcpu

    def _stoppable(self, op: Any) -> VmTime:
        vm = self.vm(op)
        if not self.host.profile.stop_all_tscs:
            raise KvmError("ENOTTY", op, "no kernel has this call; the overlay stop-all-tscs gives it to one")
        return vm

    def _tasks_frozen(self) -> bool:
        """Whether the freezer has every thread: none is inside an ioctl."""
        return not any(vm.ioctls or any(vcpu.mutex for vcpu in vm.vcpus) for vm in self.vms)

    def _resume(self) -> None:
        for cpu in range(self.host.machine.cpus):
            lifecycle.kvm_arch_enable_virtualization_cpu(self.host, cpu)


# ---- VM scope


@_handles(api.CheckExtension)
async def _check_extension(self: ModelKvm, op: api.CheckExtension) -> int:
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
async def _create_vm(self: ModelKvm, op: api.CreateVm) -> int:
    return lifecycle.kvm_arch_init_vm(self.host).id


@_handles(api.CreateVcpu)
async def _create_vcpu(self: ModelKvm, op: api.CreateVcpu) -> int:
    return (await lifecycle.create_vcpu(self.vm(op))).index


@_handles(api.GetClock)
async def _get_clock(self: ModelKvm, op: api.GetClock) -> ClockData:
    return self.host.profile.get_clock(self.vm(op))


@_handles(api.SetClock)
async def _set_clock(self: ModelKvm, op: api.SetClock) -> None:
    vm, profile = self.vm(op), self.host.profile
    allowed = profile.adjust_clock if profile.adjust_clock & KVM_CLOCK_REALTIME else 0  # concrete: flags
    if op.flags & ~allowed:  # concrete: flags
        raise KvmError("EINVAL", op, f"flags {op.flags:#x}, this kernel takes {allowed:#x}")
    await profile.set_clock(vm, u64(op.clock_ns), op.flags, u64(op.realtime_ns))


@_handles(api.SetTscKhz)
async def _set_tsc_khz(self: ModelKvm, op: api.SetTscKhz) -> None:
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
    await run.lock(vcpu, op.name)
    lifecycle.vcpu_load(vcpu)
    kept = kvm_set_tsc_khz(vcpu, khz)
    lifecycle.vcpu_put(vcpu)
    run.unlock(vcpu)
    if not kept:
        raise KvmError("EINVAL", op, f"{khz} kHz cannot be given, but virtual_tsc_khz is {khz} now")


@_handles(api.GetTscKhz)
async def _get_tsc_khz(self: ModelKvm, op: api.GetTscKhz) -> int:
    profile = self.host.profile
    if op.vcpu is None:
        if not profile.vm_khz_ioctl:
            raise KvmError("ENOTTY", op, "the VM's ioctl exists since 5.18")
        return self.vm(op).default_tsc_khz
    if not profile.vcpu_khz_ioctl:
        raise KvmError("EINVAL", op, "the ioctl exists since 2.6.39")
    vcpu = self.vcpu(op)
    await run.lock(vcpu, op.name)
    run.unlock(vcpu)
    return vcpu.virtual_tsc_khz


@_handles(api.StopAllTscs)
async def _stop_all_tscs(self: ModelKvm, op: api.StopAllTscs) -> int:
    vm = self._stoppable(op)
    if vm.tscs_stopped:
        raise KvmError("EBUSY", op, "the TSCs are stopped already")
    if not vm.vcpus:
        raise KvmError("EINVAL", op, "the VM has no vCPU")
    return await stop_all_tscs(vm)


@_handles(api.StartAllTscs)
async def _start_all_tscs(self: ModelKvm, op: api.StartAllTscs) -> None:
    vm = self._stoppable(op)
    if not vm.tscs_stopped:
        raise KvmError("EINVAL", op, "the TSCs are not stopped")
    await start_all_tscs(vm, u64(op.tsc))


@_handles(api.XenSharedInfoInit)
async def _xen_shared_info_init(self: ModelKvm, op: api.XenSharedInfoInit) -> None:
    vm = self.vm(op)
    if not self.host.profile.xen:
        raise KvmError("ENOTTY", op, "KVM_XEN_HVM_SET_ATTR does not exist here, in general it does since 5.12")
    await kvm_xen_shared_info_init(vm)


# ---- vCPU scope


@_handles(api.SetMsr)
async def _set_msr(self: ModelKvm, op: api.SetMsr) -> None:
    vcpu = self.vcpu(op)
    if vcpu.mutex:
        await run.lock(vcpu, op.name)
    else:
        vcpu.mutex = True
    lifecycle.vcpu_load(vcpu)
    accepted = await set_msr(vcpu, op.index, u64(op.data), by_host=True)
    lifecycle.vcpu_put(vcpu)
    run.unlock(vcpu)
    if not accepted:
        raise KvmError("EINVAL", op, f"MSR {op.index:#x} refused")


@_handles(api.GetMsr)
async def _get_msr(self: ModelKvm, op: api.GetMsr) -> int:
    vcpu = self.vcpu(op)
    await run.lock(vcpu, op.name)
    lifecycle.vcpu_load(vcpu)
    value = get_msr(vcpu, op.index, by_host=True)
    lifecycle.vcpu_put(vcpu)
    run.unlock(vcpu)
    if value is None:
        raise KvmError("EINVAL", op, f"MSR {op.index:#x} refused")
    return value


@_handles(api.SetTscOffset)
async def _set_tsc_offset(self: ModelKvm, op: api.SetTscOffset) -> None:
    vcpu = self.vcpu(op)
    if not self.host.profile.offset_attribute:
        raise KvmError("EINVAL", op, "KVM_VCPU_TSC_OFFSET exists since 5.16")
    await run.lock(vcpu, op.name)
    lifecycle.vcpu_load(vcpu)
    write_tsc_offset_attribute(vcpu, u64(op.offset))
    lifecycle.vcpu_put(vcpu)
    run.unlock(vcpu)


@_handles(api.GetTscOffset)
async def _get_tsc_offset(self: ModelKvm, op: api.GetTscOffset) -> int:
    vcpu = self.vcpu(op)
    if not self.host.profile.offset_attribute:
        raise KvmError("EINVAL", op, "KVM_VCPU_TSC_OFFSET exists since 5.16")
    await run.lock(vcpu, op.name)
    run.unlock(vcpu)
    return vcpu.l1_tsc_offset


@_handles(api.EnableKvmclock)
async def _enable_kvmclock(self: ModelKvm, op: api.EnableKvmclock) -> None:
    vcpu = self.vcpu(op)
    await run.lock(vcpu, op.name)
    lifecycle.vcpu_load(vcpu)
    msr = MSR_KVM_SYSTEM_TIME if op.old else MSR_KVM_SYSTEM_TIME_NEW
    await set_msr(vcpu, msr, system_time_gpa(vcpu.index) | 1, by_host=True)
    lifecycle.vcpu_put(vcpu)
    run.unlock(vcpu)


@_handles(api.KvmclockCtrl)
async def _kvmclock_ctrl(self: ModelKvm, op: api.KvmclockCtrl) -> None:
    vcpu = self.vcpu(op)
    await run.lock(vcpu, op.name)
    if not self.host.profile.kvmclock_ctrl:
        run.unlock(vcpu)
        raise KvmError("EINVAL", op, "the ioctl exists since 3.5")  # from memory, not checked
    active = vcpu.pv_time is not None
    if active:
        vcpu.pvclock_set_guest_stopped_request = True
        vcpu.req_clock_update = True
    run.unlock(vcpu)
    if not active:
        raise KvmError("EINVAL", op, "no active system-time page")


@_handles(api.Run)
async def _run(self: ModelKvm, op: api.Run) -> list[Any]:
    vcpu = self.vcpu(op)
    await run.lock(vcpu, op.name)
    return await guest.run(vcpu, op.actions)


@_handles(api.Start)
async def _start(self: ModelKvm, op: api.Start) -> None:
    vcpu = self.vcpu(op)
    await run.lock(vcpu, op.name)
    vcpu.running = True
    self.host.spawner.spawn(f"VM {op.vm} vCPU {op.vcpu}", run.thread(vcpu), daemon=True)


@_handles(api.Kick)
async def _kick(self: ModelKvm, op: api.Kick) -> None:
    vcpu = self.vcpu(op)
    if vcpu.running:
        vcpu.kicked = True
        await cp("Kick: vCPU is out", until=lambda: not vcpu.running)


@_handles(api.Peek)
async def _peek(self: ModelKvm, op: api.Peek) -> ClockReading:
    return guest.peek(self.vcpu(op))


@_handles(api.MoveToCpu)
async def _move_to_cpu(self: ModelKvm, op: api.MoveToCpu) -> None:
    vcpu = self.vcpu(op)
    cpus = self.host.machine.cpus
    if not 0 <= op.cpu < cpus:
        raise UserError(f"MoveToCpu: CPU {op.cpu} does not exist, this host has {cpus}")
    run.move_to_cpu(vcpu, op.cpu)


# ---- the host


@_handles(api.Wait)
async def _wait(self: ModelKvm, op: api.Wait) -> None:
    if op.ns < 0:
        raise UserError(f"Wait: {op.ns} ns, expected 0 or more")
    await cp("Wait", delay_ps=op.ns * PS_PER_NS)


@_handles(api.ReadHostClock)
async def _read_host_clock(self: ModelKvm, op: api.ReadHostClock) -> int:
    return self.host.machine.read_clock(op.clock)


@_handles(api.SetClocksource)
async def _set_clocksource(self: ModelKvm, op: api.SetClocksource) -> None:
    self.host.machine.set_clocksource(op.clocksource)


@_handles(api.MarkTscUnstable)
async def _mark_tsc_unstable(self: ModelKvm, op: api.MarkTscUnstable) -> None:
    self.host.machine.mark_tsc_unstable("MarkTscUnstable")


@_handles(api.StepRealtime)
async def _step_realtime(self: ModelKvm, op: api.StepRealtime) -> None:
    self.host.machine.step_realtime(op.ns)


@_handles(api.AdjustFrequency)
async def _adjust_frequency(self: ModelKvm, op: api.AdjustFrequency) -> None:
    self.host.machine.adjust_frequency(op.ppb)


@_handles(api.HostSleep)
async def _host_sleep(self: ModelKvm, op: api.HostSleep) -> None:
    await self.host.machine.sleep(op.ns, op.tsc)


@_handles(api.Note)
async def _note(self: ModelKvm, op: api.Note) -> None:
    return None
