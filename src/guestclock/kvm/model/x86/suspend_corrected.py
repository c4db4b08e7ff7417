"""Our own design of suspend-time injection, and the gate that would let a VMM do it alone.

Both rest on one thing that none of the posted series has: from the moment at which a suspend is prepared no vCPU enters
the guest, and the instant at which the last one had left it is known. The stop is measured, never reckoned from a rate
and a length. `SuspendCorrected` moves every clock of the VM by that one measurement, in one section, before any vCPU
may enter; `SuspendGate` moves nothing, and waits for the VMM to say that it has.
"""

from __future__ import annotations

from collections.abc import Coroutine

from guestclock.abi.msr import KVM_MSR_ENABLED, MSR_KVM_HOST_SUSPEND_TIME
from guestclock.arith import s64, u64
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.masterclock import pvclock_update_vm_gtod_copy
from guestclock.kvm.model.x86.profile import suspend_time
from guestclock.kvm.model.x86.requests import clock_update_all, kick
from guestclock.kvm.model.x86.state import VcpuTime, VmTime
from guestclock.kvm.model.x86.suspend_time import NotTold, SuspendPage, VmSuspend, interrupt, record_at
from guestclock.kvm.model.x86.tsc import kvm_vcpu_write_tsc_offset, read_l1_tsc
from guestclock.sim import Checkpoint, cp


class _Gated(NotTold):
    """From PREPARE on nobody enters, and the last exit's instant is kept."""

    @classmethod
    def vm_created(cls, vm: VmTime) -> None:
        vm.suspend = VmSuspend()

    @classmethod
    def vcpu_has_tsc(cls, vcpu: VcpuTime) -> None:
        """Its TSC is the generation's, as of now. A stop that was taken from it between that one's making and now is in
        the generation's offset; one that is still to be taken finds the vCPU in the list.
        """
        told: VmSuspend = vcpu.vm.suspend
        vcpu.suspend_epoch = told.epoch

    @classmethod
    def wanted(cls, vm: VmTime) -> bool:
        """Whether this VM's guest, or its VMM, has asked for it."""
        return True

    @classmethod
    def prepare(cls, kvm: KvmHost) -> Coroutine[Checkpoint, None, None] | None:
        """Every vCPU is thrown out, and waited for; the stop lies at the last exit, or here if none was inside."""
        for vm in kvm.vms:
            told: VmSuspend = vm.suspend
            if cls.wanted(vm) and not told.gate:
                told.gate = True
                cls.stopped(vm)
                for vcpu in vm.vcpus:
                    cls.left(vcpu)
                    kick(vcpu)
        return cls.all_out(kvm)

    @staticmethod
    async def all_out(kvm: KvmHost) -> None:
        """An aborted suspend does not wait for tasks to freeze: without this its end may find a vCPU still inside."""

        def out() -> bool:
            return not any(vm.suspend.gate and vcpu.in_guest for vm in kvm.vms for vcpu in vm.vcpus)

        if not out():
            await cp("suspend: vCPUs leave the guest", until=out)

    @classmethod
    def exited(cls, vcpu: VcpuTime) -> None:
        told: VmSuspend = vcpu.vm.suspend
        if told.gate:
            cls.stopped(vcpu.vm)
            cls.left(vcpu)

    @staticmethod
    def left(vcpu: VcpuTime) -> None:
        """The offset that was in force when it stopped: the next load may change it, after a TSC that began anew."""
        vcpu.suspend_stop_offset, vcpu.suspend_stopped = vcpu.l1_tsc_offset, True

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


def _kvmclock_at_stop(vm: VmTime) -> int:
    """What the guest's pages showed when it was stopped: they drift from the base clock, and no step shall show it."""
    told: VmSuspend = vm.suspend
    kvm: KvmHost = vm.kvm
    if vm.use_master_clock:
        return kvm.profile.guest_kvmclock(vm, told.stop_tsc)
    return told.stop_base_ns + vm.kvmclock_offset


def _now(kvm: KvmHost) -> tuple[int, int]:
    """(host TSC, base clock in ns), from one read where the clocksource counts TSC."""
    read = kvm.machine.get_time_and_clockread(kvm.profile.base_clock)
    if read is not None:
        return read[1], read[0]
    return kvm.machine.rdtsc(), kvm.base_ns()


