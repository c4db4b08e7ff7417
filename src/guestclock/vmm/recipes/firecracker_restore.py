"""Firecracker, snapshot restore: every vCPU's TSC by value, then kvmclock by value.

Nothing ties the two together, nor one vCPU to the next: KVM's guess (a second write within a second means the same
TSC) has to make up for it. For the guest no time passes between snapshot and restore.
"""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_DEADLINE
from guestclock.kvm.api import Vm
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

SEEN = "Firecracker, src/vmm/src/builder.rs and arch/x86_64/vcpu.rs, Aug 2026"
POLICY = {"tsc": "freeze", "kvmclock": "freeze"}
FIX = "best-since-5.16: one sum is added to every offset: KVM need not guess which TSCs are meant to agree"

TOLERANCE_PPM = 250


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
        await vcpu.kvmclock_ctrl()


async def save(vm: Vm) -> Snapshot:
    vcpus = []
    for vcpu in vm.vcpus:
        tsc_khz = await vcpu.get_tsc_khz()
        tsc = await vcpu.get_msr(MSR_IA32_TSC)
        deadline = await vcpu.get_msr(MSR_IA32_TSC_DEADLINE)  # in a chunk of its own, the last
        vcpus.append(VcpuSnapshot(tsc=tsc, tsc_khz=tsc_khz, tsc_deadline=deadline))
    return Snapshot(vcpus=tuple(vcpus), clock=await vm.get_clock())


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    await scale(vm, snapshot.vcpus[0].tsc_khz)
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, saved.tsc)
        if saved.tsc_deadline is not None:  # after the TSC: #4099
            deadline = saved.tsc_deadline if saved.tsc_deadline > 0 else saved.tsc  # fix_zero_tsc_deadline_msr()
            await vcpu.set_msr(MSR_IA32_TSC_DEADLINE, deadline)
        await vcpu.kvmclock_ctrl()
    await vm.set_clock(snapshot.clock.clock_ns)


async def scale(vm: Vm, tsc_khz: int) -> None:
    """The saved rate, where it is further off than calibration from boot to boot."""
    tolerance = tsc_khz * TOLERANCE_PPM // 1_000_000
    if not -tolerance <= await vm.vcpus[0].get_tsc_khz() - tsc_khz <= tolerance:
        for vcpu in vm.vcpus:
            await vcpu.set_tsc_khz(tsc_khz)
