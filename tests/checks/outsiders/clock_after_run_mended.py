"""Our VMM: the clock, and then the vCPUs."""

from guestclock.abi.msr import MSR_IA32_TSC

POLICY = {"tsc": "freeze", "kvmclock": "freeze"}


async def save(vm):
    tscs = [await vcpu.get_msr(MSR_IA32_TSC) for vcpu in vm.vcpus]
    clock = await vm.get_clock()
    return {"tscs": tscs, "clock_ns": clock.clock_ns}


async def restore(vm, snapshot):
    for vcpu, tsc in zip(vm.vcpus, snapshot["tscs"], strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, tsc)
    await vm.set_clock(snapshot["clock_ns"])
    for vcpu in vm.vcpus:
        await vcpu.start()
