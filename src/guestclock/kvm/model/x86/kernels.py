"""The kernels that the model knows, each as the few fields in which it differs from its predecessor."""

from __future__ import annotations

from guestclock.kvm.model.x86 import kvmclock, lifecycle, matching, msr, page, run, suspend_time, timers, tsc, updates
from guestclock.kvm.model.x86.profile import Profile

LINUX_2_6_36 = Profile(
    name="linux-2.6.36",
    about="no matching: every vCPU's TSC counts from the VM's creation until somebody writes it",
    tsc_matching=matching.never,
    matched_stable=matching.last_offset_anchored,
    matched_unstable=matching.offset_moved_by_host_cycles,
    tsc_record=matching.last_only,
    masterclock_request=matching.no_masterclock,
    guest_tsc_write=msr.guest_write_tracked_only,
    guest_wrmsr=run.exits_and_enters_again,
    creation_tsc=lifecycle.tsc_since_vm_creation,
    apply_tsc_offset=tsc.offset_as_asked,
    snapshot=page.no_snapshot,
    generation_tsc=tsc.compute_guest_tsc,
    catchup=page.to_snapshot,
    page_khz=page.host_khz,
    page_ns=page.as_read,
    page_store=page.stored_at_once,
    write_pages=page.kvm_xen_hyperv,
    global_update=updates.own_page_only,
    load_update=updates.load_asks_for_own,
    vcpu_created=updates.no_periodic_sync,
    get_clock=kvmclock.clock_by_base,
    guest_kvmclock=kvmclock.kvmclock_c,
    set_clock=kvmclock.offset_from_base,
    wall_clock_epoch=kvmclock.epoch_of_host_boot,
    system_time_write=msr.no_page_write,
    timer_expiry=timers.timers_exact,
    suspend_time=suspend_time.NotTold,
    base_clock="boottime",
    adjust_clock=1,
    tracepoints=(),
    tracking_section=False,
    creation_before_publish=True,
    offset_attribute=False,
    vcpu_khz_ioctl=False,
    vm_khz_ioctl=False,
    vm_khz_after_vcpus=True,
    pm_notifier=False,
    boot_vcpu_msr_matters=False,
    backwards_tsc_kept=False,
    kvmclock_ctrl=False,
    tsc_adjust=False,
    xen=False,
    hyperv=False,
    protects_tsc=False,
)

LINUX_2_6_37 = LINUX_2_6_36.but(
    name="linux-2.6.37",
    about="TSC writes less than five seconds apart, in value and in time, are in sync (P2)",
    tsc_matching=matching.close_value_within_5s,
    creation_tsc=lifecycle.tracked_write_of_0,
    page_ns=page.never_behind_the_guest,
)

LINUX_3_4 = LINUX_2_6_37.but(
    name="linux-3.4",
    about="TSC writes within a second of where they should be are in sync (P6); generations; kHz per vCPU",
    tsc_matching=matching.within_1s_in_microseconds,
    matched_stable=matching.generation_offset,
    matched_unstable=matching.value_moved_by_microseconds,
    tsc_record=matching.generations,
    vcpu_khz_ioctl=True,
)

LINUX_3_8 = LINUX_3_4.but(
    name="linux-3.8",
    about="the masterclock: pages of matched vCPUs come from one snapshot (P7)",
    masterclock_request=matching.on_toggle,
    snapshot=page.masterclock_snapshot,
    wall_clock_epoch=kvmclock.epoch_of_host_boot_less_offset,
    creation_before_publish=False,
    tracking_section=True,
    guest_tsc_write=msr.guest_write_tracked,
    tsc_adjust=True,
    kvmclock_ctrl=True,
    set_clock=kvmclock.offset_from_base_then_snapshot,
    tracepoints=("kvm_write_tsc_offset", "kvm_update_master_clock", "kvm_track_tsc"),
)

LINUX_3_19 = LINUX_3_8.but(
    name="linux-3.19",
    about="every tracked TSC write takes a new masterclock snapshot, vCPU hotplug included (P8)",
    masterclock_request=matching.always,
    page_ns=page.as_read,
    page_store=page.stored_by_version_protocol,
    global_update=updates.all_after_100ms,
    load_update=updates.load_asks_for_all,
    vcpu_created=updates.sync_every_300s,
    backwards_tsc_kept=True,
    tracepoints=(*LINUX_3_8.tracepoints, "kvm_pvclock_update"),
)

