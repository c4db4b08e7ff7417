"""Our VMM: the guest's TSC rate goes onto its vCPUs after their TSCs have been written."""

from guestclock.abi.msr import MSR_IA32_TSC

POLICY = {"tsc": "freeze"}


async def save(vm):
    rate = await vm.vcpus[0].get_tsc_khz()
    return rate, [await vcpu.get_msr(MSR_IA32_TSC) for vcpu in vm.vcpus]


async def restore(vm, snapshot):
    rate, tscs = snapshot
    for vcpu, tsc in zip(vm.vcpus, tscs, strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, tsc)
    for vcpu in vm.vcpus:
        await vcpu.set_tsc_khz(rate)
