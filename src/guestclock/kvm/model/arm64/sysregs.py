"""A guest's own accesses: counters, timers' registers, whatever makes the hardware or KVM answer them.

Source: arch/arm64/kvm/sys_regs.c access_arch_timer(), hyp/include/hyp/switch.h kvm_hyp_handle_cntpct(), arch_timer.c
kvm_arm_timer_read_sysreg(), kvm_arm_timer_write_sysreg(), v6.12; Arm ARM DDI 0487, D11.
"""

from __future__ import annotations

from guestclock.abi.arm64 import CTL_ENABLE, CTL_IMASK, CTL_ISTATUS, GUEST_SYSREGS
from guestclock.arith import s32, u32, u64
from guestclock.errors import UserError
from guestclock.kvm.model.arm64.arch_timer import (
    counter_now,
    delay_ns,
    get_timer_map,
    hw_expired,
    is_virtual,
    timer_emulate,
    timer_get_offset,
    timer_restore_state,
    timer_save_state,
)
from guestclock.kvm.model.arm64.host import KvmHost
from guestclock.kvm.model.arm64.lifecycle import kvm_timer_vcpu_load, kvm_timer_vcpu_put
from guestclock.kvm.model.arm64.profile import Access, TimerMap, trapped_access, user_ctl
from guestclock.kvm.model.arm64.run import exit_guest
from guestclock.kvm.model.arm64.soft_timer import soft_timer_cancel
from guestclock.kvm.model.arm64.state import (
    TIMER_HPTIMER,
    TIMER_HVTIMER,
    TIMER_PTIMER,
    TIMER_VTIMER,
    TimerContext,
    VcpuTime,
)

UNDEF = "UNDEF"
"""What a guest gets for an access that its EL1 may not make."""

NATIVE, TRAPPED, CNTPOFF = "native", "trap", "cntpoff"

# ---- counters


def virtual_timer(vcpu: VcpuTime) -> TimerContext:
    """The virtual timer that CNTV_*_EL0 names at the level that runs."""
    return vcpu.timers[TIMER_HVTIMER if vcpu.is_hyp else TIMER_VTIMER]


def physical_timer(vcpu: VcpuTime) -> TimerContext:
    return vcpu.timers[TIMER_HPTIMER if vcpu.is_hyp else TIMER_PTIMER]


def cntvoff(vcpu: VcpuTime) -> int:
    """What a read of CNTVCT_EL0 takes from the host's counter, ticks, u64: CNTVOFF_EL2 as it was loaded, if it is."""
    timer = virtual_timer(vcpu)
    return timer.hw_offset if timer.loaded else timer_get_offset(timer)


def cntpct_by(vcpu: VcpuTime) -> str:
    """How CNTPCT_EL0 comes about for a loaded vCPU.

    "trap": by KVM, from the cell as it is then. "cntpoff": by the hardware, from CNTPOFF_EL2 as it was loaded.
    "native": it is the host's counter, whatever the offset.
    """
    if not vcpu.el1pcten:
        return TRAPPED
    return CNTPOFF if vcpu.vm.kvm.has_cntpoff else NATIVE


def cntpoff(vcpu: VcpuTime) -> int:
    """What a read of CNTPCT_EL0 takes from the host's counter, ticks, u64."""
    timer = physical_timer(vcpu)
    loaded = virtual_timer(vcpu).loaded
    by = cntpct_by(vcpu) if loaded else TRAPPED
    if by == TRAPPED:
        return timer_get_offset(timer)
    return timer.hw_offset if by == CNTPOFF else 0


def read_cntvct(vcpu: VcpuTime) -> int:
    """MRS CNTVCT_EL0 by the guest: one read of the host's counter; ticks, u64."""
    kvm: KvmHost = vcpu.vm.kvm
    return u64(kvm.phys_timer_read() - cntvoff(vcpu))


def read_cntpct(vcpu: VcpuTime) -> int:
    """MRS CNTPCT_EL0 by the guest, trapped or not; ticks, u64. A trap of it is answered without leaving the guest."""
    kvm: KvmHost = vcpu.vm.kvm
    return u64(kvm.phys_timer_read() - cntpoff(vcpu))


# ---- MRS and MSR


def read_sysreg(vcpu: VcpuTime, name: str) -> int | str:
    """MRS by the guest of one of GUEST_SYSREGS; u64. Raises UserError for another name."""
    kvm: KvmHost = vcpu.vm.kvm
    timer = _timer_of(vcpu, name)
    if timer is None:
        if name == "CNTFRQ_EL0":
            return kvm.machine.counter_hz
        return read_cntvct(vcpu) if name == "CNTVCT_EL0" else read_cntpct(vcpu)
    which = name.removesuffix("_EL0").split("_")[1]
    if _traps(vcpu, timer):
        exit_guest(vcpu)
        value = kvm.profile.trapped_access(vcpu, timer, lambda: timer_read(timer, which), False)
        assert value is not None
        return value
    return _hw_read(timer, which)


