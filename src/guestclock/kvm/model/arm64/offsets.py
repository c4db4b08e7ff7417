"""Where a guest's counter offsets lie, who writes them, and how: they alone decide what a guest's counters show.

An offset is in ticks, u64, and is subtracted from the host's counter. Writing one changes nothing for a vCPU that is
in KVM_RUN: it goes on with what it has loaded until its next vcpu_load().
"""

from __future__ import annotations

from guestclock.arith import u64
from guestclock.errors import UserError
from guestclock.kvm.model.arm64.host import KvmHost
from guestclock.kvm.model.arm64.profile import (
    context_offsets,
    creation_offsets,
    ptp_offset,
    timer_offset,
    write_counter,
)
from guestclock.kvm.model.arm64.soft_timer import set_cell
from guestclock.kvm.model.arm64.state import (
    TIMER_PTIMER,
    TIMER_VTIMER,
    TimerContext,
    VcpuTime,
    VmTime,
    ptimer,
    vtimer,
)
from guestclock.sim import Cell, cp

VIRTUAL, PHYSICAL = 0, 1
"""KVM_PTP_VIRT_COUNTER, KVM_PTP_PHYS_COUNTER."""


# ---- kvm->lock


async def lock_vm(vm: VmTime, what: str) -> None:
    """mutex_lock(&kvm->lock): waits for whoever has it."""
    while vm.lock:
        await cp(f"{what} waits for kvm->lock of VM {vm.id}", until=lambda: not vm.lock)
    vm.lock = True


def unlock_vm(vm: VmTime) -> None:
    assert vm.lock, "kvm->lock is not held"
    vm.lock = False


def trylock_all_vcpus(vm: VmTime) -> bool:
    """lock_all_vcpus(): every vCPU's mutex, or none of them: then one is in KVM_RUN, or in an ioctl of its own."""
    assert vm.lock, "kvm->lock is not held"
    if any(vcpu.mutex for vcpu in vm.vcpus):
        return False
    for vcpu in vm.vcpus:
        vcpu.mutex = True
    return True


def unlock_all_vcpus(vm: VmTime) -> None:
    for vcpu in vm.vcpus:
        vcpu.mutex = False


# ---- KVM_ARM_SET_COUNTER_OFFSET


async def kvm_vm_ioctl_set_counter_offset(vm: VmTime, offset: int) -> bool:
    """Both counters of every vCPU, those to come included: host - offset. False (EBUSY) if a vCPU is busy.

    Three stores under kvm->lock and all mutexes. Only the creation of a vCPU minds neither.
    """
    await lock_vm(vm, "SetCounterOffset")
    if not trylock_all_vcpus(vm):
        unlock_vm(vm)
        return False
    vm.counter_offset = True
    await cp("SetCounterOffset: voffset")
    set_cell(vm, vm.voffset, offset)
    await cp("SetCounterOffset: poffset")
    set_cell(vm, vm.poffset, offset)
    unlock_all_vcpus(vm)
    unlock_vm(vm)
    return True


# ---- the cells


@context_offsets.rule(since="5.10")
def cntvoff_of_each_vcpu(vcpu: VcpuTime) -> None:
    """The virtual timer's in the vCPU's shadow of CNTVOFF_EL2; the physical timer has none."""
    vtimer(vcpu).vm_offset = vcpu.cntvoff_el2


@context_offsets.rule(since="6.3", commit="47053904e182")
def voffset_of_the_vm(vcpu: VcpuTime) -> None:
    """The virtual timers' of all vCPUs in one cell; the physical timer has none."""
    vtimer(vcpu).vm_offset = vcpu.vm.voffset


@context_offsets.rule(since="6.4", commit="30ec7997d175")
def both_of_the_vm(vcpu: VcpuTime) -> None:
    """EL1's virtual timers in one cell of the VM, all other timers in another one."""
    vm: VmTime = vcpu.vm
    for timer in vcpu.timers:
        timer.vm_offset = vm.voffset if timer.index == TIMER_VTIMER else vm.poffset


@context_offsets.rule(since="2021-06-08, v1")
def both_of_each_vcpu(vcpu: VcpuTime) -> None:
    """In the vCPU's shadows of CNTVOFF_EL2 and CNTPOFF_EL2."""
    vtimer(vcpu).vm_offset = vcpu.cntvoff_el2
    ptimer(vcpu).vm_offset = Cell()


