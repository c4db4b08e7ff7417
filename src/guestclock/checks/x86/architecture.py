"""x86 as the checker sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.checks.architecture import Architecture
from guestclock.checks.spec import Site, Spec
from guestclock.checks.x86.host import ExploredTimers, ExploredX86Machine
from guestclock.checks.x86.restored import left
from guestclock.checks.x86.state import state_of
from guestclock.checks.x86.windows import WindowTracker
from guestclock.explore.world import World
from guestclock.kvm import api
from guestclock.kvm.model.x86 import KvmOptions, X86Kvm
from guestclock.kvm.model.x86.timers import KernelTimers
from guestclock.sim import Emit
from guestclock.vmm.clocks import X86_64, clocks_of


def _kvm(world: World, site: Site, profile: Any, emit: Emit | None, spec: Spec) -> X86Kvm:
    machine = ExploredX86Machine(world, site)
    kvm = X86Kvm(machine, profile, world, emit, KvmOptions(kvmclock_periodic_sync=spec.works))
    kvm.host.timers = ExploredTimers(KernelTimers(machine, profile, 0), spec.works, spec.periodic)
    kvm.host.mutex_patience_ps = None
    return kvm


def _tracker(world: World, hosts: Sequence[Any], phase: list[str]) -> WindowTracker:
    return WindowTracker(world, list(hosts), phase)


async def _boots(vcpu: api.Vcpu) -> None:
    await vcpu.enable_kvmclock()


def _captures(clock: str, op: Any, vcpu: int) -> bool:
    if clock == "kvmclock":
        return isinstance(op, api.GetClock)
    if isinstance(op, api.GetMsr):
        return op.vcpu == vcpu and op.index == MSR_IA32_TSC
    return isinstance(op, api.StopAllTscs) or (isinstance(op, api.GetTscOffset) and op.vcpu == vcpu)


def _sets(clock: str, op: Any, vcpu: int) -> bool:
    if clock == "kvmclock":
        return isinstance(op, api.SetClock)
    if isinstance(op, api.SetMsr):
        return op.vcpu == vcpu and op.index == MSR_IA32_TSC
    return isinstance(op, api.StartAllTscs) or (isinstance(op, api.SetTscOffset) and op.vcpu == vcpu)


X86 = Architecture(
    X86_64, clocks_of(X86_64), _kvm, _tracker, _boots, _captures, _sets, left, state_of
)  # fmt: skip
