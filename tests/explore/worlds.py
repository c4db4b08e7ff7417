"""Worlds of the KVM model for the tests of the engine: vCPUs restored by TSC value, and a vCPU that is plugged in."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.arith import u64
from guestclock.explore.leaf import Impossible, Leaf
from guestclock.explore.run import Run
from guestclock.explore.search import Search, Tally
from guestclock.explore.world import Bounds, World
from guestclock.guest.pvclock import kvmclock_ns
from guestclock.kvm.api import Host, serve
from guestclock.kvm.model import ModelKvm, lookup
from guestclock.kvm.model.x86 import X86Kvm
from guestclock.kvm.model.x86.host import KvmOptions
from guestclock.machine import HostSpec, X86Machine

KHZ = 2_596_122
Recipe = Callable[[], Coroutine[Any, Any, None]]


def bounds(delay_s: float, horizon_s: float = 100, khz: int = KHZ) -> Bounds:
    def cycles(seconds: float) -> int:
        return int(seconds * khz * 1000)

    return Bounds(horizon=cycles(horizon_s), delay=cycles(delay_s), section=cycles(10e-6), ps=(10**9, khz))


class Window(NamedTuple):
    """A stretch in which nothing changes that a vCPU reads. close None: to the end. entry, exit: its steps."""

    vcpu: int
    open: Any
    close: Any
    entry: int
    exit: int | None
    offset: Any
    page: Any


@dataclass
class Kvm:
    """A model of one VM, with the windows of its vCPUs."""

    model: ModelKvm
    windows: list[Window] = field(default_factory=list)
    opened: dict[int, Window] = field(default_factory=dict)

    def see(self, number: int, event: Any) -> None:
        for vcpu in self.model.vms[0].vcpus if self.model.vms else ():
            i = vcpu.index
            if vcpu.in_guest and i not in self.opened:
                page = vcpu.pv_time.copy() if vcpu.pv_time else None
                self.opened[i] = Window(i, event.end, None, number, None, vcpu.tsc_offset, page)
            elif not vcpu.in_guest and i in self.opened:
                self.windows.append(self.opened.pop(i)._replace(close=event.start, exit=number))

    def readable(self) -> list[Window]:
        """Those with a page that is good across vCPUs."""
        every = [*self.windows, *self.opened.values()]
        return [w for w in every if w.page is not None and w.page.version and w.page.flags & 1]

    def offsets(self) -> list[Any]:
        return [v.l1_tsc_offset for v in self.model.vms[0].vcpus]

    def reading(self, window: Window, ps: Any) -> Any:
        """kvmclock, ns, as read in a window at a true time."""
        return kvmclock_ns(window.page, u64(self.model.host.machine.counter.at(ps) + window.offset))


def kvm_world(recipe: Recipe, kernel: str, khz: int = KHZ) -> Callable[[World], Kvm]:
    def build(world: World) -> Kvm:
        machine = X86Machine(world, HostSpec(tsc_khz=khz))  # type: ignore[arg-type]
        machine._ticks = lambda ps: None  # type: ignore[method-assign,assignment]
        model = X86Kvm(machine, lookup(kernel), world, None, KvmOptions(kvmclock_periodic_sync=False))  # type: ignore[arg-type]
        model.host.mutex_patience_ps = None
        model.host.timer_delay_ps = lambda ns: ns * 1000
        kvm = Kvm(model)
        world.spawn("VMM", serve(recipe(), model.execute))
        world.after_step(lambda number: kvm.see(number, world.events[number]))
        return kvm

    return build


async def by_value() -> None:
    """Two vCPUs get the same TSC value, one after the other."""
    vm = await Host().create_vm()
    vcpus = [await vm.create_vcpu(), await vm.create_vcpu()]
    for vcpu in vcpus:
        await vcpu.set_msr(MSR_IA32_TSC, 100 * KHZ * 1000)


async def hotplug() -> None:
    """A vCPU has run; another is created and started."""
    vm = await Host().create_vm()
    first = await vm.create_vcpu()
    await first.enable_kvmclock()
    await first.run()
    await first.run()
    await first.start()
    second = await vm.create_vcpu()
    await second.enable_kvmclock()
    await second.start()


def offsets_apart(kvm: Kvm) -> Any:
    """How far vCPU 1's guest TSC is behind vCPU 0's, cycles."""
    offsets = kvm.offsets()
    return offsets[0] - offsets[1] if len(offsets) == 2 else None


def worst_step_back(recipe: Recipe, kernel: str, limits: Bounds, khz: int = KHZ) -> tuple[Fraction, Tally]:
    """The most, in ns, by which kvmclock on one vCPU can be behind what the other vCPU showed before: proved."""
    search = Search(kvm_world(recipe, kernel, khz), limits)
    cache: dict[Any, Any] = {}
    worst: list[Fraction] = []

    def leaf(run: Run) -> None:
        try:
            order = Leaf(run, search.solver, cache)
        except Impossible:
            return
        kvm: Kvm = run.world
        windows = kvm.readable()
        for a in windows:
            for b in windows:
                if a.vcpu == b.vcpu:
                    continue
                question = order.question()
                first = question.instant("first", after=[a.open], before=[a.close] if a.close else [])
                then = question.instant("then", after=[b.open], before=[b.close] if b.close else [])
                question.ordered("first", "then")
                if question.contradictory:
                    continue
                found = question.worst(
                    lambda a=a, b=b, first=first, then=then: (
                        kvm.reading(a, run.ps_of(first)) - kvm.reading(b, run.ps_of(then))
                    )
                )
                if found is not None:
                    worst.append(found.upper)

    search.run(leaf)
    return max(worst), search.tally