@context_offsets.rule(since="2021-08-04, v6")
def host_offset_of_each_timer(vcpu: VcpuTime) -> None:
    """In the timer itself (host_offset), beside the shadow of CNTVOFF_EL2 that userspace sees."""
    vtimer(vcpu).vm_offset = Cell()
    ptimer(vcpu).vm_offset = Cell()


def cell_of(timer: TimerContext) -> Cell:
    """The cell that timer_set_offset() writes. Raises UserError for a kernel of one's own that forgot it."""
    cell = timer.vm_offset
    if cell is None:
        kernel = timer.vcpu.vm.kvm.profile.name
        raise UserError(f"kernel {kernel}: timer {timer.index} has no offset, expected a cell from context_offsets")
    return cell


# ---- a counter by value


async def broadcast(vcpu: VcpuTime, index: int, offset: int) -> None:
    """The offset of one timer of each vCPU, one after the other under kvm->lock; the vCPU's own again at the end.

    Source: arch/arm64/kvm/arch_timer.c update_vtimer_cntvoff(), v6.1; as update_timer_offset() in the series of 2021.
    """
    vm: VmTime = vcpu.vm
    await lock_vm(vm, "update_vtimer_cntvoff")
    await _broadcast_locked(vcpu, index, offset)
    unlock_vm(vm)


async def _broadcast_locked(vcpu: VcpuTime, index: int, offset: int) -> None:
    vm: VmTime = vcpu.vm
    for other in vm.vcpus:
        await cp(f"update_vtimer_cntvoff: vCPU {other.index}")
        set_cell(vm, cell_of(other.timers[index]), offset)
    set_cell(vm, cell_of(vcpu.timers[index]), offset)


@write_counter.rule(since="5.10")
async def counter_broadcast(vcpu: VcpuTime, timer: TimerContext, value: int) -> None:
    """The offset is fixed by one read, before the wait for kvm->lock; then it goes to all vCPUs."""
    kvm: KvmHost = vcpu.vm.kvm
    await broadcast(vcpu, timer.index, u64(kvm.phys_timer_read() - value))


@write_counter.rule(since="6.3", commit="47053904e182")
async def counter_stored(vcpu: VcpuTime, timer: TimerContext, value: int) -> None:
    """One store, without a lock: the counter of all vCPUs at their next load."""
    kvm: KvmHost = vcpu.vm.kvm
    offset = u64(kvm.phys_timer_read() - value)
    await cp("KVM_SET_ONE_REG: timer_set_offset")
    set_cell(vcpu.vm, cell_of(timer), offset)


@write_counter.rule(since="6.4", commit="30ec7997d175")
async def counter_stored_unless_given(vcpu: VcpuTime, timer: TimerContext, value: int) -> None:
    """One store, without a lock, for all vCPUs at their next load; ignored after KVM_ARM_SET_COUNTER_OFFSET."""
    if not vcpu.vm.counter_offset:
        await counter_stored(vcpu, timer, value)


@write_counter.rule(since="2021-08-04, v6")
async def counter_broadcast_as_guest_offset(vcpu: VcpuTime, timer: TimerContext, value: int) -> None:
    """The guest's CNTVOFF_EL2 becomes now - value: with a physical offset the counter is off by that."""
    kvm: KvmHost = vcpu.vm.kvm
    await broadcast_guest_offset(vcpu, u64(kvm.phys_timer_read() - value))


# ---- a new vCPU


@creation_offsets.rule(since="5.10")
async def creation_broadcasts_now(vcpu: VcpuTime) -> None:
    """The virtual counters of all vCPUs begin at 0 again; the new one's physical offset is 0."""
    kvm: KvmHost = vcpu.vm.kvm
    await broadcast(vcpu, TIMER_VTIMER, kvm.phys_timer_read())


@creation_offsets.rule(since="6.3", commit="47053904e182")
async def creation_resets_voffset(vcpu: VcpuTime) -> None:
    """The VM's virtual counter begins at 0 again."""
    vm: VmTime = vcpu.vm
    set_cell(vm, vm.voffset, vm.kvm.phys_timer_read())


