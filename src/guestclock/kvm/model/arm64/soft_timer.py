"""The hrtimers by which KVM emulates a timer: when they are started, when they fire, and what they find then.

An hrtimer is no actor: when it fires is known as soon as it is started, and its callback needs nothing but the counter
at that instant and the offset then. So whoever looks at an emulated timer, or is about to change an offset, first lets
the callbacks happen that are due (`settle`).

Limits. The hrtimer counts true time: NTP's slew of the host's MONOTONIC is left out. Nobody is interrupted by it: a
vCPU in its guest is thrown out at its next step. A trace has the callback at its time, but behind what came meanwhile.
bg_timer, which wakes a vCPU from WFI, is left out as WFI is.
"""

from __future__ import annotations

from guestclock.kvm.model.arm64 import tracepoints
from guestclock.kvm.model.arm64.arch_timer import delay_ns, kvm_timer_irq_can_fire, kvm_timer_update_irq
from guestclock.kvm.model.arm64.host import KvmHost
from guestclock.kvm.model.arm64.profile import soft_timer
from guestclock.kvm.model.arm64.state import TimerContext, VmTime
from guestclock.sim import PS_PER_NS, Cell


def soft_timer_start(timer: TimerContext) -> None:
    """Starts the hrtimer for when the timer is due. Two clock reads, the counter first: late by what is between."""
    kvm: KvmHost = timer.vcpu.vm.kvm
    ns = delay_ns(timer, kvm.phys_timer_read())
    timer.soft_fires_ps = kvm.timeline.read_ps() + ns * PS_PER_NS
    timer.soft_armed = True


def soft_timer_cancel(timer: TimerContext) -> None:
    """Whoever cancels has to wait for a callback that is under way: those that are due happen first."""
    settle(timer)
    timer.soft_armed = False


def callback_ps(timer: TimerContext, fires_ps: int) -> int:
    """True time at which the callback of an hrtimer runs that is due at `fires_ps`."""
    kvm: KvmHost = timer.vcpu.vm.kvm
    return fires_ps + kvm.options.hrtimer_latency_ns * PS_PER_NS


def forwarded_ps(fires_ps: int, ns: int, now_ps: int) -> int:
    """hrtimer_forward_now(): as many times `ns` later than it was due as it takes to be after now. ns: not 0."""
    fires_ps = fires_ps + ns * PS_PER_NS
    while fires_ps <= now_ps:
        fires_ps = fires_ps + ns * PS_PER_NS
    return fires_ps


def settle(timer: TimerContext) -> None:
    """Lets kvm_hrtimer_expire() happen as often as it is due by now.

    An hrtimer that fires before the counter is there, because the product of the conversion wrapped or because the
    offset has changed, is started again; one whose timer became due earlier than it was told stays late. A distance
    that the conversion makes 0 ns of is taken for none: then the interrupt is early.
    """
    kvm: KvmHost = timer.vcpu.vm.kvm
    while timer.soft_armed and callback_ps(timer, timer.soft_fires_ps) <= kvm.timeline.now_ps:
        at_ps = callback_ps(timer, timer.soft_fires_ps)
        if kvm.emit is not None:
            data = tracepoints.kvm_timer_hrtimer_expire(timer.index)
            kvm.trace("kvm_timer_hrtimer_expire", timer.vcpu.index, data, at_ps)
        ns = delay_ns(timer, kvm.machine.counter_at(at_ps))
        if ns != 0:
            timer.soft_fires_ps = forwarded_ps(timer.soft_fires_ps, ns, at_ps)
        else:
            timer.soft_armed = False
            kvm_timer_update_irq(timer, True, at_ps)


def set_cell(vm: VmTime, cell: Cell, offset: int) -> None:
    """Writes an offset; callbacks that are due have happened with the one before."""
    for vcpu in vm.vcpus:
        for timer in vcpu.timers:
            if timer.soft_armed:
                settle(timer)
    cell.value = offset


# ---- where kernels differ


@soft_timer.rule(since="5.10")
def armed_unless_level_changed(timer: TimerContext, should_fire: bool) -> None:
    """A change of the output ends it there, so a guest that moves a due CVAL into the future gets no hrtimer."""
    if should_fire != timer.level:
        kvm_timer_update_irq(timer, should_fire)
    elif kvm_timer_irq_can_fire(timer):
        soft_timer_start(timer)
    else:
        soft_timer_cancel(timer)


@soft_timer.rule(since="6.3")
def armed_unless_level_changed_or_due(timer: TimerContext, should_fire: bool) -> None:
    """A change of the output ends it there, and a timer that is due gets none."""
    if should_fire != timer.level:
        kvm_timer_update_irq(timer, should_fire)
    elif not should_fire and kvm_timer_irq_can_fire(timer):
        soft_timer_start(timer)


@soft_timer.rule(since="6.14, stable 6.12", commit="b450dcce93bc")
def armed_whenever_it_can_fire_later(timer: TimerContext, should_fire: bool) -> None:
    """The output and the hrtimer have nothing to do with each other."""
    if should_fire != timer.level:
        kvm_timer_update_irq(timer, should_fire)
    if not should_fire and kvm_timer_irq_can_fire(timer):
        soft_timer_start(timer)
