"""crosvm on arm64, suspend and resume: both counters stand still, by one offset that grows by each suspend.

The host's counter is read once every vCPU is out, and again before any is let in. The guest is told of the time by
virtio-pvclock, which is not KVM's. The offset is 0 at boot: the guest counts as its host does.
"""

from __future__ import annotations

from guestclock.kvm.api import Host, Vm

ARCH = "arm64"
SEEN = "crosvm, src/crosvm/sys/linux.rs and hypervisor/src/kvm/aarch64.rs at f1e797a68"
POLICY = {"cntvct": "freeze", "cntpct": "freeze"}


async def create(host: Host, vcpus: int, snapshot: None) -> Vm:
    vm = await host.create_vm()
    for _ in range(vcpus):
        await vm.create_vcpu()
    await vm.set_counter_offset(0)
    vm.kept["suspended"] = 0
    return vm


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
    vm.kept["since"] = await Host().read_clock("counter")


async def resume(vm: Vm) -> None:
    vm.kept["suspended"] += await Host().read_clock("counter") - vm.kept["since"]
    await vm.set_counter_offset(vm.kept["suspended"])
    for vcpu in vm.vcpus:
        await vcpu.start()