@suspend_time.rule(since="our own")
class SuspendCorrected(_Gated):
    """One measured stop per VM, taken from all its clocks before any vCPU enters; a cumulative record with an epoch."""

    msr = MSR_KVM_HOST_SUSPEND_TIME

    @classmethod
    def wanted(cls, vm: VmTime) -> bool:
        told: VmSuspend = vm.suspend
        return told.asked or told.page is not None

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
        clock_ns = _kvmclock_at_stop(vm)
        # Nobody is in the guest, so the snapshot needs no request; each vCPU gets its page before it enters.
        pvclock_update_vm_gtod_copy(vm)
        fresh = kvm.tsc_clocksource
        now_tsc, now_ns = (vm.master_cycle_now, vm.master_kernel_ns) if fresh else _now(kvm)
        vm.kvmclock_offset = s64(clock_ns - now_ns)
        hidden_ns = now_ns - told.stop_base_ns
        told.epoch = told.epoch + 1
        for vcpu in vm.vcpus:
            back = kvm.scale(told.stop_tsc, vcpu.l1_tsc_scaling_ratio) - kvm.scale(now_tsc, vcpu.l1_tsc_scaling_ratio)
            # What KVM makes up for at a load, after a TSC that began anew, is in `back` already.
            vcpu.tsc_offset_adjustment = 0
            offset = vcpu.suspend_stop_offset if vcpu.suspend_stopped else vcpu.l1_tsc_offset
            kvm_vcpu_write_tsc_offset(vcpu, u64(offset + back))
            vcpu.suspend_stopped = False
            vcpu.this_tsc_nsec = u64(vcpu.this_tsc_nsec + hidden_ns)
            vcpu.suspend_epoch = told.epoch
            if vcpu.index == 0:
                vm.cur_tsc_offset = u64(vm.cur_tsc_offset + back)
                vm.last_tsc_offset = u64(vm.last_tsc_offset + back)
        vm.cur_tsc_nsec = u64(vm.cur_tsc_nsec + hidden_ns)
        vm.last_tsc_nsec = u64(vm.last_tsc_nsec + hidden_ns)
        told.suspend_time_ns = u64(told.suspend_time_ns + hidden_ns)
        clock_update_all(vm)
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

    @classmethod
    def polled(cls, vcpu: VcpuTime) -> None:
        """An interrupt that was lost (the local APIC was off) is raised again, until the guest has acknowledged."""
        told: VmSuspend = vcpu.vm.suspend
        if told.page is not None and told.page.ack != told.epoch and not told.gate and not vcpu.suspend_irq:
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


@suspend_time.rule(since="our own")
class SuspendGate(_Gated):
    """A gate that survives the sleep: KVM_RUN enters no guest until the VMM has said that it moved the clocks."""

    @classmethod
    def prepare(cls, kvm: KvmHost) -> Coroutine[Checkpoint, None, None] | None:
        for vm in kvm.vms:
            told: VmSuspend = vm.suspend
            told.gates = told.gates + 1
            told.over = False
        return super().prepare(kvm)

    @classmethod
    def stopped(cls, vm: VmTime) -> None:
        super().stopped(vm)
        told: VmSuspend = vm.suspend
        told.stop_clock_ns = u64(_kvmclock_at_stop(vm))

    @classmethod
    def post(cls, kvm: KvmHost) -> None:
        """Only now may the VMM open the gate: before, the sleep may still be to come."""
        for vm in kvm.vms:
            told: VmSuspend = vm.suspend
            told.over = told.gate

    @classmethod
    def acknowledged(cls, vm: VmTime, gates: int) -> bool:
        """The VMM's ioctl: it has adjusted for the gate that it saw. False (EAGAIN): another sleep has come since."""
        told: VmSuspend = vm.suspend
        if told.gates != gates:
            return False
        assert told.over, "a gate opened before the sleep was over"
        told.epoch = told.epoch + 1
        for vcpu in vm.vcpus:
            vcpu.suspend_epoch = told.epoch
        told.gate = told.over = False
        return True
