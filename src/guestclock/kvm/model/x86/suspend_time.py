"""What KVM does about a sleep of its host: nothing, or one of the three series of 2021 as they were posted.

Each is a class that never has an object: its functions stand where the series put calls into KVM. Our own design, and
the gate for a VMM that does it all itself, are in `suspend_corrected`.
Sources: virtual suspend time injection, v1 20210426090644.2218834-1, v2 20210806100710.2425336-1, v3
20211020120431.776494-1 (hikalium@chromium.org). Bits and MSRs that they took have other meanings today.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from types import MappingProxyType
from typing import Any

from guestclock.abi.msr import KVM_MSR_ENABLED, MSR_KVM_HOST_SUSPEND_TIME, MSR_KVM_HOST_SUSPEND_TIME_V1
from guestclock.arith import s64
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.profile import suspend_time
from guestclock.kvm.model.x86.requests import clock_update_all, kick
from guestclock.kvm.model.x86.state import VcpuTime, VmTime, with_page
from guestclock.kvm.model.x86.tsc import adjust_tsc_offset_host
from guestclock.sim import Checkpoint, State, cp
from guestclock.sim.field import flag, integer, ref, u32, u64
from guestclock.sim.field import s64 as s64_field

NS_PER_MS = 1_000_000


class SuspendPage(State):
    """The record in guest memory: struct kvm_suspend_time (its first field), and what +suspend-corrected adds."""

    suspend_time_ns = u64("total of all sleeps, ns; cumulative")
    seq = u32("odd while the record is being written (+suspend-corrected)")
    epoch = u32("counts stops (+suspend-corrected)")
    ack = u32("epoch that the guest has taken in: written by the guest (+suspend-corrected)")
    stop_counter = u64("guest TSC at which it was stopped (+suspend-corrected)")
    resume_counter = u64("guest TSC at which it may run again (+suspend-corrected)")
    stores = integer("how often KVM has written it: for guards, which must not compare times")
    owned = flag("the kernel that gave this memory still runs: a store to it afterwards hits somebody else", True)
    stray = integer("stores that did")


class VmSuspend(State):
    """What KVM keeps per VM for the sake of suspend time."""

    base_offs_boot_ns = s64_field("the host's offs_boot when the VM was made (v3)")
    suspend_time_ns = u64("ns slept that kvmclock was moved by")
    msr = u64("MSR_KVM_HOST_SUSPEND_TIME: gpa of the record, bit 0 enables")
    page: SuspendPage | None = ref("the record in use, or None")
    pages: Mapping[int, SuspendPage] = ref("records that ever had an address, by gpa", MappingProxyType({}))
    injection_requested = flag("some vCPU shall write the record and interrupt the guest (v2)")
    asked = flag("the VMM wants the counters hidden, whether or not its guest is told (+suspend-corrected)")
    gate = flag("no vCPU may enter the guest (+suspend-corrected, +suspend-gate)")
    over = flag("the sleep is over, and the gate may be opened (+suspend-gate)")
    epoch = u32("counts stops")
    stop_tsc = u64("host TSC when the last vCPU had left the guest, cycles")
    stop_base_ns = s64_field("the base clock then, ns")
    stop_clock_ns = u64("kvmclock then, as the guest's pages showed it, ns (+suspend-gate)")
    gates = u32("how often it was closed (+suspend-gate)")


@suspend_time.rule()
class NotTold:
    """A guest is not told, and nothing is hidden from it; GUEST_STOPPED apart (5.14)."""

    msr = 0

    @classmethod
    def vm_created(cls, vm: VmTime) -> None:
        """kvm_create_vm()."""

    @classmethod
    def vcpu_created(cls, vcpu: VcpuTime) -> None:
        """kvm_vcpu_init()."""

    @classmethod
    def vcpu_has_tsc(cls, vcpu: VcpuTime) -> None:
        """kvm_arch_vcpu_postcreate(): it is published, and its TSC was set."""

    @classmethod
    def set_msr(cls, vcpu: VcpuTime, data: int, *, by_host: bool) -> bool:
        """WRMSR; False: #GP."""
        return False

    @classmethod
    def prepare(cls, kvm: KvmHost) -> Coroutine[Checkpoint, None, None] | None:
        """PM notifier: tasks still run. What it answers is waited for."""
        return None

    @classmethod
    def resumed(cls, kvm: KvmHost, slept_ns: int) -> None:
        """Inside timekeeping_resume(): by so much offs_boot has grown."""

    @classmethod
    def post(cls, kvm: KvmHost) -> None:
        """PM notifier: tasks run again."""

    @classmethod
    def polled(cls, vcpu: VcpuTime) -> None:
        """vcpu_run(), before each attempt to enter."""

    @classmethod
    async def serve(cls, vcpu: VcpuTime) -> None:
        """KVM_REQ_SUSPEND_TIME_ADJ, the first of all requests."""

    @classmethod
    def barred(cls, vcpu: VcpuTime) -> bool:
        """A guard: nothing would come of an attempt to enter."""
        return False

    @classmethod
    def spins(cls, vcpu: VcpuTime) -> bool:
        """For onlookers: whether a thread that is barred tries again and again, and does not wait to be woken."""
        return False

    @classmethod
    def exited(cls, vcpu: VcpuTime) -> None:
        """After each VM exit."""

    @classmethod
    def stopped_told(cls, vcpu: VcpuTime) -> None:
        """A page with GUEST_STOPPED is being written."""

    @classmethod
    def busy(cls, vm: VmTime) -> bool:
        """Whether the VMM's ioctls on clocks are refused for now (EBUSY)."""
        return False

    @classmethod
    def applied(cls, vcpu: VcpuTime) -> bool:
        """For onlookers: whether this vCPU's TSC is of the VM's latest epoch."""
        return True


