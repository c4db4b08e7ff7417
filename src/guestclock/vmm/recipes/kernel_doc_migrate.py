"""The kernel documentation's migration: kvmclock moved on by the wall clock, then TSC offsets that go with it.

Host TSC and kvmclock of one KVM_GET_CLOCK on either side tie the TSCs to kvmclock, and one sum for all of them ties the
vCPUs together. Not for a scaled TSC: host cycles are not the guest's then. A leap second is taken for time that passed.
The offsets open a new generation, so the first vCPU to run takes a new snapshot: kvmclock is stepped once more.
"""

from __future__ import annotations

from guestclock.abi.ioctl import KVM_CLOCK_REALTIME
from guestclock.kvm.api import Vm
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

SEEN = "Linux, Documentation/virt/kvm/devices/vcpu.rst, 5.16 to 7.2"
POLICY = {"tsc": "advance", "kvmclock": "advance"}


async def save(vm: Vm) -> Snapshot:
    src = await vm.get_clock()  # step 1: tsc_src, guest_src, host_src
    vcpus = []
    for vcpu in vm.vcpus:
        ofs_src = await vcpu.get_tsc_offset()  # step 2
        vcpus.append(VcpuSnapshot(tsc_offset=ofs_src, tsc_khz=await vcpu.get_tsc_khz()))  # step 3
    return Snapshot(vcpus=tuple(vcpus), clock=src)


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    src = snapshot.clock
    await vm.set_clock(src.clock_ns, KVM_CLOCK_REALTIME, src.realtime_ns)  # step 4
    dst = await vm.get_clock()  # step 5: tsc_dest, guest_dest
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        passed = (src.clock_ns - dst.clock_ns) * saved.tsc_khz // 1_000_000  # the document leaves the units out
        await vcpu.set_tsc_offset(saved.tsc_offset - passed + (src.host_tsc - dst.host_tsc))  # steps 6 and 7
