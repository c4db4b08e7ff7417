"""crosvm, suspend and resume: kvmclock is read once the vCPUs are out and written back just before they run.

kvmclock stands still, the TSC runs on. (With virtio-pvclock the guest is told of the time besides; that is not KVM's.)
"""

from __future__ import annotations

from guestclock.kvm.api import Vm

SEEN = "crosvm, vm_control/src/lib.rs and src/crosvm/sys/linux/vcpu.rs, Aug 2026"
POLICY = {"tsc": "run", "kvmclock": "freeze"}


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
        await vcpu.kvmclock_ctrl()
    vm.kept["clock"] = await vm.get_clock()


async def resume(vm: Vm) -> None:
    await vm.set_clock(vm.kept["clock"].clock_ns)
    for vcpu in vm.vcpus:
        await vcpu.start()
