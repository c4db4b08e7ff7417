"""The same boot, but every vCPU goes through KVM_RUN twice with a signal pending before any of them runs."""

from __future__ import annotations

from guestclock.corpus.recipes import first_alone_for_20s
from guestclock.corpus.recipes.first_alone_for_20s import save
from guestclock.kvm.api import Vm

SEEN = "this project, Nov 2026"
POLICY = {"kvmclock": "freeze"}

__all__ = ["restore", "save"]


async def restore(vm: Vm, snapshot: int) -> None:
    for _ in range(2):
        for vcpu in vm.vcpus:
            await vcpu.run()
    await first_alone_for_20s.restore(vm, snapshot)
