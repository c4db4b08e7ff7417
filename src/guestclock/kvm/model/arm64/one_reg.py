"""KVM_GET_ONE_REG, KVM_SET_ONE_REG, KVM_GET_REG_LIST, as far as timers go.

The vCPU's mutex is held, so the vCPU is not in KVM_RUN; others may be.
Source: arch/arm64/kvm/guest.c (until 6.17), sys_regs.c (since 6.18).
"""

from __future__ import annotations

from guestclock.abi.arm64 import (
    CTL_ISTATUS,
    KVM_REG_ARM_PTIMER_CNT,
    KVM_REG_ARM_PTIMER_CTL,
    KVM_REG_ARM_PTIMER_CVAL,
    KVM_REG_ARM_TIMER_CNT,
    KVM_REG_ARM_TIMER_CTL,
    KVM_REG_ARM_TIMER_CVAL,
    KVM_REG_ARM_TIMER_OFFSET,
    TIMER_REGS,
)
from guestclock.arith import u64
from guestclock.errors import UserError
from guestclock.kvm.model.arm64.arch_timer import counter_now
from guestclock.kvm.model.arm64.host import KvmHost
from guestclock.kvm.model.arm64.offsets import broadcast_guest_offset
from guestclock.kvm.model.arm64.profile import Profile
from guestclock.kvm.model.arm64.state import TimerContext, VcpuTime, ptimer, vtimer
from guestclock.kvm.model.arm64.sysregs import timer_write

_VIRTUAL = (KVM_REG_ARM_TIMER_CTL, KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_TIMER_CVAL)
_COUNTERS = (KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_PTIMER_CNT)
_COMPARATORS = (KVM_REG_ARM_TIMER_CVAL, KVM_REG_ARM_PTIMER_CVAL)
_CONTROLS = (KVM_REG_ARM_TIMER_CTL, KVM_REG_ARM_PTIMER_CTL)
assert sorted(TIMER_REGS.values()) == sorted((*_COUNTERS, *_COMPARATORS, *_CONTROLS))


def reg_list(vcpu: VcpuTime) -> list[int]:
    """KVM_GET_REG_LIST: the timers' ids among its answer, in its order."""
    kvm: KvmHost = vcpu.vm.kvm
    return [*kvm.profile.timer_regs, *([KVM_REG_ARM_TIMER_OFFSET] if _offset_shown(kvm) else [])]


def has_reg(vcpu: VcpuTime, reg: int) -> bool:
    """Whether this kernel knows the register (else ENOENT). Raises UserError for one that is no timer's.

    A guest hypervisor's CNTVOFF_EL2, which has the id of the offset register of 2021, is known but not listed here.
    """
    if reg == KVM_REG_ARM_TIMER_OFFSET:
        return _offset_shown(vcpu.vm.kvm) or len(vcpu.timers) > 2
    if reg not in TIMER_REGS.values():
        raise UserError(f"register {reg:#x} is no timer's, expected one of {', '.join(TIMER_REGS)} (abi.arm64)")
    return reg in vcpu.vm.kvm.profile.timer_regs


def get_reg(vcpu: VcpuTime, reg: int) -> int:
    """KVM_GET_ONE_REG of a register that there is; u64."""
    profile: Profile = vcpu.vm.kvm.profile
    if reg == KVM_REG_ARM_TIMER_OFFSET:
        return profile.timer_offset(vcpu) if profile.timer_offset_reg else vcpu.cntvoff_el2.value
    timer = _timer(vcpu, reg)
    if reg in _COUNTERS:
        return counter_now(timer)
    return timer.cval if reg in _COMPARATORS else profile.user_ctl(timer)


async def set_reg(vcpu: VcpuTime, reg: int, value: int) -> None:
    """KVM_SET_ONE_REG of a register that there is; value u64."""
    profile: Profile = vcpu.vm.kvm.profile
    if reg == KVM_REG_ARM_TIMER_OFFSET:
        if profile.timer_offset_reg:
            await broadcast_guest_offset(vcpu, value)
        else:
            vcpu.cntvoff_el2.value = value
        return
    timer = _timer(vcpu, reg)
    if reg in _COUNTERS:
        await profile.write_counter(vcpu, timer, value)
    elif reg in _COMPARATORS:
        timer_write(timer, "CVAL", value)
    elif profile.ctl_64_bits:
        timer.ctl = u64(value) & ~CTL_ISTATUS  # concrete: control bits
    else:
        timer_write(timer, "CTL", value)


def _timer(vcpu: VcpuTime, reg: int) -> TimerContext:
    return vtimer(vcpu) if reg in _VIRTUAL else ptimer(vcpu)


def _offset_shown(kvm: KvmHost) -> bool:
    shown = kvm.profile.timer_offset_reg
    return shown == "always" or (shown == "opt-in" and kvm.options.vtimer_offset)
