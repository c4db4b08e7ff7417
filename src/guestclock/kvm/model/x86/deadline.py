"""The local APIC's TSC-deadline timer: how KVM turns a guest's deadline into a host timer. Pure functions, no state.

They are consumers of a guest's TSC: their rate is the one that was promised (virtual_tsc_khz), which a KVM_SET_TSC_KHZ
that failed has changed too (kvm-x86.md 7.9), and which within the tolerance is not the one the TSC really has.
Source: arch/x86/kvm/lapic.c, arch/x86/kvm/vmx/vmx.c, v6.12.
"""

from __future__ import annotations

from guestclock.arith import nsec_to_cycles, u32, u64

LAPIC_TIMER_ADVANCE_NS_INIT = 1000
LAPIC_TIMER_ADVANCE_NS_MAX = 5000
_ADJUST_MIN, _ADJUST_MAX, _ADJUST_STEP = 100, 10_000, 8


def deadline_ns(deadline: int, guest_tsc: int, virtual_tsc_khz: int) -> int:
    """Nanoseconds from `guest_tsc` to `deadline`, as start_sw_tscdeadline() reckons them.

    deadline, guest_tsc: cycles, u64. virtual_tsc_khz: kHz, u32, not 0.
    Returns ns, u64, truncated. The product with 10^6 wraps for more than 1.8e13 cycles, 1.97 h at 2.6 GHz: then far too
    few. For a deadline that has passed the number means nothing; the caller does not look at it.
    """
    return u64(u64(deadline - guest_tsc) * 1_000_000) // virtual_tsc_khz


def sw_timer_ns(deadline: int, guest_tsc: int, virtual_tsc_khz: int, advance_ns: int) -> int | None:
    """After how long the hrtimer shall fire, ns; None: the timer expires at once.

    advance_ns: lapic_timer_advance_ns, by how much it fires early to make up for the way into the guest.
    """
    if deadline <= guest_tsc:
        return None
    ns = deadline_ns(deadline, guest_tsc, virtual_tsc_khz)
    return ns - advance_ns if ns > advance_ns else None


def target_deadline(guest_tsc: int, ns: int, virtual_tsc_mult: int, virtual_tsc_shift: int) -> int:
    """set_target_expiration(): a one-shot or periodic timer of `ns` as a deadline of the guest's TSC; cycles, u64."""
    return u64(guest_tsc + nsec_to_cycles(ns, virtual_tsc_mult, virtual_tsc_shift))


def preemption_timer_cycles(
    deadline: int, guest_tsc: int, advance_cycles: int, ratio: int, frac_bits: int, multi: int
) -> int | None:
    """vmx_set_hv_timer(): after how many host cycles VMX's preemption timer shall fire; None: -ERANGE, take an hrtimer.

    advance_cycles: nsec_to_cycles(lapic_timer_advance_ns). ratio: L1's, with frac_bits fraction bits. multi: the timer
    counts once every 2^multi cycles in 32 bits (IA32_VMX_MISC, 0..31), so it reaches 2^(32+multi) cycles.
    """
    delta = deadline - guest_tsc if deadline > guest_tsc else 0
    delta = delta - advance_cycles if delta > advance_cycles else 0
    if ratio != 1 << frac_bits and delta != 0:
        if delta << frac_bits >= ratio << 64:
            return None
        delta = (delta << frac_bits) // ratio
    if delta >> multi + 32 != 0:
        return None
    return delta


def preemption_timer_left(hv_deadline_tsc: int, host_tsc: int, multi: int) -> int:
    """vmx_update_hv_timer(): what an entry writes into the timer, units of 2^multi host cycles, u32; 0 fires at once.

    hv_deadline_tsc: the host TSC at which it shall fire, as it was when it was armed: no write of the guest's offset
    changes it, and a load only on another CPU. A host TSC that has begun anew is far behind it.
    """
    return u32((hv_deadline_tsc - host_tsc) >> multi) if hv_deadline_tsc > host_tsc else 0


def adjusted_advance_ns(advance_ns: int, late_cycles: int, virtual_tsc_khz: int) -> int:
    """adjust_lapic_timer_advance(): the next lapic_timer_advance_ns after the timer came so many guest cycles late.

    advance_ns: u32. late_cycles: s64, negative if it was early; under 100 and over 10 000 nothing is learnt from it.
    An eighth of the error at a time; from below 0 (it wraps) and from over 5000 ns back to 1000 ns.
    """
    size = -late_cycles if late_cycles < 0 else late_cycles
    if size < _ADJUST_MIN or size > _ADJUST_MAX:
        return advance_ns
    step = size * 1_000_000 // virtual_tsc_khz // _ADJUST_STEP
    advance_ns = u32(advance_ns - step if late_cycles < 0 else advance_ns + step)
    return LAPIC_TIMER_ADVANCE_NS_INIT if advance_ns > LAPIC_TIMER_ADVANCE_NS_MAX else advance_ns
