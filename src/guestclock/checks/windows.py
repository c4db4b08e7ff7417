"""Windows: stretches of guest execution in which nothing that a vCPU's clocks are made of changes.

A guest only looks at its clocks. So it need not be run: what it reads at any instant of a window follows from the
window, and which windows there are follows from the order of KVM's own steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from guestclock.abi.pvclock import PVCLOCK_TSC_STABLE_BIT, PvclockVcpuTimeInfo
from guestclock.arith import pvclock_scale_delta, s64, u64
from guestclock.arith.affine import Symbol
from guestclock.checks.host import ExploredMachine
from guestclock.explore.run import World
from guestclock.kvm.model.host import KvmHost
from guestclock.kvm.model.state import VcpuTime

BOOT, BEFORE, DURING, AFTER = "boot", "before", "during", "after"


@dataclass(frozen=True, slots=True)
class Window:
    """One vCPU in its guest from `opened` to `closed` (symbols of times; closed None: it stays inside).

    opener, closer: numbers of the steps that let it in and out. index: counted per vCPU. offset, ratio, page: what its
    clocks are made of meanwhile; page None: not registered. phase: the boot, or before, during or after the operation.
    """

    site: int
    vm: int
    vcpu: int
    index: int
    phase: str
    opener: int
    opened: Symbol
    closer: int | None
    closed: Symbol | None
    offset: Any
    ratio: int
    page: PvclockVcpuTimeInfo | None
    host: KvmHost
    khz: int

    @property
    def who(self) -> tuple[int, int, int]:
        return self.site, self.vm, self.vcpu

    @property
    def id(self) -> str:
        """The same in every run of the same order."""
        return f"{self.site}.{self.vm}.{self.vcpu}.{self.index}"

    @property
    def has_page(self) -> bool:
        return self.page is not None and self.page.version != 0 and self.page.version % 2 == 0

    @property
    def stable(self) -> bool:
        return self.has_page and self.page is not None and self.page.flags & PVCLOCK_TSC_STABLE_BIT != 0

    def host_tsc(self, world: World, t: Any) -> Any:
        """The host's TSC at instant t (units)."""
        machine = self.host.machine
        assert isinstance(machine, ExploredMachine)
        return machine.counter.at(world.ps_of(t))

    def tsc(self, world: World, t: Any) -> Any:
        """The guest's TSC at instant t, cycles, modulo 2^64: compare only differences, as apart() gives them."""
        return self.host.scale(self.host_tsc(world, t), self.ratio) + self.offset

    def kvmclock(self, world: World, t: Any) -> Any:
        """kvmclock as this guest computes it at instant t, ns, modulo 2^64: definition B."""
        page = self.page
        assert page is not None
        # u64 is taken once, of the difference: sums and differences of words do not mind where they wrapped before.
        delta = u64(self.tsc(world, t) - page.tsc_timestamp)
        return page.system_time + pvclock_scale_delta(delta, page.tsc_to_system_mul, page.tsc_shift)


def apart(later: Any, earlier: Any) -> Any:
    """later - earlier of two readings that are words of 64 bits: the shorter way round, signed."""
    return s64(later - earlier)


class WindowTracker:
    """Looks at the vCPUs after each step of the model, and notes when one comes into its guest and leaves it."""

    def __init__(self, world: World, hosts: list[KvmHost], phase: list[str]) -> None:
        self.world, self.hosts, self.phase = world, hosts, phase
        self.closed: list[Window] = []
        self._open: dict[tuple[int, int, int], Window] = {}
        self._counted: dict[tuple[int, int, int], int] = {}
        world.after_step(self._look)

    def windows(self) -> list[Window]:
        """All of them so far, by vCPU and time."""
        return sorted([*self.closed, *self._open.values()], key=lambda w: (w.site, w.vm, w.vcpu, w.index))

    def in_guest(self) -> set[tuple[int, int, int]]:
        return set(self._open)

    def _look(self, number: int) -> None:
        event = self.world.events[number]
        for site, vm, vcpu in self._vcpus():
            who = site, vm, vcpu.index
            known = self._open.get(who)
            if not vcpu.in_guest:
                if known is not None:
                    self._close(who, known, number, event.start)
                continue
            page = vcpu.pv_time
            if known is not None:
                if known.offset is vcpu.tsc_offset and known.ratio == vcpu.tsc_scaling_ratio and _same(known.page, page):
                    continue
                self._close(who, known, number, event.start)
            index = self._counted.get(who, 0)
            self._counted[who] = index + 1
            host = self.hosts[site]
            self._open[who] = Window(
                site, vm, vcpu.index, index, self.phase[0], number, event.end, None, None, vcpu.tsc_offset,
                vcpu.tsc_scaling_ratio, None if page is None else page.copy(), host, vcpu.virtual_tsc_khz,
            )  # fmt: skip

    def _close(self, who: tuple[int, int, int], window: Window, number: int, at: Symbol) -> None:
        del self._open[who]
        self.closed.append(replace(window, closer=number, closed=at))

    def _vcpus(self) -> Iterator[tuple[int, int, VcpuTime]]:
        for site, host in enumerate(self.hosts):
            for vm in host.vms:
                for vcpu in vm.vcpus:
                    yield site, vm.id, vcpu


def _same(copy: PvclockVcpuTimeInfo | None, page: Any) -> bool:
    if copy is None or page is None:
        return copy is None and page is None
    return copy.version == page.version and copy.tsc_timestamp is page.tsc_timestamp
