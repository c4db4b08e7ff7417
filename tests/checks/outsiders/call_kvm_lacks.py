async def save(vm):
    return [await vcpu.get_tsc_offset() for vcpu in vm.vcpus]


async def restore(vm, snapshot):
    for vcpu, offset in zip(vm.vcpus, snapshot, strict=True):
        await vcpu.set_tsc_offset(offset)
