"""The masterclock: one snapshot (host TSC, base clock) from which all pages of a VM are made."""

from __future__ import annotations

from guestclock.kvm.model.x86 import tracepoints
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.hyperv import request_tsc_page_update
from guestclock.kvm.model.x86.requests import (
    all_out_of_guest,
    clock_update_all,
    entries_allowed,
    masterclock_update_all,
)
from guestclock.kvm.model.x86.state import VmTime
from guestclock.sim import cp


def pvclock_update_vm_gtod_copy(vm: VmTime) -> None:
    """Takes a new snapshot and decides whether it may be used. The caller holds tsc_write_lock.

    The snapshot is overwritten even if it may not be used; only a clocksource without TSC leaves it as it was.
    Source: arch/x86/kvm/x86.c pvclock_update_vm_gtod_copy().
    """
    kvm: KvmHost = vm.kvm
    all_matched = vm.nr_vcpus_matched_tsc + 1 == vm.online_vcpus
    read = kvm.machine.get_time_and_clockread(kvm.profile.base_clock)
    if read is not None:
        vm.master_kernel_ns, vm.master_cycle_now = read
    vm.use_master_clock = (
        read is not None and all_matched and not vm.backwards_tsc_observed and not vm.boot_vcpu_runs_old_kvmclock
    )
    if vm.use_master_clock:
        kvm.state.guest_has_master_clock = True
    if kvm.emit is not None:
        kvm.trace(
            "kvm_update_master_clock",
            None,
            tracepoints.kvm_update_master_clock(vm.use_master_clock, kvm.machine.vclock_mode, all_matched),
        )


async def kvm_update_masterclock(vm: VmTime) -> None:
    """A new snapshot, with no vCPU of the VM in its guest meanwhile."""
    request_tsc_page_update(vm)
    await kvm_start_pvclock_update(vm)
    pvclock_update_vm_gtod_copy(vm)
    await kvm_end_pvclock_update(vm)


async def kvm_start_pvclock_update(vm: VmTime) -> None:
    await all_out_of_guest(vm)


async def kvm_end_pvclock_update(vm: VmTime) -> None:
    """The lock is dropped first; until the vCPUs are told, nobody enters and nobody has a new page."""
    await cp("kvm_end_pvclock_update")
    clock_update_all(vm)
    entries_allowed(vm)


def pvclock_gtod_notify(kvm: KvmHost) -> None:
    """The host changed its clocksource: if it left the TSC, all VMs' masterclocks shall be looked at again.

    Nothing brings a masterclock back when the TSC returns. Runs in a workqueue; nobody is kicked.
    """
    if not kvm.tsc_clocksource and kvm.state.guest_has_master_clock:
        kvm.spawner.spawn("pvclock_gtod_work", _pvclock_gtod_update(kvm), daemon=True)


async def _pvclock_gtod_update(kvm: KvmHost) -> None:
    await cp("pvclock_gtod_update_fn")
    for vm in kvm.vms:
        masterclock_update_all(vm)
    kvm.state.guest_has_master_clock = False
