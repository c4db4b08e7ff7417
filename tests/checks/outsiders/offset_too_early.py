"""Our VMM: all vCPUs are given one offset, and then each its MSRs."""

from guestclock.abi.msr import MSR_IA32_TSC

POLICY = {"tsc": "freeze"}


async def save(vm):
    return [await vcpu.get_msr(MSR_IA32_TSC) for vcpu in vm.vcpus]


async def restore(vm, snapshot):
    offset = await vm.vcpus[0].get_tsc_offset()
    for vcpu in vm.vcpus:
        await vcpu.set_tsc_offset(offset)
    for vcpu, tsc in zip(vm.vcpus, snapshot, strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, tsc)
