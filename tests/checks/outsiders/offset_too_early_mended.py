"""Our VMM: each vCPU's MSRs, and then one offset for all."""

from guestclock.abi.msr import MSR_IA32_TSC

POLICY = {"tsc": "freeze"}


async def save(vm):
    return [await vcpu.get_msr(MSR_IA32_TSC) for vcpu in vm.vcpus]


async def restore(vm, snapshot):
    for vcpu, tsc in zip(vm.vcpus, snapshot, strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, tsc)
    offset = await vm.vcpus[0].get_tsc_offset()
    for vcpu in vm.vcpus:
        await vcpu.set_tsc_offset(offset)
