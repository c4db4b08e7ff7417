"""crosvm on arm64, suspend before Aug 2024: the host's counter was read while the vCPUs still ran.

The offset grows by too much, by what passed until the last of them was out, and the guest's counters go back by that.
"""

from __future__ import annotations

from guestclock.kvm.api import Host, Vm
from guestclock.vmm.recipes.crosvm_arm64_suspend_resume import create, resume

ARCH = "arm64"
SEEN = "crosvm before f0420bec6 (b/345278018, 30 Aug 2024)"
POLICY = {"cntvct": "freeze", "cntpct": "freeze"}
FIX = "crosvm-arm64-suspend-resume: the counter is read when the last vCPU is out"

__all__ = ["create", "pause", "resume"]


async def pause(vm: Vm) -> None:
    vm.kept["since"] = await Host().read_clock("counter")
    for vcpu in vm.vcpus:
        await vcpu.kick()
