"""arm64 by offset, on the same host: the guest's counters stand to the host's as they did, and nothing needs reading.

KVM_ARM_SET_COUNTER_OFFSET gives both counters of all vCPUs one offset, once and for all: it may be written late, or
twice, and vCPUs that are created after it change nothing. KVM cannot tell it: the VMM remembers what it gave. It gives
one from the first, so that the guest's counters begin at 0 and never need a value.
"""

from __future__ import annotations

from guestclock.kvm.api import Host, Vm
from guestclock.vmm.snapshot import Arm64Snapshot, Arm64VcpuSnapshot

ARCH = "arm64"
SEEN = "Linux, Documentation/virt/kvm/api.rst, KVM_ARM_SET_COUNTER_OFFSET, 6.4"
POLICY = {"cntvct": "advance", "cntpct": "advance"}


async def create(host: Host, vcpus: int, snapshot: Arm64Snapshot | None) -> Vm:
    vm = await host.create_vm()
    for _ in range(vcpus):
        await vm.create_vcpu()
    if snapshot is None:
        await give(vm, await host.read_clock("counter"))
    return vm


async def save(vm: Vm) -> Arm64Snapshot:
    """With the pair of the host's counter and wall clock, for whoever restores it elsewhere."""
    counter, realtime_ns = await pair()
    return Arm64Snapshot(
        vcpus=tuple([Arm64VcpuSnapshot() for _ in vm.vcpus]),
        counter_offset=vm.kept["offset"],
        host_counter=counter,
        realtime_ns=realtime_ns,
        counter_hz=await Host().read_clock("cntfrq"),
    )


async def restore(vm: Vm, snapshot: Arm64Snapshot) -> None:
    await give(vm, snapshot.counter_offset)


async def give(vm: Vm, offset: int) -> None:
    """The offset, and a note of it."""
    await vm.set_counter_offset(offset)
    vm.kept["offset"] = offset


async def pair() -> tuple[int, int]:
    """The host's counter, ticks, and its wall clock, ns, at one instant: known to half of what passes between the two
    counter reads.
    """
    host = Host()
    before = await host.read_clock("counter")
    realtime_ns = await host.read_clock("realtime")
    return (before + await host.read_clock("counter")) // 2, realtime_ns
