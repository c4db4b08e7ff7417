"""What becomes of a timer, as facts for whoever checks a run: due or not, who raises its interrupt and when, or nobody.

Nothing here takes time or changes anything. When a timer ought to interrupt its guest, the guest's own writes say.
"""

from __future__ import annotations

from guestclock.abi.arm64 import CTL_ENABLE, CTL_IMASK
from guestclock.arith import u64
from guestclock.kvm.model.arm64.arch_timer import delta, hw_raised, kvm_timer_irq_can_fire, timer_get_offset
from guestclock.kvm.model.arm64.host import KvmHost
from guestclock.kvm.model.arm64.soft_timer import callback_ps, forwarded_ps
from guestclock.kvm.model.arm64.state import TimerContext


def armed(timer: TimerContext) -> bool:
    """Enabled and not masked, wherever its registers are now."""
    if timer.loaded:
        return timer.hw_ctl & (CTL_ENABLE | CTL_IMASK) == CTL_ENABLE  # concrete: control bits
    return kvm_timer_irq_can_fire(timer)


def output(timer: TimerContext) -> bool:
    """Whether its output is high at this instant: its guest has an interrupt coming, at the latest with its entry."""
    if timer.loaded:
        return hw_raised(timer)
    kvm: KvmHost = timer.vcpu.vm.kvm
    host_counter = kvm.machine.counter_at(kvm.timeline.now_ps)
    return armed(timer) and timer.cval <= u64(host_counter - timer_get_offset(timer))


def interrupts_at(timer: TimerContext) -> int | None:
    """The host's counter, u64, at which the interrupt will be raised if nothing is done to the vCPU; None: nobody does.

    By the hardware while that has the timer. By KVM's hrtimer while that is started: it is started again as often as it
    finds that it is early. Without either, a timer is looked at when its vCPU is loaded next.
    """
    if timer.loaded:
        return u64(timer.hw_cval + timer.hw_offset) if armed(timer) else None
    if not timer.soft_armed:
        return None
    kvm: KvmHost = timer.vcpu.vm.kvm
    fires_ps = timer.soft_fires_ps
    frac = timer.ns_frac if kvm.profile.ns_frac_per_timer else kvm.state.timecounter_frac
    while True:
        at_ps = callback_ps(timer, fires_ps)
        host_counter = kvm.machine.counter_at(at_ps)
        ns, frac = delta(timer, host_counter, frac)
        if ns == 0:
            return host_counter
        fires_ps = forwarded_ps(fires_ps, ns, at_ps)


def forgotten(timer: TimerContext) -> bool:
    """Whether its guest runs, and the timer is armed and not due yet, but neither the hardware nor an hrtimer has it.

    It comes only when the vCPU happens to be loaded again: late by however long that takes.
    """
    if not timer.vcpu.in_guest or timer.loaded or timer.soft_armed:
        return False
    return armed(timer) and not output(timer)
