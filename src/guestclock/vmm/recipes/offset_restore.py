"""By offset, on the same host: what is written says how the guest's TSC stands to the host's, so it may be late.

Written twice it is the same twice. kvmclock is advanced by KVM itself, from the wall clock that GET_CLOCK gave with it.
On another host, or after a reboot, the offsets mean nothing (kernel-doc-migrate carries them over).
"""

from __future__ import annotations

from guestclock.abi.ioctl import KVM_CLOCK_REALTIME
from guestclock.kvm.api import Vm
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

SEEN = "kvm list, 'KVM: Add idempotent controls for migrating system counter state', July 2021; KVM 5.16"
POLICY = {"tsc": "advance", "kvmclock": "advance"}


async def save(vm: Vm) -> Snapshot:
    clock = await vm.get_clock()
    vcpus = [VcpuSnapshot(tsc_offset=await vcpu.get_tsc_offset()) for vcpu in vm.vcpus]
    return Snapshot(vcpus=tuple(vcpus), clock=clock)


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await vcpu.set_tsc_offset(saved.tsc_offset)
    await vm.set_clock(snapshot.clock.clock_ns, KVM_CLOCK_REALTIME, snapshot.clock.realtime_ns)
