"""A new VM whose vCPU 0 runs alone for 20 s, as a boot processor does. Then vCPU 1 enters for the first time."""

from __future__ import annotations

from guestclock.kvm.api import Host, Vm

SEEN = "kvm_arch_vcpu_postcreate(), v6.12: each vCPU's creation asks for a snapshot, taken at its first entry"
POLICY = {"kvmclock": "freeze"}

ALONE_NS = 20 * 10**9


async def save(vm: Vm) -> int:
    return (await vm.get_clock()).clock_ns


async def restore(vm: Vm, snapshot: int) -> None:
    first, *others = vm.vcpus
    await first.start()
    await Host().wait(ALONE_NS)
    for vcpu in others:
        await vcpu.start()
