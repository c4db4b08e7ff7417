"""Our VMM: on restore the vCPUs run as early as possible, the clock follows."""

from guestclock.abi.msr import MSR_IA32_TSC

POLICY = {"tsc": "freeze", "kvmclock": "freeze"}


async def save(vm):
    tscs = [await vcpu.get_msr(MSR_IA32_TSC) for vcpu in vm.vcpus]
    clock = await vm.get_clock()
    return {"tscs": tscs, "clock_ns": clock.clock_ns}


async def restore(vm, snapshot):
    for vcpu, tsc in zip(vm.vcpus, snapshot["tscs"], strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, tsc)
    for vcpu in vm.vcpus:
        await vcpu.start()
    await vm.set_clock(snapshot["clock_ns"])
