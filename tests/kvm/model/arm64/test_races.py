"""What goes wrong in one order only. Reference: kvm-arm64.md 2.2, 2.3, 2.10."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from tests.kvm.model.arm64.bench import HZ, Bench, S, errno, vm_with

from guestclock.abi.arm64 import KVM_REG_ARM_PTIMER_CNT, KVM_REG_ARM_TIMER_CNT
from guestclock.arith import u64
from guestclock.kvm.api import CreateVcpu, Host, Kick, Peek, ReadCounters, SetCounterOffset, SetOneReg, Start

PER_VCPU = ["linux-5.10-arm64", "linux-6.1-arm64"]
WITH_PHYSICAL = ["linux-6.4-arm64", "linux-6.12-arm64", "linux-6.18-arm64"]
FAR = 10**15


def uneven(seed: int) -> Callable[[], int]:
    """Steps of 1, 10, 100 or 1000 ns, drawn by the seed: an actor that is held up gives way to all the others."""
    rng = Random(seed)
    return lambda: rng.choice((1_000, 10_000, 100_000, 1_000_000))


def when(bench: Bench, ready: Callable[[], bool], poll_ns: int = 1) -> Callable[[Host], Any]:
    async def wait(host: Host) -> None:
        while not (bench.kvm.vms and bench.vm.vcpus and ready()):
            await host.wait(poll_ns)

    return wait


# ---- a creation, and KVM_ARM_SET_COUNTER_OFFSET


def created_meanwhile(kernel: str, seed: int) -> tuple[bool, int, int]:
    """A vCPU is created while another thread gives the VM its offset: (fixed, voffset, poffset) in the end."""
    bench = Bench(kernel, step_ps=uneven(seed))

    async def creator(host: Host) -> None:
        vm = await vm_with(host, 1)
        await host.wait(S)
        await vm.create_vcpu()

    async def setter(host: Host) -> None:
        await when(bench, lambda: True)(host)
        await host.wait(S)
        await SetCounterOffset(0, FAR)

    bench.run(creator, setter)
    return bench.vm.counter_offset, bench.vm.voffset.value, bench.vm.poffset.value


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_a_creation_can_undo_an_offset_that_was_given_for_good(kernel):
    """It asks for the flag, and stores afterwards, under no lock: the VM then counts from its creation, and any write
    by value is ignored. Or only one of the two offsets is undone.
    """
    kinds = set()
    for seed in range(400):
        fixed, voffset, poffset = created_meanwhile(kernel, seed)
        assert fixed
        kinds.add((voffset == FAR, poffset == FAR))
        if len(kinds) == 4:
            break
    assert kinds == {(True, True), (False, False), (False, True), (True, False)}


def test_a_creation_after_the_call_cannot():
    bench = Bench()

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.set_counter_offset(FAR)
        for _ in range(3):
            await vm.create_vcpu()

    bench.run(recipe)
    assert (bench.vm.voffset.value, bench.vm.poffset.value) == (FAR, FAR)


# ---- two writers


def two_writers(kernel: str, seed: int) -> list[int]:
    """Two threads set the virtual counter by different vCPUs' registers; what each vCPU's counter shows afterwards."""
    bench = Bench(kernel, step_ps=uneven(seed))

    async def first(host: Host) -> None:
        vm = await vm_with(host, 3)
        await host.wait(S)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_CNT, FAR)

    async def second(host: Host) -> None:
        await when(bench, lambda: len(bench.vm.vcpus) == 3)(host)
        await host.wait(S)
        await SetOneReg(0, 1, KVM_REG_ARM_TIMER_CNT, 2 * FAR)

    bench.run(first, second)
    now = bench.now
    return [u64(now - vcpu.timers[1].vm_offset.value) for vcpu in bench.vm.vcpus]


@pytest.mark.parametrize("kernel", [*PER_VCPU, "linux-6.3-arm64", "linux-6.12-arm64"])
def test_of_two_writers_one_wins_for_all_vcpus(kernel):
    """kvm->lock holds the broadcasts apart; a single store needs no lock."""
    winners = set()
    for seed in range(150):
        shown = two_writers(kernel, seed)
        assert len(set(shown)) == 1
        winners.add(shown[0] // FAR)
    assert winners == {1, 2}


# ---- a broadcast that is seen half-way


def loaded_meanwhile(kernel: str, seed: int) -> list[int]:
    """Both vCPUs are started while a third one's register is set: how far their counters are on, as they run."""
    bench = Bench(kernel, step_ps=uneven(seed))

    async def writer(host: Host) -> None:
        vm = await vm_with(host, 3)
        await host.wait(S)
        await vm.vcpus[2].set_one_reg(KVM_REG_ARM_TIMER_CNT, FAR)

    async def starter(host: Host) -> list[int]:
        await when(bench, lambda: len(bench.vm.vcpus) == 3)(host)
        await host.wait(S)
        for vcpu in (0, 1):
            await Start(0, vcpu)
        await host.wait(S)
        got = [(await Peek(0, vcpu)).cntvct // FAR for vcpu in (0, 1)]
        for vcpu in (0, 1):
            await Kick(0, vcpu)
        return got

    return bench.run(starter, writer)


def test_until_6_2_a_vcpu_may_be_loaded_before_its_turn_and_another_after_its_own():
    """No residue once all are loaded again, but until then the guest has two counters."""
    outcomes = {tuple(loaded_meanwhile("linux-6.1-arm64", seed)) for seed in range(150)}
    assert outcomes == {(0, 0), (1, 0), (1, 1), (0, 1)}


def test_since_6_3_what_is_loaded_after_the_store_is_new_and_before_it_old():
    outcomes = {tuple(loaded_meanwhile("linux-6.12-arm64", seed)) for seed in range(150)}
    assert outcomes == {(0, 0), (0, 1), (1, 1)}, "vCPU 1 is started after vCPU 0"


# ---- kvm->lock and mutexes


@pytest.mark.parametrize("kernel", PER_VCPU)
def test_the_counter_is_read_before_the_wait_for_the_lock(kernel):
    """Until 6.2: whoever holds kvm->lock meanwhile, the counter has the value from when the call was made."""
    bench = Bench(kernel, step_ns=1_000)

    async def writer(host: Host) -> tuple[int, int]:
        vm = await vm_with(host, 2)
        await host.wait(S)
        bench.vm.lock = True
        asked = await host.read_clock("counter")
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_CNT, FAR)
        return asked, bench.now

    async def holder(host: Host) -> None:
        await when(bench, lambda: bench.vm.lock and bench.vcpu(0).mutex, S // 1000)(host)
        await host.wait(S)
        bench.vm.lock = False

    asked, done = bench.run(writer, holder)
    assert done - asked > HZ
    offset = bench.vtimer(0).vm_offset.value
    assert asked - FAR < offset - 2**64 < asked - FAR + 1_000


def test_the_call_does_not_wait_for_a_vcpu_but_for_the_lock():
    bench = Bench(step_ns=1_000)

    async def caller(host: Host) -> list[str]:
        vm = await vm_with(host, 2)
        bench.vcpu(1).mutex = True
        told = [await errno(vm.set_counter_offset(5))]
        bench.vcpu(1).mutex = False
        bench.vm.lock = True
        return [*told, await errno(vm.set_counter_offset(5))]

    async def holder(host: Host) -> None:
        await when(bench, lambda: bench.vm.lock and not bench.vcpu(-1).mutex, S // 1000)(host)
        await host.wait(S)
        bench.vm.lock = False

    assert bench.run(caller, holder) == ["EBUSY", ""]
    assert bench.timeline.now_ps > S * 1_000


def test_a_refused_call_leaves_no_mutex_behind():
    bench = Bench()

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 3)
        await vm.vcpus[2].start()
        await host.wait(S)
        await errno(vm.set_counter_offset(5))

    bench.run(recipe)
    assert [vcpu.mutex for vcpu in bench.vm.vcpus] == [False, False, True]


def test_two_creations_at_once_get_two_numbers():
    bench = Bench(step_ps=uneven(3))

    async def one(host: Host) -> int:
        vm = await host.create_vm()
        await host.wait(S)
        return (await vm.create_vcpu()).index

    async def other(host: Host) -> None:
        while not bench.kvm.vms:
            await host.wait(1)
        await host.wait(S)
        await CreateVcpu(0)

    bench.run(one, other)
    assert [vcpu.index for vcpu in bench.vm.vcpus] == [0, 1]


# ---- counters by value, of guests that run


def test_a_physical_counter_set_under_a_trapping_guest_goes_back_at_once():
    """A trapped read is answered with the offset of now: of a running vCPU the physical counter may jump, the virtual
    one never does.
    """
    bench = Bench(step_ns=1_000)

    async def guest(host: Host) -> tuple[list[int], list[int]]:
        vm = await vm_with(host, 2)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_PTIMER_CNT, FAR)
        answers = await vm.vcpus[1].run(*[ReadCounters()] * 20)
        return [r.cntpct for r in answers], [r.cntvct for r in answers]

    async def writer(host: Host) -> None:
        await when(bench, lambda: len(bench.vm.vcpus) == 2 and bench.vcpu(1).in_guest)(host)
        await SetOneReg(0, 0, KVM_REG_ARM_PTIMER_CNT, 5)
        await SetOneReg(0, 0, KVM_REG_ARM_TIMER_CNT, 5)

    physical, virtual = bench.run(guest, writer)
    assert sorted(physical) != physical
    assert sorted(virtual) == virtual


@pytest.mark.parametrize(
    "race", [lambda: created_meanwhile("linux-6.12-arm64", 25), lambda: loaded_meanwhile("linux-6.1-arm64", 25)]
)
def test_a_race_replays(race: Callable[[], object]):
    assert race() == race()
