"""x86: what a window's clocks are made of, and the pages and VM clocks that others can look at besides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from guestclock.abi.pvclock import PVCLOCK_GUEST_STOPPED, PVCLOCK_TSC_STABLE_BIT, PvclockVcpuTimeInfo
from guestclock.arith import pvclock_scale_delta, s64, u64
from guestclock.arith.affine import Symbol
from guestclock.checks.windows import GuestWindow, MustRun
from guestclock.checks.x86.host import ExploredX86Machine
from guestclock.explore.world import World
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.requests import pending
from guestclock.kvm.model.x86.state import SystemTimePage, VcpuTime, VmTime


class Clocks:
    """What a vCPU's clocks are made of, and what they read at an instant."""

    __slots__ = ()

    site: int
    vm: int
    vcpu: int
    offset: Any
    ratio: int
    page: PvclockVcpuTimeInfo | None
    host: KvmHost

    @property
    def who(self) -> tuple[int, int, int]:
        return self.site, self.vm, self.vcpu

    @property
    def has_page(self) -> bool:
        return self.page is not None and self.page.version != 0 and self.page.version % 2 == 0

    @property
    def stable(self) -> bool:
        return self.has_page and self.page is not None and self.page.flags & PVCLOCK_TSC_STABLE_BIT != 0

    def host_tsc(self, world: World, t: Any) -> Any:
        """The host's TSC at instant t (units)."""
        machine = self.host.machine
        assert isinstance(machine, ExploredX86Machine)
        return machine.counter.at(world.ps_of(t))

    def tsc(self, world: World, t: Any) -> Any:
        """The guest's TSC at instant t, cycles, modulo 2^64: compare only differences, as apart() gives them."""
        return self.host.scale(self.host_tsc(world, t), self.ratio) + self.offset

    def kvmclock(self, world: World, t: Any) -> Any:
        """kvmclock as this guest computes it at instant t, ns, modulo 2^64: definition B."""
        assert self.page is not None
        return kvmclock_by(self.page, self.tsc(world, t))

    def kvmclock_line(self, world: World, t: Any) -> Any:
        """The line that this page stands for, also before the page's own instant; ns, modulo 2^64, truncated once."""
        page = self.page
        assert page is not None
        delta = s64(self.tsc(world, t) - page.tsc_timestamp)
        return page.system_time + (delta * page.tsc_to_system_mul >> 32 - page.tsc_shift)


def kvmclock_by(page: PvclockVcpuTimeInfo, tsc: Any) -> Any:
    """Definition B by this page and a guest TSC, ns, modulo 2^64. By another vCPU's page it is the vDSO's."""
    # u64 is taken once, of the difference: sums and differences of words do not mind where they wrapped before.
    delta = u64(tsc - page.tsc_timestamp)
    return page.system_time + pvclock_scale_delta(delta, page.tsc_to_system_mul, page.tsc_shift)


@dataclass(frozen=True, slots=True)
class Window(GuestWindow, Clocks):
    """A window on x86. offset, ratio, page: what its clocks are made of meanwhile; page None: not registered."""

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

    def has(self, clock: str) -> bool:
        return clock == "tsc" or self.has_page

    def read(self, clock: str, world: World, t: Any) -> Any:
        return self.tsc(world, t) if clock == "tsc" else self.kvmclock(world, t)

    def line(self, clock: str, world: World, t: Any) -> Any:
        return self.tsc(world, t) if clock == "tsc" else self.kvmclock_line(world, t)


