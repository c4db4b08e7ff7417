"""Requests: bits that wait on a vCPU until its next guest entry, and who is thrown out of the guest for them."""

from __future__ import annotations

from guestclock.kvm.model.x86.state import VcpuTime, VmTime
from guestclock.sim import cp


def kick(vcpu: VcpuTime) -> None:
    """kvm_vcpu_kick(): a vCPU in the guest leaves it, serves its requests and goes on. One outside sees them anyway."""
    if vcpu.in_guest:
        vcpu.ipi = True


def pending(vcpu: VcpuTime) -> bool:
    """kvm_request_pending() for the requests of this model; KVM_REQ_MCLOCK_INPROGRESS is not one that is served."""
    return (
        vcpu.req_migrate_timer
        or vcpu.req_masterclock_update
        or vcpu.req_global_clock_update
        or vcpu.req_clock_update
        or vcpu.req_suspend_time
    )


def clock_update_all(vm: VmTime) -> None:
    """KVM_REQ_CLOCK_UPDATE on every vCPU, without a kick: those halted or outside keep their page until they run."""
    for vcpu in vm.vcpus:
        vcpu.req_clock_update = True


def masterclock_update_all(vm: VmTime) -> None:
    """KVM_REQ_MASTERCLOCK_UPDATE on every vCPU, without a kick."""
    for vcpu in vm.vcpus:
        vcpu.req_masterclock_update = True


async def all_out_of_guest(vm: VmTime) -> None:
    """KVM_REQ_MCLOCK_INPROGRESS on every vCPU, and waits until those that were in the guest have left it."""
    inside = [vcpu for vcpu in vm.vcpus if vcpu.in_guest]
    for vcpu in vm.vcpus:
        vcpu.req_mclock_inprogress = True
    for vcpu in inside:
        vcpu.ipi = True
    await cp("KVM_REQ_MCLOCK_INPROGRESS", until=(lambda: not any(v.ipi for v in inside)) if inside else None)


def entries_allowed(vm: VmTime) -> None:
    """Clears KVM_REQ_MCLOCK_INPROGRESS on every vCPU: a bit, not a counter, so also what somebody else has set."""
    for vcpu in vm.vcpus:
        vcpu.req_mclock_inprogress = False
