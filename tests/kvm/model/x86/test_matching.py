"""When do TSC writes match? Each sequence was seen on a real kernel (kvm-x86.md 3.1, 9.3)."""

from __future__ import annotations

from tests.kvm.model.x86.bench import TSC, Bench, probe, vm_with

from guestclock.kvm.api import Host

KHZ = 2_596_122
ON, OFF = 14, 0


def at(seconds: float) -> int:
    return int(seconds * KHZ * 1000)


async def sequence(host: Host) -> list[int]:
    vm = await vm_with(host, 2)
    a, b = vm.vcpus
    flags = [await probe(vm)]
    for vcpu, seconds in ((a, 5), (b, 5.5), (b, 7), (a, 6.5), (b, 0), (a, 7)):
        await vcpu.set_msr(TSC, at(seconds))
        flags.append(await probe(vm))
    return flags


def test_the_confirmed_sequence_of_writes():
    assert Bench().run(sequence) == [ON, OFF, ON, OFF, ON, ON, OFF]
    assert Bench("pvm").run(sequence) == [ON, OFF, ON, OFF, ON, ON, OFF]


def test_the_first_value_of_a_young_guest_is_not_corrected():
    async def young(host: Host) -> list[int]:
        vm = await vm_with(host, 2)
        a, b = vm.vcpus
        flags = []
        for vcpu in (a, b):
            await vcpu.set_msr(TSC, at(0.25))
            flags.append(await probe(vm))
        return flags

    assert Bench().run(young) == [OFF, ON]
    assert Bench("linux-6.1").run(young) == [ON, ON]


def test_offsets_match_if_they_are_exactly_the_last_one():
    async def attributes(host: Host) -> list[int]:
        vm = await vm_with(host, 2)
        a, b = vm.vcpus
        flags = []
        for vcpu, offset in ((a, 123), (b, 123), (b, 124), (a, 124)):
            await vcpu.set_tsc_offset(offset)
            flags.append(await probe(vm))
        return flags

    assert Bench().run(attributes) == [OFF, ON, OFF, ON]


def test_a_vcpu_created_between_two_writes_defeats_the_one_second_rule():
    async def create_between(host: Host) -> int:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].set_msr(TSC, at(5))
        b = await vm.create_vcpu()
        await b.set_msr(TSC, at(5.01))
        return await probe(vm)

    async def create_first(host: Host) -> int:
        vm = await vm_with(host, 2)
        await vm.vcpus[0].set_msr(TSC, at(5))
        await vm.vcpus[1].set_msr(TSC, at(5.01))
        return await probe(vm)

    assert Bench().run(create_between) == OFF
    assert Bench().run(create_first) == ON


def test_different_rates_never_match():
    async def rates(host: Host) -> list[int]:
        vm = await vm_with(host, 2)
        a, b = vm.vcpus
        await a.set_tsc_khz(2_596_200)
        flags = []
        for vcpu in (a, b, a):
            await vcpu.set_msr(TSC, 0)
            flags.append(await probe(vm))
        return flags

    assert Bench().run(rates) == [OFF, OFF, OFF]
