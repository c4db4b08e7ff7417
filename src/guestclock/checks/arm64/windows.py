"""arm64: the offsets of a window's two counters, and every vCPU's as KVM has them from change to change.

A vCPU in its guest counts with what its last vcpu_load gave it: CNTVOFF_EL2, and CNTPOFF_EL2 where there is one. A read
of CNTPCT_EL0 that traps is answered with the offset of that moment instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from guestclock.arith.affine import Symbol
from guestclock.checks.arm64.host import ExploredArm64Machine
from guestclock.checks.windows import GuestWindow
from guestclock.explore.world import World
from guestclock.kvm.model.arm64.state import CpuTime, TimerContext, VcpuTime, VmTime, ptimer, vtimer
from guestclock.sim import Cell

NATIVE, TRAPPED, IN_HARDWARE = "native", "trapped", "CNTPOFF"


@dataclass(frozen=True, slots=True)
class Window(GuestWindow):
    """A window on arm64. voffset, poffset: what the guest's reads of CNTVCT_EL0 and CNTPCT_EL0 are off the host's
    counter, ticks; physical: how the latter comes about.
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
    voffset: Any
    poffset: Any
    physical: str
    host: Any
    khz: int

    def has(self, clock: str) -> bool:
        return True

    def read(self, clock: str, world: World, t: Any) -> Any:
        machine = self.host.machine
        assert isinstance(machine, ExploredArm64Machine)
        return machine.counter.at(world.ps_of(t)) - (self.voffset if clock == "cntvct" else self.poffset)


@dataclass(frozen=True, slots=True)
class Offsets:
    """What KVM keeps for a vCPU's two timers after step `opener`, ticks; in its guest it may run with older ones."""

    site: int
    vm: int
    vcpu: int
    opener: int
    opened: Symbol
    voffset: Any
    poffset: Any

    @property
    def who(self) -> tuple[int, int, int]:
        return self.site, self.vm, self.vcpu


class WindowTracker:
    """Looks at the vCPUs after each step of the model, and notes when one comes into its guest and leaves it."""

    def __init__(self, world: World, hosts: Sequence[Any], phase: list[str]) -> None:
        self.world, self.hosts, self.phase = world, hosts, phase
        self.closed: list[Window] = []
        self.offsets: list[Offsets] = []
        self._open: dict[tuple[int, int, int], Window] = {}
        self._kept: dict[tuple[int, int, int], Offsets] = {}
        self._counted: dict[tuple[int, int, int], int] = {}
        self._final: tuple[int, int] | None = None
        world.after_step(self._look)

    def windows(self) -> list[Window]:
        return sorted([*self.closed, *self._open.values()], key=lambda w: (w.site, w.vm, w.vcpu, w.index))

    def in_guest(self) -> set[tuple[int, int, int]]:
        return set(self._open)

    def as_they_will_run(self, site: int, vm: int) -> None:
        """Nothing moves an offset at an entry, so no vCPU must run to be asked."""
        self._final = site, vm

    def _look(self, number: int) -> None:
        event = self.world.events[number]
        changed = getattr(event, "writes", None)
        if changed is not None and self._final is None and not any(name in _SEEN for _, name in changed):
            return
        for site, host in enumerate(self.hosts):
            for vm in host.vms:
                for vcpu in vm.vcpus:
                    who = site, vm.id, vcpu.index
                    self._look_at_offsets(who, vcpu, number, event)
                    self._look_at_guest(who, vcpu, host, number, event)

    def _look_at_offsets(self, who: tuple[int, int, int], vcpu: VcpuTime, number: int, event: Any) -> None:
        known = self._kept.get(who)
        now = offset(vtimer(vcpu)), offset(ptimer(vcpu))
        if known is None or not _same((known.voffset, known.poffset), now):
            self._kept[who] = kept = Offsets(*who, number, event.end, *now)
            self.offsets.append(kept)

    def _look_at_guest(self, who: tuple[int, int, int], vcpu: VcpuTime, host: Any, number: int, event: Any) -> None:
        known = self._open.get(who)
        final = who[:2] == self._final
        if not vcpu.in_guest and not final:
            if known is not None:
                self._close(who, known, number, event.start)
            return
        made = seen(vcpu, host) if vcpu.in_guest else (offset(vtimer(vcpu)), offset(ptimer(vcpu)), NATIVE)
        if known is not None:
            if known.physical == made[2] and _same((known.voffset, known.poffset), made[:2]):
                return
            self._close(who, known, number, event.start)
        index = self._counted.get(who, 0)
        self._counted[who] = index + 1
        khz = host.machine.spec.counter_hz // 1000
        self._open[who] = Window(*who, index, self.phase[0], number, event.end, None, None, *made, host, khz)

    def _close(self, who: tuple[int, int, int], window: Window, number: int, at: Symbol) -> None:
        del self._open[who]
        self.closed.append(replace(window, closer=number, closed=at))


_SEEN = frozenset((*VcpuTime.fields, *VmTime.fields, *TimerContext.fields, *CpuTime.fields, *Cell.fields)) - {
    "mutex", "lock", "running", "kicked", "ipi", "ctl", "cval", "hw_cval", "hw_ctl", "ns_frac", "level", "soft_armed",
    "soft_fires_ps", "last_steal", "run_delay", "req_record_steal", "on_cpu", "cpu", "preempted", "preempted_ns",
}  # fmt: skip
"""Fields whose change can end a window or move an offset."""


def offset(timer: TimerContext) -> Any:
    """timer_get_offset(): what KVM subtracts for this timer now, ticks."""
    vm_offset = 0 if timer.vm_offset is None else timer.vm_offset.value
    return vm_offset if timer.vcpu_offset is None else vm_offset + timer.vcpu_offset.value


def seen(vcpu: VcpuTime, host: Any) -> tuple[Any, Any, str]:
    """(voffset, poffset, how) of a vCPU in its guest."""
    virtual, physical = vtimer(vcpu), ptimer(vcpu)
    if not vcpu.el1pcten:
        return virtual.hw_offset, offset(physical), TRAPPED
    if host.has_cntpoff:
        return virtual.hw_offset, physical.hw_offset, IN_HARDWARE
    return virtual.hw_offset, 0, NATIVE


def _same(one: tuple[Any, Any], other: tuple[Any, Any]) -> bool:
    """Whether they are the very same values: equal forms made twice are taken for a change, which costs nothing."""
    return all(a is b or (type(a) is int and type(b) is int and a == b) for a, b in zip(one, other, strict=True))
