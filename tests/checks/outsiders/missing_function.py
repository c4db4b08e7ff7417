async def save(vm):
    return (await vm.get_clock()).clock_ns


async def restor(vm, snapshot):
    await vm.set_clock(snapshot)
