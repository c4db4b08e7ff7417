"""arm64 as the checker sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from guestclock.abi import arm64 as abi
from guestclock.checks.architecture import Architecture, Left
from guestclock.checks.arm64.host import ExploredArm64Machine
from guestclock.checks.arm64.state import state_of
from guestclock.checks.arm64.windows import WindowTracker
from guestclock.checks.spec import Site, Spec
from guestclock.checks.windows import apart
from guestclock.explore.world import World
from guestclock.kvm import api
from guestclock.kvm.model.arm64 import Arm64Kvm
from guestclock.sim import Emit
from guestclock.vmm.clocks import ARM64, clocks_of

COUNTS = {"cntvct": abi.KVM_REG_ARM_TIMER_CNT, "cntpct": abi.KVM_REG_ARM_PTIMER_CNT}
"""The register by which KVM reads and sets a counter."""

OFFSETS = {"cntvct": abi.KVM_ARM_VCPU_TIMER_OFFSET_VTIMER, "cntpct": abi.KVM_ARM_VCPU_TIMER_OFFSET_PTIMER}
"""The attribute of 2021 that would have been its offset."""


def _kvm(world: World, site: Site, profile: Any, emit: Emit | None, spec: Spec) -> Arm64Kvm:
    kvm = Arm64Kvm(ExploredArm64Machine(world, site), profile, world, emit)
    kvm.host.mutex_patience_ps = None
    return kvm


def _tracker(world: World, hosts: Sequence[Any], phase: list[str]) -> WindowTracker:
    return WindowTracker(world, hosts, phase)


async def _boots(vcpu: api.Vcpu) -> None:
    """Nothing of its clocks is for a guest's kernel to set up."""


def _captures(clock: str, op: Any, vcpu: int) -> bool:
    """A VM's vCPUs have one counter, so whichever of them it is read of."""
    return isinstance(op, api.GetOneReg) and op.id == COUNTS[clock]


def _sets(clock: str, op: Any, vcpu: int) -> bool:
    if isinstance(op, api.SetVcpuAttr):
        return op.group == abi.KVM_ARM_VCPU_TIMER_CTRL and op.attr == OFFSETS[clock]
    return isinstance(op, api.SetCounterOffset) or (isinstance(op, api.SetOneReg) and op.id == COUNTS[clock])


def _left(outcome: Any, where: tuple[int, int], once: Any, twice: Any) -> Iterator[Left]:
    """Each vCPU's two offsets."""
    spans = [s for s in outcome.tracker.offsets if (s.site, s.vm) == where]
    for vcpu in sorted({s.vcpu for s in spans}):
        mine = [s for s in spans if s.vcpu == vcpu]
        old, new = (next(s for s in reversed(mine) if s.opener <= when.number) for when in (once, twice))
        for clock, name in (("CNTVCT", "voffset"), ("CNTPCT", "poffset")):
            yield Left(f"vCPU {vcpu}'s {clock}", "ticks", _moved(getattr(old, name), getattr(new, name)))


def _moved(old: Any, new: Any) -> Callable[[Callable[[str], Any]], Any]:
    return lambda t: apart(old, new)


ARM = Architecture(
    ARM64, clocks_of(ARM64), _kvm, _tracker, _boots, _captures, _sets, _left, state_of
)  # fmt: skip
