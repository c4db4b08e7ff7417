"""The best there is since 5.16: as the kernel documents it, and nothing left pending when the guest runs.

Tied together: the vCPUs (one sum is added to every saved offset, so equal ones stay equal and others stay apart as they
were) and the TSCs with kvmclock (host TSC and kvmclock of one KVM_GET_CLOCK on either side). Every vCPU goes through
KVM_RUN with a signal pending before any of them runs: KVM serves its requests and comes back before the first
instruction, so that no new snapshot is taken, and no page is stale, when the guest looks.
What remains: kvmclock is ahead by the time between two clock reads inside KVM_SET_CLOCK; against the TSC it is off by
the drift of the raw clock against the page (tens of ns per second) from KVM_SET_CLOCK to the last KVM_RUN; the wall
clocks of the two hosts. Not for a TSC that is scaled on either side.
"""

from __future__ import annotations

from guestclock.abi.ioctl import KVM_CAP_VM_TSC_CONTROL, KVM_CLOCK_REALTIME
from guestclock.kvm.api import Host, Vm
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

SEEN = "this project, Nov 2026; after Linux, Documentation/virt/kvm/devices/vcpu.rst"
POLICY = {"tsc": "advance", "kvmclock": "advance"}


async def create(host: Host, vcpus: int, snapshot: Snapshot | None) -> Vm:
    """The rate before the first vCPU, all vCPUs before the first write."""
    vm = await host.create_vm()
    if snapshot is not None and await host.check_extension(KVM_CAP_VM_TSC_CONTROL):
        await vm.set_tsc_khz(snapshot.vcpus[0].tsc_khz)
    for _ in range(vcpus):
        vcpu = await vm.create_vcpu()
        await vcpu.enable_kvmclock()
    return vm


async def save(vm: Vm) -> Snapshot:
    clock = await vm.get_clock()
    vcpus = []
    for vcpu in vm.vcpus:
        offset = await vcpu.get_tsc_offset()
        vcpus.append(VcpuSnapshot(tsc_offset=offset, tsc_khz=await vcpu.get_tsc_khz()))
    return Snapshot(vcpus=tuple(vcpus), clock=clock)


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    then = snapshot.clock
    await vm.set_clock(then.clock_ns, KVM_CLOCK_REALTIME, then.realtime_ns)
    now = await vm.get_clock()
    passed = (now.clock_ns - then.clock_ns) * snapshot.vcpus[0].tsc_khz // 1_000_000
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await vcpu.set_tsc_offset(saved.tsc_offset + passed + then.host_tsc - now.host_tsc)
    for _ in range(2):  # whoever has a request takes a new snapshot; pages of those before it follow the second time
        for vcpu in vm.vcpus:
            await vcpu.run()
