"""A vCPU's timers: their counters, when they are due, and how they come into the hardware and back.

Source: arch/arm64/kvm/arch_timer.c, v6.12; where kernels differ, a rule of the profile stands for it.
"""

from __future__ import annotations

from guestclock.abi.arm64 import CTL_ENABLE, CTL_IMASK, CTL_ISTATUS
from guestclock.arith import cyclecounter_cyc2ns, u64
from guestclock.kvm.model.arm64 import tracepoints
from guestclock.kvm.model.arm64.host import KvmHost
from guestclock.kvm.model.arm64.profile import TimerMap
from guestclock.kvm.model.arm64.state import TIMER_HVTIMER, TIMER_PTIMER, TIMER_VTIMER, TimerContext, VcpuTime

# ---- counters


def timer_get_offset(timer: TimerContext) -> int:
    """What the timer's counter lacks to the host's now, ticks, u64: the sum of its two cells."""
    offset = 0
    if timer.vm_offset is not None:
        offset = timer.vm_offset.value
    if timer.vcpu_offset is not None:
        offset = u64(offset + timer.vcpu_offset.value)
    return offset


def counter_now(timer: TimerContext) -> int:
    """The timer's counter by its offset as it is now, and one read of the host's counter; ticks, u64."""
    kvm: KvmHost = timer.vcpu.vm.kvm
    return u64(kvm.phys_timer_read() - timer_get_offset(timer))


def is_virtual(timer: TimerContext) -> bool:
    """Whether it is one of the two with which CNTVOFF_EL2 has to do."""
    return timer.index in (TIMER_VTIMER, TIMER_HVTIMER)


# ---- when a timer is due


def delta(timer: TimerContext, host_counter: int, frac: int) -> tuple[int, int]:
    """How long it is to the timer's CVAL where the host's counter has that value: (ns, frac), (0, frac) if it is due.

    frac: what is left over of a ns, as the conversion before this one left it.
    """
    kvm: KvmHost = timer.vcpu.vm.kvm
    now = u64(host_counter - timer_get_offset(timer))
    if now >= timer.cval:
        return 0, frac
    return cyclecounter_cyc2ns(timer.cval - now, kvm.mult, kvm.shift, frac)


def delay_ns(timer: TimerContext, host_counter: int) -> int:
    """kvm_timer_compute_delta(): the same in ns, and what is left over goes into the next conversion.

    The next one of whatever timer's (until 6.3), or of this one's.
    """
    kvm: KvmHost = timer.vcpu.vm.kvm
    if kvm.profile.ns_frac_per_timer:
        ns, timer.ns_frac = delta(timer, host_counter, timer.ns_frac)
    else:
        ns, kvm.state.timecounter_frac = delta(timer, host_counter, kvm.state.timecounter_frac)
    return ns


def kvm_timer_irq_can_fire(timer: TimerContext) -> bool:
    """Enabled and not masked, by the registers in memory."""
    return timer.ctl & (CTL_ENABLE | CTL_IMASK) == CTL_ENABLE  # concrete: control bits


def kvm_timer_should_fire(timer: TimerContext) -> bool:
    """Whether the timer's output is high: by the hardware while that has it, else by one read of the counter."""
    if timer.loaded:
        return hw_raised(timer)
    return kvm_timer_irq_can_fire(timer) and timer.cval <= counter_now(timer)


def hw_raised(timer: TimerContext) -> bool:
    """The output of a timer that the hardware has."""
    return timer.hw_ctl & (CTL_ENABLE | CTL_IMASK) == CTL_ENABLE and hw_expired(timer)  # concrete: control bits


def hw_expired(timer: TimerContext) -> bool:
    """Whether the hardware's comparison is true at this instant: unsigned, so that a CVAL of 2^64-1 is "never".

    While the guest is out (TGE set), CNTPOFF_EL2 does not count for the physical timer.
    """
    kvm: KvmHost = timer.vcpu.vm.kvm
    host_counter = kvm.machine.counter_at(kvm.timeline.now_ps)
    if is_virtual(timer) or timer.vcpu.in_guest:
        return timer.hw_cval <= u64(host_counter - timer.hw_offset)
    return u64(timer.hw_cval + timer.hw_on_exit) <= host_counter


