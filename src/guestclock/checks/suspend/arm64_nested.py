"""A guest that is a hypervisor itself, on arm64: it runs a guest of its own (L2), whose counters have one offset more.

A vCPU shows the counters of the level that runs. Its own guest's CNTVCT_EL0 is the VM's counter less the CNTVOFF_EL2
that the hypervisor wrote; its CNTPCT_EL0 is the VM's. Of its timekeeper only the hypervisor's readings are looked at:
telling L2 of a sleep is the business of the VMM inside.
"""

from __future__ import annotations

from typing import Any

from guestclock.kvm.model.arm64.nested import enter_l2, exit_l2
from guestclock.kvm.model.arm64.state import VcpuTime
from guestclock.sim import cp

L2_OFFSET = 5_000_000_000
"""What the hypervisor takes from its guest's CNTVCT, ticks."""

L2_RAN, L2_AGAIN = "an L2 ran when the host went down", "an L2 ran first after a sleep"


def runs_l2(vcpu: VcpuTime) -> bool:
    return len(vcpu.timers) > 2 and not vcpu.is_hyp


async def hypervisor(stage: Any, i: int) -> None:
    """It runs L2 until an interrupt comes for itself; after the last night it stays at EL2."""
    setting, course = stage.setting, stage.course
    rounds = 0

    def at_el2() -> bool:
        vcpu: VcpuTime = stage.vm.vcpus[i]
        return vcpu.in_guest and vcpu.is_hyp and not vcpu.suspend_irq and rounds == course.nights

    def interrupted() -> bool:
        vcpu: VcpuTime = stage.vm.vcpus[i]
        return vcpu.in_guest and not vcpu.is_hyp and vcpu.suspend_irq

    while rounds < len(setting.nights):
        await cp("ERET to L2", until=at_el2)
        vcpu: VcpuTime = stage.vm.vcpus[i]
        enter_l2(vcpu, L2_OFFSET)
        vcpu.ipi = True  # its thread, which has seen nothing of this, goes round and enters
        rounds += 1
        await cp("L2 traps for an interrupt", until=interrupted)
        stage.outcome.reached.add(L2_AGAIN)
        exit_l2(vcpu)
        vcpu.ipi = True
