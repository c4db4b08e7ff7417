"""The arm64 kernels that the model knows, each as the few fields in which it differs from its predecessor."""

from __future__ import annotations

from guestclock.abi.arm64 import (
    KVM_REG_ARM_PTIMER_CNT,
    KVM_REG_ARM_PTIMER_CTL,
    KVM_REG_ARM_PTIMER_CVAL,
    KVM_REG_ARM_TIMER_CNT,
    KVM_REG_ARM_TIMER_CTL,
    KVM_REG_ARM_TIMER_CVAL,
)
from guestclock.kvm.model.arm64 import attributes, offsets, sleep_gate, soft_timer, sysregs, traps
from guestclock.kvm.model.arm64.profile import Profile

LINUX_5_10 = Profile(
    name="linux-5.10-arm64",
    about="each vCPU has a CNTVOFF_EL2, and a write of the virtual counter goes to all of them under kvm->lock",
    context_offsets=offsets.cntvoff_of_each_vcpu,
    creation_offsets=offsets.creation_broadcasts_now,
    write_counter=offsets.counter_broadcast,
    timer_map=traps.both_on_vhe,
    ptimer_cval=traps.cval_as_it_is,
    load_traps=traps.as_the_cpu_was_set_up,
    entry_traps=traps.only_the_timer,
    soft_timer=soft_timer.armed_unless_level_changed,
    trapped_access=sysregs.all_timers_put_and_loaded,
    user_ctl=sysregs.istatus_reckoned,
    timer_offset=offsets.no_offset_register,
    ptp_offset=offsets.cntvoff_of_this_vcpu,
    set_offset_attribute=attributes.no_offset_attributes,
    get_offset_attribute=attributes.no_offset_attribute,
    suspend_time=sleep_gate.NotHeld,
    timer_regs=(KVM_REG_ARM_TIMER_CTL, KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_TIMER_CVAL),
    timer_offset_reg="",
    timer_irqs=2,
    ppis_of_the_vm=False,
    ptimer_first=False,
    ns_frac_per_timer=False,
    ctl_64_bits=False,
    uses_cntpoff=False,
    counter_offset_ioctl=False,
    ptp=False,
    nested=False,
    map_shows_emul_vtimer=False,
)

LINUX_6_1 = LINUX_5_10.but(name="linux-6.1-arm64", about="PTP by hypercall (5.13; Debian 12)", ptp=True)

LINUX_6_3 = LINUX_6_1.but(
    name="linux-6.3-arm64",
    about="one virtual offset for the VM; a trapped timer access moves that timer alone",
    context_offsets=offsets.voffset_of_the_vm,
    creation_offsets=offsets.creation_resets_voffset,
    write_counter=offsets.counter_stored,
    soft_timer=soft_timer.armed_unless_level_changed_or_due,
    trapped_access=sysregs.this_timer_saved_and_restored,
    ptp_offset=offsets.voffset_or_nothing,
)

LINUX_6_4 = LINUX_6_3.but(
    name="linux-6.4-arm64",
    about="a physical offset, KVM_ARM_SET_COUNTER_OFFSET, CNTPCT trapped or by CNTPOFF_EL2, PTIMER registers",
    context_offsets=offsets.both_of_the_vm,
    creation_offsets=offsets.creation_resets_both_unless_given,
    write_counter=offsets.counter_stored_unless_given,
    timer_map=traps.both_on_vhe_or_el2s,
    ptimer_cval=traps.cval_and_offset_without_cntpoff,
    load_traps=traps.trapped_with_an_offset_without_cntpoff,
    entry_traps=traps.the_counter_with_an_offset,
    ptp_offset=offsets.voffset_or_poffset,
    timer_regs=(
        KVM_REG_ARM_TIMER_CTL, KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_TIMER_CVAL,
        KVM_REG_ARM_PTIMER_CTL, KVM_REG_ARM_PTIMER_CNT, KVM_REG_ARM_PTIMER_CVAL,
    ),
    timer_irqs=4,
    ppis_of_the_vm=True,
    ptimer_first=True,
    ns_frac_per_timer=True,
    uses_cntpoff=True,
    counter_offset_ioctl=True,
    map_shows_emul_vtimer=True,
)  # fmt: skip

LINUX_6_12 = LINUX_6_4.but(
    name="linux-6.12-arm64",
    about="CVAL right with CNTPOFF_EL2 (6.6), a moved CVAL has its hrtimer (6.12.14); the reference (Debian 13)",
    ptimer_cval=traps.cval_and_offset,
    soft_timer=soft_timer.armed_whenever_it_can_fire_later,
)

LINUX_6_18 = LINUX_6_12.but(
    name="linux-6.18-arm64",
    about="timers' registers are ordinary ones: another order, CTL as it was stored; guest hypervisors (6.16)",
    user_ctl=sysregs.ctl_as_stored,
    timer_regs=(
        KVM_REG_ARM_PTIMER_CNT, KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_PTIMER_CTL, KVM_REG_ARM_PTIMER_CVAL,
        KVM_REG_ARM_TIMER_CTL, KVM_REG_ARM_TIMER_CVAL,
    ),
    ctl_64_bits=True,
    nested=True,
)  # fmt: skip

KERNELS: dict[str, Profile] = {
    profile.name: profile for profile in (LINUX_5_10, LINUX_6_1, LINUX_6_3, LINUX_6_4, LINUX_6_12, LINUX_6_18)
}