def interrupt(vcpu: VcpuTime) -> None:
    """kvm_apic_set_irq() of a fixed vector: pending until the guest takes it; lost where the local APIC is off."""
    if vcpu.apic_enabled:
        vcpu.suspend_irq = True
        vcpu.halted = False
        kick(vcpu)


def record_at(vm: VmTime, data: int) -> SuspendPage:
    """The record of an MSR value, made when it is first named."""
    told: VmSuspend = vm.suspend
    gpa = data & ~KVM_MSR_ENABLED  # concrete: an address
    page = told.pages.get(gpa)
    if page is None:
        page = SuspendPage()
        told.pages = with_page(told.pages, gpa, page)
    return page


def store(vm: VmTime) -> None:
    """kvm_write_suspend_time(): the total into guest memory, whoever that belongs to by now."""
    store_into(vm, vm.suspend.page)


def store_into(vm: VmTime, page: SuspendPage | None) -> None:
    """The same into the record whose address was looked up."""
    told: VmSuspend = vm.suspend
    if page is not None:
        page.suspend_time_ns = told.suspend_time_ns
        page.stores = page.stores + 1
        if not page.owned:
            page.stray = page.stray + 1


class _Posted(NotTold):
    """What the three series have in common: the MSR cannot be cleared, and what it names is written at once."""

    @classmethod
    def vm_created(cls, vm: VmTime) -> None:
        kvm: KvmHost = vm.kvm
        vm.suspend = VmSuspend(base_offs_boot_ns=kvm.machine.ktime_get_offs_boot_ns())

    @classmethod
    def set_msr(cls, vcpu: VcpuTime, data: int, *, by_host: bool) -> bool:
        vm: VmTime = vcpu.vm
        told: VmSuspend = vm.suspend
        if not data & KVM_MSR_ENABLED:  # concrete: a flag
            return True
        told.msr = data
        told.page = record_at(vm, data)
        store(vm)
        return True

    @classmethod
    def _moved(cls, kvm: KvmHost, slept_ns: int) -> None:
        """kvm_arch_timekeeping_inject_sleeptime() of v1 and v2: every VM's clocks go back by what was slept.

        It takes kvm_lock, a mutex, inside timekeeper_lock with interrupts off: a kernel that checks would stop here.
        """
        cycles = kvm.machine.tsc_khz * (slept_ns // NS_PER_MS)
        for vm in kvm.vms:
            told: VmSuspend = vm.suspend
            for vcpu in vm.vcpus:
                vcpu.tsc_offset_adjustment = s64(vcpu.tsc_offset_adjustment - cycles)
            vm.kvmclock_offset = s64(vm.kvmclock_offset - slept_ns)
            told.suspend_time_ns = told.suspend_time_ns + slept_ns


@suspend_time.rule(since="2021-04-26", commit="v1 as posted")
class SuspendV1(_Posted):
    """v1: clocks go back in timekeeping_resume(); the guest compares the record at every tick."""

    msr = MSR_KVM_HOST_SUSPEND_TIME_V1

    @classmethod
    def resumed(cls, kvm: KvmHost, slept_ns: int) -> None:
        cls._moved(kvm, slept_ns)

    @classmethod
    def stopped_told(cls, vcpu: VcpuTime) -> None:
        store(vcpu.vm)


@suspend_time.rule(since="2021-08-06", commit="v2 as posted")
class SuspendV2(_Posted):
    """v2: as v1, and the first vCPU to come along writes the record and takes an interrupt of its own, 0xec."""

    msr = MSR_KVM_HOST_SUSPEND_TIME

    @classmethod
    def resumed(cls, kvm: KvmHost, slept_ns: int) -> None:
        cls._moved(kvm, slept_ns)
        for vm in kvm.vms:
            told: VmSuspend = vm.suspend
            told.injection_requested = True

    @classmethod
    def polled(cls, vcpu: VcpuTime) -> None:
        told: VmSuspend = vcpu.vm.suspend
        if told.injection_requested and told.page is not None:
            told.injection_requested = False
            store(vcpu.vm)
            interrupt(vcpu)


@suspend_time.rule(since="2021-10-20", commit="v3 as posted")
class SuspendV3(_Posted):
    """v3: a request, planted before the sleep, makes each vCPU move its own TSC before it enters; interrupt 0xf3."""

    msr = MSR_KVM_HOST_SUSPEND_TIME

    @staticmethod
    def total(vm: VmTime) -> int:
        """What the host has slept since the VM was made, ns."""
        kvm: KvmHost = vm.kvm
        told: VmSuspend = vm.suspend
        return kvm.machine.ktime_get_offs_boot_ns() - told.base_offs_boot_ns

    @classmethod
    def vcpu_created(cls, vcpu: VcpuTime) -> None:
        told: VmSuspend = vcpu.vm.suspend
        vcpu.suspend_time_ns = told.suspend_time_ns

    @classmethod
    def prepare(cls, kvm: KvmHost) -> Coroutine[Checkpoint, None, None] | None:
        for vm in kvm.vms:
            told: VmSuspend = vm.suspend
            if told.msr & KVM_MSR_ENABLED:  # concrete: a flag
                for vcpu in vm.vcpus:
                    vcpu.req_suspend_time = True
        return None

    @classmethod
    def post(cls, kvm: KvmHost) -> None:
        for vm in kvm.vms:
            told: VmSuspend = vm.suspend
            if told.msr & KVM_MSR_ENABLED:  # concrete: a flag
                for vcpu in vm.vcpus:
                    if cls.total(vm) == vcpu.suspend_time_ns:
                        vcpu.req_suspend_time = False

    @classmethod
    async def serve(cls, vcpu: VcpuTime) -> None:
        """kvm_adjust_suspend_time(). Where nothing was slept yet, the request is made again, and entry is refused.

        Between the bit's clearing and its being made again the notifier may look at it.
        """
        vm: VmTime = vcpu.vm
        kvm: KvmHost = vm.kvm
        told: VmSuspend = vm.suspend
        vcpu.req_suspend_time = False
        total = cls.total(vm)
        if total > told.suspend_time_ns:
            more = total - told.suspend_time_ns
            vm.kvmclock_offset = s64(vm.kvmclock_offset - more)
            told.suspend_time_ns = total
            clock_update_all(vm)
        if total <= vcpu.suspend_time_ns:
            seen = kvm.machine.resumes
            await cp("kvm_adjust_suspend_time: not suspended yet")
            vcpu.suspend_resumes_seen = seen
            vcpu.req_suspend_time = True
            return
        more = total - vcpu.suspend_time_ns
        vcpu.suspend_time_ns = total
        cycles = kvm.machine.cpu_khz(vcpu.on_cpu) * (more // NS_PER_MS)
        adjust_tsc_offset_host(vcpu, -cycles)
        vcpu.req_masterclock_update = True
        await cls.write(vm)
        interrupt(vcpu)

    @classmethod
    async def write(cls, vm: VmTime) -> None:
        """kvm_write_suspend_time(), as if it were one step."""
        store(vm)

    @classmethod
    def barred(cls, vcpu: VcpuTime) -> bool:
        """The vCPU's thread goes round and round here; nothing comes of it until the host has slept, or POST is run."""
        kvm: KvmHost = vcpu.vm.kvm
        return vcpu.req_suspend_time and vcpu.suspend_resumes_seen == kvm.machine.resumes

    @classmethod
    def spins(cls, vcpu: VcpuTime) -> bool:
        """A request that is pending makes kvm_vcpu_exit_request() true: vcpu_run() goes round."""
        return cls.barred(vcpu)

    @classmethod
    def applied(cls, vcpu: VcpuTime) -> bool:
        told: VmSuspend = vcpu.vm.suspend
        return not told.msr or bool(cls.total(vcpu.vm) == vcpu.suspend_time_ns)


@suspend_time.rule(since="2021-10-20", commit="v3 as posted")
class SuspendV3Cached(SuspendV3):
    """v3, whose store into guest memory takes the two steps that it has: the VM's cached address, and the store.

    No lock keeps another vCPU's WRMSR from making that cache anew in between. A rule of its own, since it is a step
    more in every order.
    """

    @classmethod
    async def write(cls, vm: VmTime) -> None:
        page = vm.suspend.page
        await cp("kvm_write_guest_cached")
        store_into(vm, page)


def pages_of(vm: VmTime) -> Any:
    """Every record that ever was, for onlookers."""
    told: VmSuspend | None = vm.suspend
    return () if told is None else tuple(told.pages.values())
