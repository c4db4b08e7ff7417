"""crosvm, snapshot and restore: TSCs by value, kvmclock as it was at suspend.

crosvm's own interface has the pair that would tie them (a host TSC and an offset); on KVM it is left unused. In crosvm
each vCPU's thread writes its own TSC; here they write one after the other.
"""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.crosvm_suspend_resume import pause, resume
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

SEEN = "crosvm, vm_control/src/lib.rs (do_restore) and hypervisor/src/kvm/x86_64.rs, Aug 2026"
POLICY = {"tsc": "freeze", "kvmclock": "freeze"}

__all__ = ["pause", "restore", "resume", "save"]


async def save(vm: Vm) -> Snapshot:
    vcpus = [VcpuSnapshot(tsc=await vcpu.get_msr(MSR_IA32_TSC)) for vcpu in vm.vcpus]
    return Snapshot(vcpus=tuple(vcpus), clock=vm.kept["clock"])


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, saved.tsc)
    vm.kept["clock"] = snapshot.clock
