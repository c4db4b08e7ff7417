"""A vCPU is plugged in while an arm64 guest runs: created, and started. The VMM touches no counter.

KVM does: unless it was given an offset, each creation makes the VM's virtual counter 0 and takes the physical one's
offset away, for every vCPU, at its next entry. Behind an in-kernel vGIC a late creation is refused, which hides it.
"""

from __future__ import annotations

from guestclock.kvm.api import Vm

ARCH = "arm64"
SEEN = "Linux, arch/arm64/kvm/arch_timer.c (kvm_timer_vcpu_init); gVisor #5739 makes its vCPUs beforehand because of it"
POLICY = {"cntvct": "run", "cntpct": "run"}
FIX = "arm64-vcpu-hotplug-with-offset: KVM was given an offset before, and leaves it alone"


async def pause(vm: Vm) -> None:
    """Nothing is stopped."""


async def resume(vm: Vm) -> None:
    await vm.create_vcpu()
