"""vcpu->mutex: held by every ioctl on a vCPU, and by KVM_RUN for as long as it lasts."""

from __future__ import annotations

from typing import Any

from guestclock.sim import Deadlock, cp


async def lock(vcpu: Any, what: str) -> None:
    """Waits for vcpu->mutex and takes it: held for as long as the vCPU is in KVM_RUN.

    Raises Deadlock after a day: the kernel's timers never end, so a scheduler cannot tell that nobody will kick it.
    """
    kvm = vcpu.vm.kvm
    while vcpu.mutex:
        label = f"{what} waits for vCPU {vcpu.index}'s mutex, which KVM_RUN holds until somebody kicks that vCPU"
        await cp(label, until=lambda: not vcpu.mutex, delay_ps=kvm.mutex_patience_ps)
        if vcpu.mutex and vcpu.running and not vcpu.kicked:
            raise Deadlock(label)
    vcpu.mutex = True


def unlock(vcpu: Any) -> None:
    vcpu.mutex = False
