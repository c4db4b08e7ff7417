"""KVM's tracepoints about timers, in the kernel's own words (arch/arm64/kvm/trace_arm.h, v6.12)."""

from __future__ import annotations

from typing import Any

TRACEPOINTS = (
    "kvm_timer_update_irq", "kvm_get_timer_map", "kvm_timer_save_state", "kvm_timer_restore_state",
    "kvm_timer_hrtimer_expire", "kvm_timer_emulate",
)  # fmt: skip


def kvm_timer_update_irq(vcpu_id: int, irq: int, level: bool) -> dict[str, Any]:
    told = int(level)  # concrete: a level
    return {"vcpu_id": vcpu_id, "irq": irq, "level": told, "text": f"VCPU: {vcpu_id}, IRQ {irq}, level {told}"}


def kvm_get_timer_map(vcpu_id: int, dv: int, dp: int, ev: int, ep: int, *, shows_ev: bool) -> dict[str, Any]:
    """Indices of timers, -1 for none. shows_ev: 6.4 and later name an emulated virtual timer too."""
    shown = {"direct_vtimer": dv, "direct_ptimer": dp, **({"emul_vtimer": ev} if shows_ev else {}), "emul_ptimer": ep}
    text = f"VCPU: {vcpu_id}, dv: {dv}, dp: {dp}," + (f" ev: {ev}," if shows_ev else "") + f" ep: {ep}"
    return {"vcpu_id": vcpu_id, **shown, "text": text}


def kvm_timer_save_state(ctl: int, cval: int, timer_idx: int) -> dict[str, Any]:
    return {"ctl": ctl, "cval": cval, "timer_idx": timer_idx, "text": f"   {_registers(ctl, cval, timer_idx)}"}


def kvm_timer_restore_state(ctl: int, cval: int, timer_idx: int) -> dict[str, Any]:
    return {"ctl": ctl, "cval": cval, "timer_idx": timer_idx, "text": _registers(ctl, cval, timer_idx)}


def kvm_timer_hrtimer_expire(timer_idx: int) -> dict[str, Any]:
    return {"timer_idx": timer_idx, "text": f"arch_timer_ctx_index: {timer_idx}"}


def kvm_timer_emulate(timer_idx: int, should_fire: bool) -> dict[str, Any]:
    told = int(should_fire)  # concrete: a flag
    text = f"arch_timer_ctx_index: {timer_idx} (should_fire: {told})"
    return {"timer_idx": timer_idx, "should_fire": told, "text": text}


def _registers(ctl: int, cval: int, timer_idx: int) -> str:
    """The kernel's %#08lx and %#16llx: the 0x belongs to the width, and 0 has one too."""
    return f"CTL: {ctl:#08x} CVAL: {cval:#16x} arch_timer_ctx_index: {timer_idx}"
