"""2010's other assistance, which no kernel has: all TSCs are held at one instant, and let go at one.

Needs the overlay stop-all-tscs. kvmclock is still read and written apart from them.
"""

from __future__ import annotations

from guestclock.kvm.api import Vm
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

SEEN = "kvm list, 'Re: [PATCH 09/18] Robust TSC compensation', July 2010"
POLICY = {"tsc": "freeze", "kvmclock": "freeze"}


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
    vm.kept["tsc"] = await vm.stop_all_tscs()


async def save(vm: Vm) -> Snapshot:
    vcpus = tuple([VcpuSnapshot(tsc=vm.kept["tsc"]) for _ in vm.vcpus])
    return Snapshot(vcpus=vcpus, clock=await vm.get_clock())


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    await vm.stop_all_tscs()
    await vm.start_all_tscs(snapshot.vcpus[0].tsc)
    await vm.set_clock(snapshot.clock.clock_ns)