@dataclass(frozen=True, slots=True)
class PageSpan(Clocks):
    """A vCPU's page as it stands in memory from one change to the next, whether its vCPU is in the guest or not.

    A store of the version, or of a part of the body, begins a new one: an odd version is a page being written. A new
    offset, and a new request, begin one too. asked: a request is pending, so the vCPU would not enter with this page.
    store: what began it was a store. fresh: it is the first of this page. wrong: that store broke the version protocol.
    name: of the step that began it.
    """

    site: int
    vm: int
    vcpu: int
    name: str
    opener: int
    opened: Symbol
    closer: int | None
    closed: Symbol | None
    offset: Any
    ratio: int
    page: PvclockVcpuTimeInfo
    host: KvmHost
    asked: bool
    store: bool
    fresh: bool
    wrong: str

    @property
    def id(self) -> str:
        """The same in every run of the same order."""
        return f"{self.site}.{self.vm}.{self.vcpu}@{self.name}"


@dataclass(frozen=True, slots=True)
class VmClock:
    """A VM's kvmclock as KVM has it after step `opener`: with a masterclock, the snapshot too.

    offset: kvmclock_offset, ns. snapshot: (host TSC, ns of the base clock), or None.
    """

    site: int
    vm: int
    opener: int
    opened: Symbol
    offset: Any
    snapshot: tuple[Any, Any] | None


class WindowTracker:
    """Looks at the vCPUs after each step of the model, and notes when one comes into its guest and leaves it.

    pages: every vCPU's page from store to store, in order; clocks: every VM's kvmclock from change to change.
    """

    def __init__(self, world: World, hosts: list[KvmHost], phase: list[str]) -> None:
        self.world, self.hosts, self.phase = world, hosts, phase
        self.closed: list[Window] = []
        self.clocks: list[VmClock] = []
        self._open: dict[tuple[int, int, int], Window] = {}
        self._counted: dict[tuple[int, int, int], int] = {}
        self._final: tuple[int, int] | None = None
        self._pages: list[PageSpan] = []
        self._page: dict[tuple[int, int, int], tuple[PageSpan, Any]] = {}
        self._clock: dict[tuple[int, int], VmClock] = {}
        world.after_step(self._look)

    def windows(self) -> list[Window]:
        """All of them so far, by vCPU and time."""
        return sorted([*self.closed, *self._open.values()], key=lambda w: (w.site, w.vm, w.vcpu, w.index))

    def pages(self) -> list[PageSpan]:
        """All of them so far, by vCPU and time."""
        spans = [*self._pages, *(span for span, _ in self._page.values())]
        return sorted(spans, key=lambda p: (p.site, p.vm, p.vcpu, p.opener))

    def in_guest(self) -> set[tuple[int, int, int]]:
        return set(self._open)

    def as_they_will_run(self, site: int, vm: int) -> None:
        """Notes windows for vCPUs that are not started: their TSCs as they will read once they are.

        Raises MustRun where KVM would bring a TSC forward first.
        """
        self._final = site, vm

    def _look(self, number: int) -> None:
        event = self.world.events[number]
        changed = getattr(event, "writes", None)
        if changed is not None and self._final is None and not any(name in _SEEN for _, name in changed):
            return
        for site, host in enumerate(self.hosts):
            for vm in host.vms:
                self._look_at_vm(site, vm, number)
                for vcpu in vm.vcpus:
                    who = site, vm.id, vcpu.index
                    self._look_at_page(who, vcpu, host, number, event)
                    self._look_at_guest(who, vcpu, host, number, event)

    def _look_at_guest(self, who: tuple[int, int, int], vcpu: VcpuTime, host: KvmHost, number: int, event: Any) -> None:
        known = self._open.get(who)
        if who[:2] == self._final:
            if vcpu.tsc_catchup:
                raise MustRun
        elif not vcpu.in_guest:
            if known is not None:
                self._close(who, known, number, event.start)
            return
        page = vcpu.pv_time
        if known is not None:
            if known.offset is vcpu.tsc_offset and known.ratio == vcpu.tsc_scaling_ratio and _same(known.page, page):
                return
            self._close(who, known, number, event.start)
        index = self._counted.get(who, 0)
        self._counted[who] = index + 1
        self._open[who] = Window(
            *who, index, self.phase[0], number, event.end, None, None, vcpu.tsc_offset, vcpu.tsc_scaling_ratio,
            None if page is None else page.copy(), host, vcpu.virtual_tsc_khz,
        )  # fmt: skip

    def _close(self, who: tuple[int, int, int], window: Window, number: int, at: Symbol) -> None:
        del self._open[who]
        self.closed.append(replace(window, closer=number, closed=at))

    def _look_at_page(self, who: tuple[int, int, int], vcpu: VcpuTime, host: KvmHost, number: int, event: Any) -> None:
        page, (known, source) = vcpu.pv_time, self._page.get(who, (None, None))
        if page is None and known is None:
            return
        fresh = source is not page
        asked = pending(vcpu)
        store = False
        if known is not None and not fresh:
            store = not _same_body(known.page, page) or known.page.version != page.version
            same = known.offset is vcpu.tsc_offset and known.ratio == vcpu.tsc_scaling_ratio and known.asked == asked
            if not store and same and known.page.flags == page.flags:
                return
        if known is not None:
            self._pages.append(replace(known, closer=number, closed=event.start))
            del self._page[who]
        if page is None:
            return
        seen = page.copy()
        span = PageSpan(
            *who, event.name, number, event.end, None, None, vcpu.tsc_offset, vcpu.tsc_scaling_ratio,
            seen, host, asked, store, fresh, protocol(known.page, seen) if known is not None and store else "",
        )  # fmt: skip
        self._page[who] = span, page

    def _look_at_vm(self, site: int, vm: VmTime, number: int) -> None:
        event, known = self.world.events[number], self._clock.get((site, vm.id))
        snapshot = (vm.master_cycle_now, vm.master_kernel_ns) if vm.use_master_clock else None
        if known is not None and known.offset is vm.kvmclock_offset and _same_snapshot(known.snapshot, snapshot):
            return
        self._clock[site, vm.id] = clock = VmClock(site, vm.id, number, event.end, vm.kvmclock_offset, snapshot)
        self.clocks.append(clock)


