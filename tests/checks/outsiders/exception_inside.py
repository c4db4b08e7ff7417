async def save(vm):
    return [await vcpu.get_msr(0x10) for vcpu in vm.vcpus]


async def restore(vm, snapshot):
    for number in range(len(vm.vcpus) + 1):
        await vm.vcpus[number].set_msr(0x10, snapshot[0])
