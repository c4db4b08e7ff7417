"""Our own design of suspend-time injection, and the gate that would let a VMM do it alone.

Both rest on one thing that none of the posted series has: from the moment at which a suspend is prepared no vCPU enters
the guest, and the instant at which the last one had left it is known. The stop is measured, never reckoned from a rate
and a length. `SuspendCorrected` moves every clock of the VM by that one measurement, in one section, before any vCPU
may enter; `SuspendGate` moves nothing, and waits for the VMM to say that it has.
"""

from __future__ import annotations

from guestclock.abi.msr import KVM_MSR_ENABLED, MSR_KVM_HOST_SUSPEND_TIME
from guestclock.arith import s64, u64
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.profile import suspend_time
from guestclock.kvm.model.x86.requests import kick, masterclock_update_all
from guestclock.kvm.model.x86.state import VcpuTime, VmTime
from guestclock.kvm.model.x86.suspend_time import NotTold, SuspendPage, VmSuspend, interrupt, record_at
from guestclock.kvm.model.x86.tsc import kvm_vcpu_write_tsc_offset, read_l1_tsc


class _Gated(NotTold):
    """From PREPARE on nobody enters, and the last exit's instant is kept."""

    @classmethod
    def vm_created(cls, vm: VmTime) -> None:
        vm.suspend = VmSuspend()

    @classmethod
    def vcpu_created(cls, vcpu: VcpuTime) -> None:
        told: VmSuspend = vcpu.vm.suspend
        vcpu.suspend_epoch = told.epoch

    @classmethod
    def wanted(cls, vm: VmTime) -> bool:
        """Whether this VM's guest, or its VMM, has asked for it."""
        return True

    @classmethod
    def prepare(cls, kvm: KvmHost) -> None:
        """Every vCPU is thrown out; the stop lies at the last exit, or here if none was inside."""
        for vm in kvm.vms:
            told: VmSuspend = vm.suspend
            if cls.wanted(vm) and not told.gate:
                told.gate = True
                cls.stopped(vm)
                for vcpu in vm.vcpus:
                    kick(vcpu)

    @classmethod
    def exited(cls, vcpu: VcpuTime) -> None:
        told: VmSuspend = vcpu.vm.suspend
        if told.gate:
            cls.stopped(vcpu.vm)

    @classmethod
    def stopped(cls, vm: VmTime) -> None:
        told: VmSuspend = vm.suspend
        kvm: KvmHost = vm.kvm
        told.stop_tsc, told.stop_base_ns = _now(kvm)

    @classmethod
    def barred(cls, vcpu: VcpuTime) -> bool:
        told: VmSuspend = vcpu.vm.suspend
        return told.gate

    @classmethod
    def applied(cls, vcpu: VcpuTime) -> bool:
        told: VmSuspend = vcpu.vm.suspend
        return not told.gate and vcpu.suspend_epoch == told.epoch


def _now(kvm: KvmHost) -> tuple[int, int]:
    """(host TSC, base clock in ns), from one read where the clocksource counts TSC."""
    read = kvm.machine.get_time_and_clockread(kvm.profile.base_clock)
    if read is not None:
        return read[1], read[0]
    return kvm.machine.rdtsc(), kvm.base_ns()


