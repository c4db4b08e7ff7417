"""The cases with which the engine's method was first tried, by the product, beside the prototype's figures.

Each is KVM's whole model with a VMM that only does what the case is about; no delay is bounded but by the horizon
unless the case says so. The prototype's figures are of another machine: there for their orders and values.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.arith import u64
from guestclock.checks.asks import QUESTIONS
from guestclock.checks.checker import OrderChecker
from guestclock.checks.outcome import Outcome
from guestclock.checks.spec import Site, Spec
from guestclock.checks.windows import BEFORE
from guestclock.checks.x86.architecture import X86
from guestclock.checks.x86.host import ExploredTimers, ExploredX86Machine
from guestclock.checks.x86.windows import WindowTracker
from guestclock.explore.world import Bounds, World
from guestclock.kvm.api import Host, Vm, serve
from guestclock.kvm.model import lookup
from guestclock.kvm.model.x86 import X86Kvm
from guestclock.kvm.model.x86.host import KvmOptions
from guestclock.kvm.model.x86.timers import KernelTimers

KHZ = 2_596_122
SECTION = 26_000  # cycles, 10 us


def seconds(s: float, khz: int = KHZ) -> int:
    return round(s * khz * 1000)


@dataclass
class Case:
    """name; vmm(vm-making world) -> coroutine; prototype: what it said, and in how many orders."""

    name: str
    kernel: str
    vmm: Callable[[World], Coroutine[Any, Any, None]]
    question: str
    prototype: str
    orders: int
    delay_s: float = 100
    horizon_s: float = 100
    khz: int = KHZ
    scaling: str = ""


def build(case: Case) -> Callable[[World], Outcome]:
    def made(world: World) -> Outcome:
        site = Site(khz=case.khz, scaling=case.scaling)
        machine = ExploredX86Machine(world, site)
        profile = lookup(case.kernel)
        kvm = X86Kvm(machine, profile, world, None, KvmOptions(kvmclock_periodic_sync=False))
        kvm.host.timers = ExploredTimers(KernelTimers(machine, profile, 0), works=False)
        kvm.host.mutex_patience_ps = None
        tracker = WindowTracker(world, [kvm.host], [BEFORE])
        outcome = Outcome(Spec(sites=(site,)), world, [kvm], tracker, X86, finished=True)

        async def whole() -> None:
            await case.vmm(world)
            tracker.as_they_will_run(0, 0) if case.question == "tsc-agrees" else None

        world.spawn("VMM", serve(whole(), kvm.execute))
        return outcome

    return made


class TableChecker(OrderChecker):
    def __init__(self, case: Case) -> None:
        bounds = Bounds(
            horizon=seconds(case.horizon_s, case.khz), delay=seconds(case.delay_s, case.khz), section=SECTION,
            ps=(10**9, case.khz),
        )  # fmt: skip
        super().__init__(build(case), bounds, [QUESTIONS[case.question]], case.question)


def by_value(value: Callable[[World], Any], vcpus: int = 2) -> Callable[[World], Coroutine[Any, Any, None]]:
    async def vmm(world: World) -> None:
        vm = await Host().create_vm()
        for _ in range(vcpus):
            await vm.create_vcpu()
        v = value(world)
        for vcpu in vm.vcpus:
            await vcpu.set_msr(MSR_IA32_TSC, u64(v))

    return vmm


def hotplug(vcpus: int, ran: bool) -> Callable[[World], Coroutine[Any, Any, None]]:
    async def plugged(vm: Vm) -> None:
        vcpu = await vm.create_vcpu()
        await vcpu.enable_kvmclock()

    async def vmm(world: World) -> None:
        vm = await Host().create_vm()
        for _ in range(vcpus - 1):
            await plugged(vm)
        for _ in range(2 if ran else 0):
            for vcpu in vm.vcpus:
                await vcpu.run()
        for vcpu in vm.vcpus:
            await vcpu.start()
        await plugged(vm)
        await vm.vcpus[-1].start()

    return vmm


def hundred(world: World) -> int:
    return seconds(100)


def unknown(world: World) -> Any:
    return world.unknown("V", 0, seconds(1000))


CASES = [
    Case("by value, at most 5 s between steps", "linux-6.12", by_value(hundred), "tsc-agrees",
         "12 980 662 000 cycles", 2, 5),
    Case("by value, at most 0.5 s", "linux-6.12", by_value(hundred), "tsc-agrees", "holds, 0", 1, 0.5),
    Case("the value unknown, 0 to 1000 s; at most 5 s", "linux-6.12", by_value(unknown), "tsc-agrees",
         "finds TSC := 0", 7, 5),
    Case("the value unknown; at most 0.4 s", "linux-6.12", by_value(unknown), "tsc-agrees", "holds, 0", 7, 0.4),
    Case("hotplug, P8", "linux-6.7", hotplug(2, ran=True), "kvmclock-agrees", "4987.768 ns", 5),
    Case("hotplug, P8, 2 400 000 kHz", "linux-6.7", hotplug(2, ran=True), "kvmclock-agrees", "1.000 ns", 5,
         khz=2_400_000),
    Case("hotplug, P13", "linux-6.8", hotplug(2, ran=True), "kvmclock-agrees", "holds, 0", 2),
    Case("hotplug before vCPU 0 ever ran, P13", "linux-6.8", hotplug(2, ran=False), "kvmclock-agrees", "4987 ns", 23),
    Case("hotplug, P8, 3 vCPUs", "linux-6.7", hotplug(3, ran=True), "kvmclock-agrees", "4987 ns in 10 s", 228),
    Case("hotplug, P8, 4 vCPUs", "linux-6.7", hotplug(4, ran=True), "kvmclock-agrees", "out of reach", 0),
]  # fmt: skip


def main() -> None:
    print("engine: the prototype's cases (pages are written in three steps; no readers are explored)")
    print(f"  {'case':46} {'proved at most':>18} {'found':>18} {'orders':>7} {'s':>6}   prototype: value, orders")
    for case in CASES:
        began = time.perf_counter()
        checker = TableChecker(case)
        checker.search.run(lambda run, checker=checker: checker.look(run, checker.search.trail()))
        found = checker.tell.worst.get(case.question)
        assert checker.tell.asked.get(case.question), case.name
        shown = None
        if found is not None and found.excess > 0:
            confirmed = checker.confirm(case.question, found)
            shown = None if confirmed is None else confirmed.value
        taken = time.perf_counter() - began
        tally = checker.search.tally
        upper = "-" if found is None else f"{float(found.upper):,.3f}"
        told = "holds" if found is None or found.excess <= 0 else f"{shown:,}"
        print(
            f"  {case.name:46} {upper:>18} {told:>18} {tally.orders:>7} {taken:>6.2f}   "
            f"{case.prototype}, {case.orders or '-'}"
        )
    print(f"  peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


if __name__ == "__main__":
    main()
