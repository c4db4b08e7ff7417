"""The best there is from 4.12 to 5.15, which have no TSC offset to write: one value for vCPU 0, zeros for the others.

A write of 0 means "in sync" to these kernels, however late it comes: the others get vCPU 0's offset, bit for bit.
vCPU 0 is written twice, first far off, so that KVM does not take the value for one of the line before it.
TSC and kvmclock are saved as one pair, read from the guest's page at one TSC value, as QEMU can do, too. Each is
written with the time that has passed as of just then, kvmclock before any vCPU goes near KVM_RUN. Then every vCPU goes
through it with a signal pending, twice: what the TSC writes have asked for is served before the guest looks.
What remains: between the wall clock's reading and the call that uses it the VMM can be preempted, once on saving, once
for the TSC and once for kvmclock on restoring. TSCs that the guest has set apart are made equal.
"""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import ClockData, Host, Vm
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

SEEN = "this project, Nov 2026"
POLICY = {"tsc": "advance", "kvmclock": "advance"}

FAR_S = 10


async def save(vm: Vm) -> Snapshot:
    first = vm.vcpus[0]
    tsc_khz = await first.get_tsc_khz()
    realtime_ns = await Host().read_clock("realtime")
    pair = await first.peek()
    assert pair.kvmclock_ns is not None, "the guest has no kvmclock page"
    vcpus = tuple([VcpuSnapshot(tsc=pair.tsc, tsc_khz=tsc_khz) for _ in vm.vcpus])
    return Snapshot(vcpus=vcpus, clock=ClockData(pair.kvmclock_ns, 0), realtime_ns=realtime_ns)


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    first, *others = vm.vcpus
    saved = snapshot.vcpus[0]
    await first.set_msr(MSR_IA32_TSC, saved.tsc + await passed_ns(snapshot) * saved.tsc_khz // 1_000_000 + far(saved))
    await first.set_msr(MSR_IA32_TSC, saved.tsc + await passed_ns(snapshot) * saved.tsc_khz // 1_000_000)
    for vcpu in others:
        await vcpu.set_msr(MSR_IA32_TSC, 0)
    await vm.set_clock(snapshot.clock.clock_ns + await passed_ns(snapshot))
    for _ in range(2):
        for vcpu in vm.vcpus:
            await vcpu.run()


async def passed_ns(snapshot: Snapshot) -> int:
    now_ns: int = await Host().read_clock("realtime") - snapshot.realtime_ns
    return now_ns


def far(saved: VcpuSnapshot) -> int:
    """Cycles further on than any write that KVM would take for one in sync."""
    cycles: int = FAR_S * 1_000 * saved.tsc_khz
    return cycles
