"""The model on values that are not ints: what it does on them is what it does on ints (engine-spike, section 4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.kvm.model.unknown import Unknown, World, known
from tests.kvm.model.x86.bench import TSC, S, vm_with

from guestclock.kvm import api
from guestclock.kvm.api import (
    ClearGuestStopped,
    EnterL2,
    ExitL2,
    Host,
    KvmError,
    Rdmsr,
    ReadClocks,
    ReadHostClock,
    Vm,
    Wrmsr,
    serve,
)
from guestclock.kvm.model import lookup, names
from guestclock.kvm.model.x86 import KvmOptions
from guestclock.machine import HostSpec

KERNELS = [name for name in names("x86_64") if not name.startswith("+")]
OVERLAYS = [name for name in names("x86_64") if name.startswith("+")]
SECOND = S
WALL_CLOCK, REFERENCE_TSC, TIME_REF_COUNT, TSC_ADJUST = 0x4B564D00, 0x40000021, 0x40000020, 0x3B

Recipe = Callable[[Host], Awaitable[list[Any]]]


async def tried(op: Awaitable[Any]) -> Any:
    """The answer, or the errno of a kernel that does not have it."""
    try:
        return await op
    except KvmError as refused:
        return refused.errno


async def looks(vm: Vm) -> list[Any]:
    shown: list[Any] = []
    for vcpu in vm.vcpus:
        shown += [await vcpu.peek(), await tried(vcpu.get_msr(TSC)), await tried(vcpu.get_tsc_offset())]
    return [*shown, await vm.get_clock()]


async def restore(host: Host) -> list[Any]:
    """TSCs by value and by offset, kvmclock with REALTIME, hotplug, guests told that they were stopped."""
    vm = await vm_with(host, 2)
    got: list[Any] = []
    for vcpu in vm.vcpus:
        got += await vcpu.run(ReadClocks())
    await host.wait(3 * S)
    saved = [await vcpu.get_msr(TSC) for vcpu in vm.vcpus]
    offsets = [await tried(vcpu.get_tsc_offset()) for vcpu in vm.vcpus]
    clock = await vm.get_clock()
    await host.wait(2 * S)
    for vcpu, value in zip(vm.vcpus, saved, strict=True):
        await vcpu.set_msr(TSC, value)
        await tried(vcpu.kvmclock_ctrl())
        await host.wait(S // 3)
    got += await looks(vm)
    await tried(vm.set_clock(clock.clock_ns, 4, clock.realtime_ns))
    await vm.set_clock(clock.clock_ns)
    for vcpu, offset in zip(vm.vcpus, offsets, strict=True):
        await tried(vcpu.set_tsc_offset(offset))
        got += await vcpu.run(ReadClocks(), ClearGuestStopped(), Rdmsr(TSC))
    plugged = await vm.create_vcpu()
    await plugged.enable_kvmclock()
    await host.wait(S)
    for vcpu in vm.vcpus * 2:
        got += await vcpu.run(ReadClocks())
    await vm.vcpus[0].set_msr(TSC, 0)
    await vm.vcpus[1].set_msr(TSC, saved[1] + S)
    got += [value for vcpu in vm.vcpus for value in await vcpu.run(ReadClocks(), Rdmsr(TSC_ADJUST))]
    return got + await looks(vm)


async def running(host: Host) -> list[Any]:
    """vCPUs that spin while others set clocks, are moved and write; L2; Hyper-V, Xen and wall clocks."""
    vm = await vm_with(host, 2)
    a, b = vm.vcpus
    await a.start()
    await b.start()
    await host.wait(S)
    await vm.set_clock(500 * S)
    await a.move_to_cpu(2)
    await host.wait(S)
    got = await looks_without_mutex(vm)
    await a.kick()
    await b.kick()
    got += await b.run(Wrmsr(TSC, 12_345), ReadClocks(), Wrmsr(TSC_ADJUST, 77), ReadClocks())
    for cpu in range(4):
        await b.move_to_cpu(cpu)
        got += await b.run(ReadClocks())
    await a.set_msr(WALL_CLOCK, 0x3800)
    await tried(vm.xen_shared_info_init())
    got += await a.run(Wrmsr(REFERENCE_TSC, 0x7001), ReadClocks())
    got += await a.run(Rdmsr(TIME_REF_COUNT), Wrmsr(WALL_CLOCK, 0x3900), EnterL2(-5 * S), ReadClocks(), ExitL2())
    return got + await looks(vm)


async def looks_without_mutex(vm: Vm) -> list[Any]:
    return [await vcpu.peek() for vcpu in vm.vcpus] + [await vm.get_clock()]


async def disturbed(host: Host) -> list[Any]:
    """A host that steps its REALTIME, leaves the TSC, gives up on it, and sleeps."""
    vm = await vm_with(host, 2)
    got: list[Any] = []
    for vcpu in vm.vcpus * 2:
        got += await vcpu.run(ReadClocks())
    await api.StepRealtime(5 * S)
    await api.HostSleep(40 * S, "reset")
    for vcpu in vm.vcpus * 2:
        got += await vcpu.run(ReadClocks())
    await vm.set_clock(3 * S)
    await api.SetClocksource("hpet")
    await host.wait(S)
    for vcpu in vm.vcpus * 2:
        got += await vcpu.run(ReadClocks())
    await api.MarkTscUnstable()
    await vm.vcpus[0].set_msr(TSC, 5 * S)
    await host.wait(S // 2)
    await vm.vcpus[1].set_msr(TSC, 5 * S)
    await vm.vcpus[1].move_to_cpu(1)
    for vcpu in vm.vcpus * 2:
        got += await vcpu.run(ReadClocks())
    return [*got, await ReadHostClock("realtime"), *await looks(vm)]


async def rates(host: Host) -> list[Any]:
    """Guests that are faster and slower than the host, by scaling where it can and by catch-up where it cannot."""
    vm = await vm_with(host, 2)
    got = [await tried(vm.set_tsc_khz(2_700_000))]
    for vcpu in vm.vcpus:
        got.append(await tried(vcpu.set_tsc_khz(3_000_000)))
        got += await vcpu.run(ReadClocks())
    await host.wait(2 * S)
    for vcpu in vm.vcpus:
        got += await vcpu.run(ReadClocks(), ReadClocks())
    await vm.vcpus[1].set_msr(TSC, 9 * S)
    got.append(await tried(vm.vcpus[0].set_tsc_khz(2_000_000)))
    for vcpu in vm.vcpus * 2:
        got += await vcpu.run(ReadClocks())
    return got + await looks(vm)


async def stopped(host: Host) -> list[Any]:
    vm = await vm_with(host, 2)
    await vm.vcpus[0].start()
    await host.wait(S)
    tsc = await vm.stop_all_tscs()
    await host.wait(S)
    got = [tsc, *await looks_without_mutex(vm)]
    await vm.start_all_tscs(tsc)
    await host.wait(S)
    await vm.vcpus[0].kick()
    return got + await looks(vm)


def life(recipe: Recipe, kernel: str, wrap: Callable[[int], Any], **world: Any) -> tuple[Any, list[Any], int]:
    """What a recipe was answered, what KVM remembers, and when it ended."""
    answers: list[Any] = []

    async def keep() -> None:
        answers.extend(known(await serve(recipe(Host()), made.kvm.execute)))  # type: ignore[arg-type]

    made = World(kernel, wrap, **world)
    made.spawn("VMM", keep())
    made.run()
    return answers, made.remembered(), made.timeline.true_ps


def same_on_both(recipe: Recipe, kernel: str, **world: Any) -> None:
    on_unknowns = life(recipe, kernel, Unknown, **world)
    assert on_unknowns == life(recipe, kernel, lambda ps: ps, **world)
    answers, remembered, _ = on_unknowns
    assert len(answers) > 3
    assert len(remembered) > 100


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("recipe", [restore, running, disturbed])
def test_unknown_times_do_what_known_ones_do(recipe, kernel):
    same_on_both(recipe, kernel)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_under_every_overlay(overlay):
    same_on_both(restore, f"linux-6.12{overlay}")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("scaling", [None, "vmx", "svm"])
def test_unknown_times_and_other_rates(kernel, scaling):
    same_on_both(rates, kernel, spec=HostSpec(tsc_scaling=scaling))


@pytest.mark.parametrize("queued", ["", "+queued-7.4"])
@pytest.mark.parametrize("scaling", [None, "svm"])
def test_catch_up_as_it_is_and_as_it_is_queued(queued, scaling):
    same_on_both(rates, f"linux-6.12{queued}", spec=HostSpec(tsc_scaling=scaling))


@pytest.mark.parametrize("kernel", ["linux-6.12", "linux-7.2"])
def test_a_host_whose_tscs_differ(kernel):
    same_on_both(running, kernel, spec=HostSpec(skew=(0, -90_000, 50, 7)))


def test_xen_guests():
    options = KvmOptions(xen_time_pages=True, xen_pvclock_tsc_unstable=True)
    for kernel in ("linux-5.15", "linux-6.17"):
        same_on_both(restore, kernel, options=options)


def test_stopped_tscs():
    same_on_both(stopped, "linux-6.12+stop-all-tscs")


def test_times_were_really_unknown():
    """Else the comparison would be of two equal worlds."""
    world = World("linux-6.12", Unknown)

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].run(ReadClocks())

    world.spawn("VMM", serve(recipe(Host()), world.kvm.execute))
    world.run()
    vm, vcpu = world.kvm.vms[0], world.kvm.vms[0].vcpus[0]
    held = [
        vm.last_tsc_nsec, vm.cur_tsc_offset, vm.kvmclock_offset, vm.master_kernel_ns, vm.master_cycle_now,
        vcpu.l1_tsc_offset, vcpu.last_host_tsc, vcpu.pv_time.tsc_timestamp, vcpu.pv_time.system_time,
    ]  # fmt: skip
    assert [type(value) for value in held] == [Unknown] * len(held)


@pytest.mark.parametrize(
    "wrong",
    [lambda t: t % 10, lambda t: t & 1, int, lambda t: t * t, lambda t: {t: 1}, lambda t: t / 2, abs, bool, str],
)
def test_what_a_form_cannot_do_an_unknown_cannot(wrong):
    with pytest.raises(TypeError):
        wrong(Unknown(5))


def test_a_rule_that_forces_an_int_is_caught():
    """The comparison's own negative control."""
    from guestclock.kvm.model.x86.kernels import KERNELS as PROFILES

    def rounded(vcpu, kernel_ns, tsc):
        return kernel_ns - kernel_ns % 1000

    PROFILES["rounded"] = lookup("linux-6.12").but(page_ns=rounded)
    try:
        with pytest.raises(TypeError, match="unsupported operand"):
            same_on_both(restore, "rounded")
    finally:
        del PROFILES["rounded"]
