"""Our VMM: the guest's TSC rate is the VM's before there are vCPUs, and then their TSCs are written."""

from guestclock.abi.msr import MSR_IA32_TSC

POLICY = {"tsc": "freeze"}


async def create(host, vcpus, snapshot):
    vm = await host.create_vm()
    await vm.set_tsc_khz(2_000_000 if snapshot is None else snapshot[0])
    for _ in range(vcpus):
        vcpu = await vm.create_vcpu()
        await vcpu.enable_kvmclock()
    return vm


async def save(vm):
    rate = await vm.vcpus[0].get_tsc_khz()
    return rate, [await vcpu.get_msr(MSR_IA32_TSC) for vcpu in vm.vcpus]


async def restore(vm, snapshot):
    for vcpu, tsc in zip(vm.vcpus, snapshot[1], strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, tsc)