@suspend_time.rule(since="our own", commit="none")
class SuspendCorrected(_Gated):
    """One measured stop per VM, taken from all its clocks before any vCPU enters; a cumulative record with an epoch."""

    msr = MSR_KVM_HOST_SUSPEND_TIME

    @classmethod
    def wanted(cls, vm: VmTime) -> bool:
        told: VmSuspend = vm.suspend
        return told.page is not None

    @classmethod
    def set_msr(cls, vcpu: VcpuTime, data: int, *, by_host: bool) -> bool:
        """Bit 0 clear: the guest wants no more of it, and its memory is its own again.

        A guest that registers is given the total as it stands, to count from. Where the host restores a VM, the record
        came with guest memory: the total goes on from what is in it.
        """
        vm: VmTime = vcpu.vm
        told: VmSuspend = vm.suspend
        told.msr = data
        told.page = None
        if data & KVM_MSR_ENABLED:  # concrete: a flag
            told.page = record_at(vm, data)
            if by_host:
                told.suspend_time_ns, told.epoch = told.page.suspend_time_ns, told.page.epoch
                for each in vm.vcpus:
                    each.suspend_epoch = told.epoch
            cls._store(told, told.page)
        return True

    @classmethod
    def post(cls, kvm: KvmHost) -> None:
        for vm in kvm.vms:
            told: VmSuspend = vm.suspend
            if told.gate:
                cls.adjust(vm)
                told.gate = False

    @classmethod
    def adjust(cls, vm: VmTime) -> None:
        """Every clock of the VM goes on from where it stopped, and so do the books of TSC writes."""
        kvm: KvmHost = vm.kvm
        told: VmSuspend = vm.suspend
        now_tsc, now_ns = _now(kvm)
        hidden_ns = now_ns - told.stop_base_ns
        told.epoch = told.epoch + 1
        for vcpu in vm.vcpus:
            back = kvm.scale(told.stop_tsc, vcpu.l1_tsc_scaling_ratio) - kvm.scale(now_tsc, vcpu.l1_tsc_scaling_ratio)
            # What KVM would make up for at the next load, after a TSC that began anew, is in `back` already.
            vcpu.tsc_offset_adjustment = 0
            kvm_vcpu_write_tsc_offset(vcpu, u64(vcpu.l1_tsc_offset + back))
            vcpu.this_tsc_nsec = u64(vcpu.this_tsc_nsec + hidden_ns)
            vcpu.suspend_epoch = told.epoch
            if vcpu.index == 0:
                vm.cur_tsc_offset = u64(vm.cur_tsc_offset + back)
                vm.last_tsc_offset = u64(vm.last_tsc_offset + back)
        vm.cur_tsc_nsec = u64(vm.cur_tsc_nsec + hidden_ns)
        vm.last_tsc_nsec = u64(vm.last_tsc_nsec + hidden_ns)
        vm.kvmclock_offset = s64(vm.kvmclock_offset - hidden_ns)
        told.suspend_time_ns = u64(told.suspend_time_ns + hidden_ns)
        masterclock_update_all(vm)
        cls.tell(vm, now_tsc)

    @classmethod
    def tell(cls, vm: VmTime, now_tsc: int) -> None:
        """The record, then the interrupt, which also wakes a guest of which every vCPU is halted."""
        told: VmSuspend = vm.suspend
        if told.page is None:
            return
        first: VcpuTime = vm.vcpus[0]
        told.page.stop_counter = told.page.resume_counter = read_l1_tsc(first, now_tsc)
        cls._store(told, told.page)
        for vcpu in vm.vcpus:
            interrupt(vcpu)

    @staticmethod
    def _store(told: VmSuspend, page: SuspendPage) -> None:
        page.seq = page.seq + 1
        page.suspend_time_ns = told.suspend_time_ns
        page.epoch = told.epoch
        page.seq = page.seq + 1
        if not page.owned:
            page.stray = page.stray + 1

    @classmethod
    def busy(cls, vm: VmTime) -> bool:
        told: VmSuspend = vm.suspend
        return told.gate


@suspend_time.rule(since="our own", commit="none")
class SuspendGate(_Gated):
    """A gate that survives the sleep: KVM_RUN enters no guest until the VMM has said that it moved the clocks."""

    @classmethod
    def stopped(cls, vm: VmTime) -> None:
        super().stopped(vm)
        told: VmSuspend = vm.suspend
        kvm: KvmHost = vm.kvm
        told.stop_boot_ns = kvm.machine.ktime_get_boottime_ns()

    @classmethod
    def acknowledged(cls, vm: VmTime) -> None:
        """The VMM's ioctl."""
        told: VmSuspend = vm.suspend
        told.epoch = told.epoch + 1
        for vcpu in vm.vcpus:
            vcpu.suspend_epoch = told.epoch
        told.gate = False
