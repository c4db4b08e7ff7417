"""A VMM of our own stops its guest for a backup: kvmclock shall not show the pause. The TSC cannot help but run on."""

from guestclock.kvm.api import Vm

SEEN = "our own VMM, backup.c"
POLICY = {"tsc": "run", "kvmclock": "freeze"}


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
    vm.kept["clock"] = await vm.get_clock()


async def resume(vm: Vm) -> None:
    await vm.set_clock(vm.kept["clock"].clock_ns)
    for vcpu in vm.vcpus:
        await vcpu.kvmclock_ctrl()  # or its watchdogs take the backup for a lockup
        await vcpu.start()
