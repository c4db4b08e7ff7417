"""Sandboxes are forked from one snapshot, any number of times: each begins with the right time and vCPUs that agree.

vCPU 0's TSC is written by value; the offset that comes of it is read and given to all, so that it does not matter how
long the forking takes. kvmclock is moved on by KVM, from the wall clock that was saved with it.
"""

from guestclock.abi.ioctl import KVM_CLOCK_REALTIME
from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Host, Vm
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

SEEN = "our own VMM, fork.c"
POLICY = {"tsc": "freeze", "kvmclock": "advance"}


async def create(host: Host, vcpus: int, snapshot: Snapshot | None) -> Vm:
    vm = await host.create_vm()
    for _ in range(vcpus):  # all of them before the first TSC is written
        vcpu = await vm.create_vcpu()
        await vcpu.enable_kvmclock()
    return vm


async def save(vm: Vm) -> Snapshot:
    tsc = await vm.vcpus[0].get_msr(MSR_IA32_TSC)
    return Snapshot(vcpus=tuple([VcpuSnapshot(tsc=tsc) for _ in vm.vcpus]), clock=await vm.get_clock())


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    first, *others = vm.vcpus
    await first.set_msr(MSR_IA32_TSC, snapshot.vcpus[0].tsc)
    offset = await first.get_tsc_offset()
    for vcpu in others:
        await vcpu.set_tsc_offset(offset)
    await vm.set_clock(snapshot.clock.clock_ns, KVM_CLOCK_REALTIME, snapshot.clock.realtime_ns)