@creation_offsets.rule(since="6.4", commit="30ec7997d175")
async def creation_resets_both_unless_given(vcpu: VcpuTime) -> None:
    """The VM's virtual counter begins at 0 again and its physical one is the host's, but for a given offset.

    Under no lock: a KVM_ARM_SET_COUNTER_OFFSET between the question and the stores is undone, and still counts.
    """
    vm: VmTime = vcpu.vm
    if vm.counter_offset:
        return
    await cp("kvm_timer_vcpu_init: voffset")
    set_cell(vm, vm.voffset, vm.kvm.phys_timer_read())
    await cp("kvm_timer_vcpu_init: poffset")
    set_cell(vm, vm.poffset, 0)


@creation_offsets.rule(since="2021-08-04, v6")
async def creation_broadcasts_guest_offset(vcpu: VcpuTime) -> None:
    """The guests' CNTVOFF_EL2 becomes now; the physical offset that the others have, the new vCPU has not."""
    await broadcast_guest_offset(vcpu, vcpu.vm.kvm.phys_timer_read())


# ---- the offset that userspace sees (series of 2021, v6 and v8)


async def broadcast_guest_offset(vcpu: VcpuTime, offset: int) -> None:
    """timer_set_guest_offset() for all vCPUs: each one's host_offset moves by what its CNTVOFF_EL2 moves."""
    vm: VmTime = vcpu.vm
    await lock_vm(vm, "update_vtimer_cntvoff")
    for other in vm.vcpus:
        await cp(f"update_vtimer_cntvoff: vCPU {other.index}")
        _set_guest_offset(other, offset)
    _set_guest_offset(vcpu, offset)
    unlock_vm(vm)


def _set_guest_offset(vcpu: VcpuTime, offset: int) -> None:
    cell, shadow = cell_of(vtimer(vcpu)), vcpu.cntvoff_el2
    host_offset = u64(cell.value + offset - shadow.value)
    shadow.value = offset
    set_cell(vcpu.vm, cell, host_offset)


async def update_ptimer_cntpoff(vcpu: VcpuTime, offset: int) -> None:
    """Both counters of all vCPUs move by the change of the physical offset, reckoned from this vCPU's own two offsets.

    First the physical one of each, then the virtual one of each.
    """
    vm: VmTime = vcpu.vm
    await lock_vm(vm, "update_ptimer_cntpoff")
    virtual, physical = cell_of(vtimer(vcpu)), cell_of(ptimer(vcpu))
    voffset = u64(virtual.value + offset - physical.value)
    await _broadcast_locked(vcpu, TIMER_PTIMER, offset)
    await _broadcast_locked(vcpu, TIMER_VTIMER, voffset)
    unlock_vm(vm)


@timer_offset.rule()
def no_offset_register(vcpu: VcpuTime) -> int:
    """There is no such register.

    Raises UserError for a kernel of one's own that shows it all the same.
    """
    kernel = vcpu.vm.kvm.profile.name
    raise UserError(
        f"kernel {kernel}: timer_offset_reg without a rule at timer_offset, expected guest_offset or another"
    )


@timer_offset.rule(since="2021-08-04, v6")
def host_offset_less_physical(vcpu: VcpuTime) -> int:
    """The virtual offset as the guest's own, reckoned from its physical counter."""
    return u64(cell_of(vtimer(vcpu)).value - cell_of(ptimer(vcpu)).value)


@timer_offset.rule(since="2021-09-16, v8")
def guest_offset(vcpu: VcpuTime) -> int:
    """What was written last, by this way or as a counter."""
    return vcpu.cntvoff_el2.value


# ---- what the PTP hypercall subtracts


@ptp_offset.rule(since="5.13")
def cntvoff_of_this_vcpu(vcpu: VcpuTime, counter: int) -> int:
    """The vCPU's shadow of CNTVOFF_EL2; nothing for the physical counter."""
    return vcpu.cntvoff_el2.value if counter == VIRTUAL else 0


@ptp_offset.rule(since="6.3", commit="47053904e182")
def voffset_or_nothing(vcpu: VcpuTime, counter: int) -> int:
    """The VM's virtual offset; nothing for the physical counter."""
    return vcpu.vm.voffset.value if counter == VIRTUAL else 0


@ptp_offset.rule(since="6.4")
def voffset_or_poffset(vcpu: VcpuTime, counter: int) -> int:
    """The VM's two offsets; what a guest hypervisor's CNTVOFF_EL2 adds for its guest is forgotten."""
    vm: VmTime = vcpu.vm
    return vm.voffset.value if counter == VIRTUAL else vm.poffset.value