def write_sysreg(vcpu: VcpuTime, name: str, value: int) -> str | None:
    """MSR by the guest, value u64; UNDEF for the counters and their rate. Raises UserError for an unknown name."""
    timer = _timer_of(vcpu, name)
    if timer is None:
        return UNDEF
    which = name.removesuffix("_EL0").split("_")[1]
    if _traps(vcpu, timer):
        exit_guest(vcpu)
        vcpu.vm.kvm.profile.trapped_access(vcpu, timer, lambda: timer_write(timer, which, value), True)
    else:
        _hw_write(timer, which, value)
    return None


def _timer_of(vcpu: VcpuTime, name: str) -> TimerContext | None:
    """The timer that a register belongs to at the level that runs; None for the counters' own."""
    if name not in GUEST_SYSREGS:
        raise UserError(f"sysreg {name!r} is not modelled, expected one of {', '.join(GUEST_SYSREGS)}")
    if name.startswith("CNTV_"):
        return virtual_timer(vcpu)
    return physical_timer(vcpu) if name.startswith("CNTP_") else None


def _traps(vcpu: VcpuTime, timer: TimerContext) -> bool:
    """Whether an access to this timer's registers leaves the guest: never the virtual one's."""
    return not is_virtual(timer) and not vcpu.el1pcen


# ---- the hardware's registers


def _hw_count(timer: TimerContext) -> int:
    """The counter that the hardware compares with hw_cval while the guest runs, at one read."""
    kvm: KvmHost = timer.vcpu.vm.kvm
    return u64(kvm.phys_timer_read() - timer.hw_offset)


def _hw_read(timer: TimerContext, which: str) -> int:
    if which == "CVAL":
        return timer.hw_cval
    if which == "TVAL":
        return u32(timer.hw_cval - _hw_count(timer))
    expired = timer.hw_ctl & CTL_ENABLE and hw_expired(timer)  # concrete: control bits
    return timer.hw_ctl | CTL_ISTATUS if expired else timer.hw_ctl  # concrete: control bits


def _hw_write(timer: TimerContext, which: str, value: int) -> None:
    if which == "CVAL":
        timer.hw_cval = u64(value)
    elif which == "TVAL":
        timer.hw_cval = u64(_hw_count(timer) + s32(value))
    else:
        timer.hw_ctl = value & (CTL_ENABLE | CTL_IMASK)  # concrete: control bits


# ---- KVM's registers


def timer_read(timer: TimerContext, which: str) -> int:
    """kvm_arm_timer_read(): "CNT", "CVAL", "TVAL" or "CTL" by what is in memory; u64."""
    if which == "CNT":
        return counter_now(timer)
    if which == "CVAL":
        return timer.cval
    kvm: KvmHost = timer.vcpu.vm.kvm
    host_counter = kvm.phys_timer_read()
    if which == "TVAL":
        return u32(timer.cval - host_counter + timer_get_offset(timer))
    # ISTATUS whether the timer is enabled or not, beside the one that was saved with the registers.
    return timer.ctl | CTL_ISTATUS if delay_ns(timer, host_counter) == 0 else timer.ctl  # concrete: control bits


def timer_write(timer: TimerContext, which: str, value: int) -> None:
    """kvm_arm_timer_write(): the registers in memory."""
    if which == "CVAL":
        timer.cval = u64(value)
    elif which == "TVAL":
        timer.cval = u64(counter_now(timer) + s32(value))
    else:
        timer.ctl = u32(value) & ~CTL_ISTATUS  # concrete: control bits


@user_ctl.rule(since="5.10")
def istatus_reckoned(timer: TimerContext) -> int:
    """With ISTATUS by the counter now, as a guest's trapped read; that leaves its trace in ns_frac."""
    return timer_read(timer, "CTL")


@user_ctl.rule(since="6.18", commit="4cab5c857d1f")
def ctl_as_stored(timer: TimerContext) -> int:
    """What was written, or saved with the registers."""
    return timer.ctl


# ---- accesses that trap


@trapped_access.rule(since="5.10")
def all_timers_put_and_loaded(vcpu: VcpuTime, timer: TimerContext, access: Access, write: bool) -> int | None:
    """All of the vCPU's timers leave the hardware and come back: with the offsets of now."""
    kvm_timer_vcpu_put(vcpu)
    value = access()
    kvm_timer_vcpu_load(vcpu)
    return value


@trapped_access.rule(since="6.3")
def this_timer_saved_and_restored(vcpu: VcpuTime, timer: TimerContext, access: Access, write: bool) -> int | None:
    """This timer alone; an emulated one is started anew after a write."""
    timers: TimerMap = get_timer_map(vcpu)
    if timer is timers.emul_vtimer or timer is timers.emul_ptimer:
        if write:
            soft_timer_cancel(timer)
        value = access()
        if write:
            timer_emulate(timer)
        return value
    timer_save_state(timer)
    value = access()
    timer_restore_state(timer)
    return value