_SEEN = frozenset(
    (
        *VcpuTime.fields, *SystemTimePage.fields, "vcpus", "vms", "kvmclock_offset", "use_master_clock",
        "master_cycle_now", "master_kernel_ns",
    )
) - {"mutex", "last_host_tsc", "last_guest_tsc", "on_cpu", "cpu", "kicked", "running", "ipi"}  # fmt: skip
"""Fields whose change can end a window or a span."""


def protocol(old: PvclockVcpuTimeInfo, new: PvclockVcpuTimeInfo) -> str:
    """What is wrong with a store that made `new` of `old`: odd version, body, even version, two more; empty: nothing.

    Of one step's stores the version's is taken to be on the right side of the others.
    """
    went = (new.version - old.version) % (1 << 32)
    if old.version % 2 == 0:
        if went == 0:
            return "the body changed under an even version"
        return "" if went == 1 else f"the version went from even {old.version} to {new.version}: no odd one between"
    if went in (0, 1):
        return ""
    # A writer that finds an odd version goes on to the next odd one.
    return "" if went == 2 else f"the version went from odd {old.version} to {new.version}"


def _same(copy: PvclockVcpuTimeInfo | None, page: Any) -> bool:
    if copy is None or page is None:
        return copy is None and page is None
    return copy.version == page.version and copy.tsc_timestamp is page.tsc_timestamp


def _same_body(copy: PvclockVcpuTimeInfo, page: Any) -> bool:
    """All but the version, and but what the guest itself may clear."""
    return (
        copy.tsc_timestamp is page.tsc_timestamp
        and copy.system_time is page.system_time
        and (copy.tsc_to_system_mul, copy.tsc_shift) == (page.tsc_to_system_mul, page.tsc_shift)
        and (copy.flags ^ page.flags) & ~PVCLOCK_GUEST_STOPPED == 0
    )


def _same_snapshot(old: tuple[Any, Any] | None, new: tuple[Any, Any] | None) -> bool:
    if old is None or new is None:
        return old is new
    return old[0] is new[0] and old[1] is new[1]