LINUX_4_12 = LINUX_3_19.but(
    name="linux-4.12",
    about="a write of 0 means in sync; others are held against the expected value in cycles (P9)",
    tsc_matching=matching.expected_within_1s,
    matched_unstable=matching.value_moved,
    page_khz=page.scaled_khz,
    boot_vcpu_msr_matters=True,
    timer_expiry=timers.far_timers_late,
    adjust_clock=2,
    get_clock=kvmclock.clock_by_masterclock,
    set_clock=kvmclock.offset_after_snapshot,
    hyperv=True,
)

LINUX_5_4 = LINUX_4_12.but(name="linux-5.4", about="as 4.12; the last on CLOCK_BOOTTIME")

LINUX_5_10 = LINUX_5_4.but(
    name="linux-5.10",
    about="kvmclock stands on RAW + time slept, no longer on NTP's clock; a guest's TSC write only moves its own TSC",
    base_clock="raw",
    wall_clock_epoch=kvmclock.epoch_of_two_reads,
    guest_tsc_write=msr.guest_write_adjusts,
)

LINUX_5_15 = LINUX_5_10.but(
    name="linux-5.15",
    about="guests are told of the host's sleep; SET_CLOCK is exact at the snapshot; Xen guests",
    xen=True,
    pm_notifier=True,
    set_clock=kvmclock.offset_from_snapshot,
)

LINUX_5_16 = LINUX_5_15.but(
    name="linux-5.16",
    about="TSC offset attribute, GET_CLOCK with the host's TSC and REALTIME (P11); one section tracks a write",
    tracking_section=False,
    offset_attribute=True,
    adjust_clock=14,
    get_clock=kvmclock.clock_with_realtime,
    set_clock=kvmclock.clock_at_new_snapshot,
)

LINUX_6_1 = LINUX_5_16.but(name="linux-6.1", about="KVM_SET_TSC_KHZ of the VM", vm_khz_ioctl=True)

LINUX_6_7 = LINUX_6_1.but(
    name="linux-6.7",
    about="the first value userspace writes is never corrected (P12); the wall clock is made of one read",
    tsc_matching=matching.expected_within_1s_after_first_user_write,
    wall_clock_epoch=kvmclock.epoch_of_one_read,
)

LINUX_6_8 = LINUX_6_7.but(
    name="linux-6.8",
    about="a new snapshot only when the masterclock toggles or a generation begins (P13)",
    masterclock_request=matching.on_toggle_or_new_generation,
)

LINUX_6_12 = LINUX_6_8.but(name="linux-6.12", about="the baseline of the reference (Debian 13)")

LINUX_6_17 = LINUX_6_12.but(
    name="linux-6.17",
    about="protected TSCs (P14, 6.15); a page's rate is never 0 (6.16); the VM's kHz are fixed once a vCPU exists",
    protects_tsc=True,
    write_pages=page.kvm_hyperv_xen,
    page_khz=page.scaled_khz_at_least_1,
    vm_khz_after_vcpus=False,
)

LINUX_6_18 = LINUX_6_17.but(name="linux-6.18", about="as 6.17")

LINUX_6_19 = LINUX_6_18.but(
    name="linux-6.19",
    about="page updates of all vCPUs at once, and none every 300 s",
    global_update=updates.all_at_once,
    vcpu_created=updates.no_periodic_sync,
)

LINUX_7_1 = LINUX_6_19.but(
    name="linux-7.1",
    about="at most ten global page updates a second per VM",
    load_update=updates.load_asks_for_all_10_times_a_second,
)

LINUX_7_2 = LINUX_7_1.but(name="linux-7.2", about="as 7.1 (Debian linux-source 7.2)")

PVM = LINUX_6_18.but(
    name="pvm",
    about="6.18 under kvm-pvm: every TSC offset is pinned to 0, the books are kept as if it were not",
    apply_tsc_offset=tsc.offset_pinned_to_0,
    guest_wrmsr=run.emulated_in_place,
    system_time_write=msr.stable_cleared_by_host,
    xen=False,
    hyperv=False,
)

KERNELS: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        LINUX_2_6_36, LINUX_2_6_37, LINUX_3_4, LINUX_3_8, LINUX_3_19, LINUX_4_12, LINUX_5_4, LINUX_5_10, LINUX_5_15,
        LINUX_5_16, LINUX_6_1, LINUX_6_7, LINUX_6_8, LINUX_6_12, LINUX_6_17, LINUX_6_18, LINUX_6_19, LINUX_7_1,
        LINUX_7_2, PVM,
    )
}  # fmt: skip
