"""What KVM remembers about time: per host, per VM, per vCPU, and the pages it writes in guest memory.

Names are the kernel's (struct kvm_arch, struct kvm_vcpu_arch, v6.12); units follow in the text of each field.

Whoever explores orders computes which steps depend on each other from the fields they read and write. So whatever two
actors can both touch is a field, and changes by being assigned: its containers are tuples and read-only mappings.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.sim import State
from guestclock.sim.field import flag, integer, ref, s8, s64, text, u8, u32, u64

P = TypeVar("P", bound=State)

_NO_PAGES: Mapping[int, Any] = MappingProxyType({})


def with_page(pages: Mapping[int, P], address: int, page: P) -> Mapping[int, P]:
    """`pages` and one more, as a new mapping."""
    return MappingProxyType({**pages, address: page})


class KvmState(State):
    """What the kvm module keeps for the whole host."""

    guest_has_master_clock = flag("kvm_guest_has_master_clock: some VM uses one, so a change of clocksource matters")
    vms: tuple[VmTime, ...] = ref("vm_list, by number", ())


class VmTime(State):
    """One VM: struct kvm_arch and online_vcpus."""

    id = integer("number of the VM, from 0")
    online_vcpus = integer("vCPUs that are published; never shrinks")
    kvmclock_offset = s64("ns; base clock + this = kvmclock")

    last_tsc_nsec = u64("ns of the base clock at the latest tracked TSC write")
    last_tsc_write = u64("cycles written then; on a match NOT a point of the guest's TSC line")
    last_tsc_khz = u32("virtual_tsc_khz of the vCPU that wrote")
    last_tsc_offset = u64("cycles; the offset that was applied")
    cur_tsc_nsec = u64("ns of the base clock when the generation began")
    cur_tsc_write = u64("cycles with which it began")
    cur_tsc_offset = u64("cycles; what a matched write is given")
    cur_tsc_generation = u64("counts the periods of matched TSC writes")
    nr_vcpus_matched_tsc = integer("vCPUs in the generation besides the one that opened it")

    default_tsc_khz = u32("kHz of vCPUs created from now on")
    max_tsc_khz = u32("kHz; non-zero only without CONSTANT_TSC")
    user_set_tsc = flag("userspace has written a TSC or an offset")
    vm_init_tsc = u64("host TSC when the VM was made (up to 2.6.36)")

    use_master_clock = flag("pages are computed from the snapshot below and carry TSC_STABLE")
    master_kernel_ns = s64("ns of the base clock in the snapshot")
    master_cycle_now = u64("host TSC in the snapshot")
    backwards_tsc_observed = flag("the host's TSC restarted in a sleep: no masterclock for this VM, ever")
    boot_vcpu_runs_old_kvmclock = flag("vCPU 0's guest uses MSR 0x12")

    ioctls = integer("VM ioctls under way that take several steps")
    kvmclock_update_pending = flag("kvmclock_update_work is queued")
    ratelimit_begin_ps = integer("true time at which the present second of rate-limited updates began")
    ratelimit_done = integer("global updates made in it; -1 before the first", -1)
    wall_clock = u64("value of the wall clock MSR: gpa")

    tscs_stopped = flag("StopAllTscs was called: nobody enters the guest until StartAllTscs")

    hv_tsc_page = u64("HV_X64_MSR_REFERENCE_TSC: frame number << 12, bit 0 enables")
    hv_tsc_page_status = text("unset, guest changed, host changed, set or broken", "unset")
    hv_tsc_emulation_control = flag("re-enlightenment: the page stays as it is until the guest moves it")
    hv_scale = u64("KVM's copy of the page: 100 ns units per cycle, 64 fraction bits")
    hv_offset = s64("KVM's copy of the page: 100 ns units")

    kvm: Any = ref("the KVM it belongs to (model.host.KvmHost)")
    suspend: Any = ref("suspend_time.VmSuspend where an overlay tells the guest of its host's sleep, else None")
    vcpus: tuple[VcpuTime, ...] = ref("a vCPU is entered when it is published", ())
    pages: Mapping[int, SystemTimePage] = ref("system-time pages that ever had an address, by gpa", _NO_PAGES)
    wall_clock_pages: Mapping[int, WallClockPage] = ref("the same of wall clocks, by gpa", _NO_PAGES)
    xen_wall_clock: Any = ref("XenWallClock in shared_info, or None")
    hv_pages: Mapping[int, HvTscPage] = ref("by frame number", _NO_PAGES)


class SystemTimePage(State):
    """struct pvclock_vcpu_time_info in guest memory."""

    version = u32("odd while being written")
    tsc_timestamp = u64("guest TSC, cycles")
    system_time = u64("ns")
    tsc_to_system_mul = u32("ns per cycle, 32 fraction bits, after the shift")
    tsc_shift = s8("cycles are shifted left by this first")
    flags = u8("1 TSC_STABLE, 2 GUEST_STOPPED")

    def copy(self) -> PvclockVcpuTimeInfo:
        return PvclockVcpuTimeInfo(
            self.version, self.tsc_timestamp, self.system_time, self.tsc_to_system_mul, self.tsc_shift, self.flags
        )


class WallClockPage(State):
    """struct pvclock_wall_clock in guest memory: realtime when kvmclock was 0."""

    version = u32("odd while being written")
    sec = u32("s; wraps in 2106")
    nsec = u32("ns")


class XenWallClock(WallClockPage):
    """The same in Xen's shared_info, with the seconds' high half elsewhere: no wrap in 2106."""

    sec_hi = u32("s >> 32")


class HvTscPage(State):
    """struct ms_hyperv_tsc_page in guest memory."""

    sequence = u32("0: not valid, ask the MSR; changes with each new scale and offset")
    scale = u64("100 ns units per cycle, 64 fraction bits")
    offset = s64("100 ns units")


class VcpuTime(State):
    """One vCPU: struct kvm_vcpu_arch, its request bits, and where its thread is."""

    index = integer("vcpu_id and vcpu_idx, from 0")
    cpu = integer("physical CPU of the last load; -1 before the first", -1)
    affinity = integer("physical CPU its thread shall run on")
    on_cpu = integer("physical CPU its thread is, or was last, loaded on")

    l1_tsc_offset = u64("cycles; what L1 sees added to the scaled host TSC")
    tsc_offset = u64("cycles; the active one: L2's composite while L2 runs")
    l1_tsc_scaling_ratio = u64("multiplier with frac_bits fraction bits", 1)
    tsc_scaling_ratio = u64("the active one", 1)
    this_tsc_nsec = u64("ns at which this vCPU's generation began")
    this_tsc_write = u64("cycles with which it began")
    this_tsc_generation = u64("the generation this vCPU is in")
    virtual_tsc_khz = u32("kHz the guest was promised")
    virtual_tsc_mult = u32("ns -> cycles at that rate")
    virtual_tsc_shift = s8("ns -> cycles at that rate")
    tsc_catchup = flag("at page updates the TSC is brought forward to where its generation should be")
    tsc_always_catchup = flag("... and every exit asks for a page update: the host is slower than promised")
    last_guest_tsc = u64("guest TSC at the last exit, page update, tracked write or StopAllTscs")
    last_host_tsc = u64("host TSC at the last vcpu_put; 0 before it")
    tsc_offset_adjustment = s64("host cycles to add at the next load, after a host sleep that reset the TSC")
    ia32_tsc_adjust_msr = s64("the guest's MSR 0x3b")
    guest_tsc_protected = flag("TDX, SNP secure TSC: KVM may not move this TSC (6.15+)")

    hw_tsc_khz = u32("kHz for which the page's scale was last computed")
    pvclock_tsc_mul = u32("scale of the page")
    pvclock_tsc_shift = s8("scale of the page")
    last_kernel_ns = s64("ns in the last page (2.6.37 to 3.7)")
    page_tsc_timestamp = u64("tsc_timestamp of the last page; 0 after a TSC write (2.6.37 to 3.7)")
    page_version = u32("the host's own count of the page's version (up to 3.18)")
    time = u64("value of the system-time MSR: gpa, bit 0 enables")
    pvclock_set_guest_stopped_request = flag("the next page update sets GUEST_STOPPED")
    pv_time: Any = ref("the active SystemTimePage, or None")
    xen_vcpu_info: Any = ref("Xen's vcpu_info page, or None")
    xen_vcpu_time_info: Any = ref("Xen's secondary time page, or None")

    req_migrate_timer = flag("KVM_REQ_MIGRATE_TIMER")
    req_masterclock_update = flag("KVM_REQ_MASTERCLOCK_UPDATE")
    req_global_clock_update = flag("KVM_REQ_GLOBAL_CLOCK_UPDATE")
    req_clock_update = flag("KVM_REQ_CLOCK_UPDATE")
    req_mclock_inprogress = flag("KVM_REQ_MCLOCK_INPROGRESS: a bit, not a counter; no guest entry while set")

    mutex = flag("held by an ioctl on this vCPU, KVM_RUN included")
    running = flag("a thread started by Start is in KVM_RUN")
    kicked = flag("signal and immediate_exit: that thread shall leave KVM_RUN")
    in_guest = flag("guest code is running")
    ipi = flag("the guest was interrupted for the sake of a request")

    l2_active = flag("the guest runs a guest of its own")
    l2_offset = u64("cycles that L1 gave L2; s64 as u64")
    l2_ratio = u64("multiplier that L1 gave L2", 1)
    tsc_ratio_msr = u64("MSR_AMD64_TSC_RATIO of an L1 hypervisor", 1 << 32)

    tsc_deadline = u64("cycles of L1's TSC: what was last written to MSR_IA32_TSC_DEADLINE")
    deadline_armed = flag("... and it was not 0: the hrtimer runs, or has fired")
    deadline_fires_ps = integer("true time at which that hrtimer fires, whatever becomes of the TSC meanwhile")
    halted = flag("mp_state HALTED: its thread sleeps in KVM_RUN until an interrupt comes")
    apic_enabled = flag("the guest has its local APIC on: an interrupt is taken", True)

    suspend_time_ns = u64("ns slept by the host that this vCPU's TSC was moved by (+suspend-v3)")
    suspend_resumes_seen = integer("how often the host's timekeeping had been resumed when the request was made again")
    suspend_stop_offset = u64("l1_tsc_offset when it was stopped, cycles (+suspend-corrected)")
    suspend_stopped = flag("that is known (+suspend-corrected)")
    suspend_epoch = u32("the VM's epoch that this vCPU's TSC offset is of (+suspend-corrected)")
    req_suspend_time = flag("KVM_REQ_SUSPEND_TIME_ADJ, bit 5: no guest entry while it is pending (+suspend-v3)")
    suspend_irq = flag("the interrupt about suspend time is pending in the local APIC")

    left_guest_tsc = u64("guest TSC at the last exit, cycles: for onlookers")
    left_guest_ps = integer("true time of the last exit: a timer that fired by then has reached the guest", -1)

    vm: Any = ref("its VmTime")
