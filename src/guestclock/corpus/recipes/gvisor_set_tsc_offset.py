"""gVisor since KVM 5.16: a vCPU's TSC is the host's because its offset is 0. The VMs are made one after the other."""

from __future__ import annotations

from guestclock.kvm.api import Host, Vm

SEEN = "gVisor PR #8121, pkg/sentry/platform/kvm/machine_amd64.go (setTSCOffset)"
POLICY = {"tsc": "run"}


async def create(host: Host, vcpus: int, snapshot: object) -> Vm:
    """The first VM's TSCs are the host's exactly: what time must go on from."""
    vm = await host.create_vm()
    for _ in range(vcpus):
        await vm.create_vcpu()
    for vcpu in vm.vcpus:
        await vcpu.enable_kvmclock()
        if snapshot is None:
            await vcpu.set_tsc_offset(0)
    return vm


async def save(vm: Vm) -> str:
    return "nothing: the next one's is the host's, too"


async def restore(vm: Vm, snapshot: object) -> None:
    for vcpu in vm.vcpus:
        await vcpu.set_tsc_offset(0)