def kvm_timer_update_irq(timer: TimerContext, level: bool, at_ps: int | None = None) -> None:
    """What KVM tells the irqchip, or only remembers where userspace has it. at_ps: when, for the trace; None: now."""
    vcpu: VcpuTime = timer.vcpu
    kvm: KvmHost = vcpu.vm.kvm
    timer.level = level
    if vcpu.is_hyp and timer.index in (TIMER_PTIMER, TIMER_VTIMER):
        # A guest hypervisor reads its own guest's timers in memory, where nothing else would show ISTATUS (6.14).
        timer.ctl = timer.ctl | CTL_ISTATUS if level else timer.ctl & ~CTL_ISTATUS  # concrete: control bits
    if kvm.emit is not None:
        irq = vcpu.vm.ppi[timer.index]
        kvm.trace("kvm_timer_update_irq", vcpu.index, tracepoints.kvm_timer_update_irq(vcpu.index, irq, level), at_ps)


# ---- into the hardware and back


def get_timer_map(vcpu: VcpuTime) -> TimerMap:
    """Which timers are the hardware's and which are emulated, as the kernel asks and traces it."""
    kvm: KvmHost = vcpu.vm.kvm
    found = kvm.profile.timer_map(vcpu)
    if kvm.emit is not None:
        dv, dp, ev, ep = (-1 if timer is None else timer.index for timer in found)
        shows_ev = kvm.profile.map_shows_emul_vtimer
        data = tracepoints.kvm_get_timer_map(vcpu.index, dv, dp, ev, ep, shows_ev=shows_ev)
        kvm.trace("kvm_get_timer_map", vcpu.index, data)
    return found


def timer_save_state(timer: TimerContext) -> None:
    """The hardware's registers into memory, and the timer off.

    A physical timer's CVAL is brought back to the guest's counter by the offset as it is now, not as it was loaded: who
    has changed it meanwhile has moved the CVAL.
    """
    vcpu: VcpuTime = timer.vcpu
    if not vcpu.enabled or not timer.loaded:
        return
    kvm: KvmHost = vcpu.vm.kvm
    expired = timer.hw_ctl & CTL_ENABLE and hw_expired(timer)  # concrete: control bits
    timer.ctl = timer.hw_ctl | CTL_ISTATUS if expired else timer.hw_ctl  # concrete: control bits
    if is_virtual(timer):
        timer.cval = timer.hw_cval
    else:
        at_load, at_exit = kvm.profile.ptimer_cval(vcpu, timer_get_offset(timer))
        timer.cval = u64(timer.hw_cval + timer.hw_on_exit - at_load - at_exit)
    timer.hw_offset = timer.hw_cval = timer.hw_ctl = timer.hw_on_exit = 0
    if kvm.emit is not None:
        data = tracepoints.kvm_timer_save_state(timer.ctl, timer.cval, timer.index)
        kvm.trace("kvm_timer_save_state", vcpu.index, data)
    timer.loaded = False


def timer_restore_state(timer: TimerContext) -> None:
    """The registers into the hardware, with the offset as it is now: what the guest then runs with until the next load.

    Source, for the physical timer besides: hyp/vhe/switch.c __activate_traps(), __deactivate_traps().
    """
    vcpu: VcpuTime = timer.vcpu
    if not vcpu.enabled or timer.loaded:
        return
    kvm: KvmHost = vcpu.vm.kvm
    offset = timer_get_offset(timer)
    if is_virtual(timer):
        timer.hw_offset = offset
        timer.hw_cval = timer.cval
    else:
        at_load, timer.hw_on_exit = kvm.profile.ptimer_cval(vcpu, offset)
        timer.hw_offset = offset if kvm.has_cntpoff else 0
        timer.hw_cval = u64(timer.cval + at_load)
    timer.hw_ctl = timer.ctl & (CTL_ENABLE | CTL_IMASK)  # concrete: control bits
    if kvm.emit is not None:
        data = tracepoints.kvm_timer_restore_state(timer.ctl, timer.cval, timer.index)
        kvm.trace("kvm_timer_restore_state", vcpu.index, data)
    timer.loaded = True


def timer_emulate(timer: TimerContext) -> None:
    """An emulated timer's output now, and its hrtimer for later."""
    vcpu: VcpuTime = timer.vcpu
    kvm: KvmHost = vcpu.vm.kvm
    should_fire = kvm_timer_should_fire(timer)
    if kvm.emit is not None:
        data = tracepoints.kvm_timer_emulate(timer.index, should_fire)
        kvm.trace("kvm_timer_emulate", vcpu.index, data)
    kvm.profile.soft_timer(timer, should_fire)
