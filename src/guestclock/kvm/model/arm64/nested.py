"""Guest hypervisors: a vCPU that has an EL2 of its own, and the guest that it runs there.

The two levels' timers change places in the hardware; a guest's guest counts from the same physical counter as its
hypervisor, less the CNTVOFF_EL2 that this one asked for. Offsets add up, so the order in which they are set is all one.

Limits. The guest hypervisor is VHE (its E2H is 1), and lets its guest read CNTPCT_EL0 and its physical timer
(CNTHCTL_EL2 EL1PCTEN, EL1PCEN). Its accesses to its guest's timers (the _EL02 registers) are not modelled.
Source: arch/arm64/kvm/emulate-nested.c kvm_emulate_nested_eret(), kvm_inject_nested(), v6.12 and v7.2.
"""

from __future__ import annotations

from guestclock.arith import u64
from guestclock.errors import UserError
from guestclock.kvm.model.arm64.lifecycle import vcpu_load, vcpu_put
from guestclock.kvm.model.arm64.run import exit_guest
from guestclock.kvm.model.arm64.state import VcpuTime


def enter_l2(vcpu: VcpuTime, offset: int) -> None:
    """The guest hypervisor writes CNTVOFF_EL2 (ticks, u64) and returns to its guest (ERET)."""
    if len(vcpu.timers) == 2:
        raise UserError("EnterL2: this vCPU has no EL2, expected a VM with nested = true")
    if not vcpu.is_hyp:
        raise UserError(f"EnterL2: vCPU {vcpu.index} runs an L2 already, expected ExitL2 before it")
    vcpu.cntvoff_el2.value = u64(offset)
    _switch(vcpu, is_hyp=False)


def exit_l2(vcpu: VcpuTime) -> None:
    """An exception takes the vCPU from its guest's guest to its hypervisor. CNTVOFF_EL2 stays."""
    if len(vcpu.timers) == 2 or vcpu.is_hyp:
        raise UserError(f"ExitL2: vCPU {vcpu.index} runs no L2, expected EnterL2 before it")
    _switch(vcpu, is_hyp=True)


def _switch(vcpu: VcpuTime, *, is_hyp: bool) -> None:
    """Between a put and a load, so that the other level's timers and offsets come into the hardware."""
    exit_guest(vcpu)
    vcpu_put(vcpu)
    vcpu.is_hyp = is_hyp
    vcpu_load(vcpu)
