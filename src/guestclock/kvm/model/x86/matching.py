"""When does a TSC write mean "in sync"? The matching rules of 2010 to today, and what a match becomes.

A rule only decides; P-numbers are those of the project's reference. Old rules keep their kernels' units and mistakes.
"""

from __future__ import annotations

from guestclock.arith import div_s64, s64, u64
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.profile import (
    TscWrite,
    masterclock_request,
    matched_stable,
    matched_unstable,
    tsc_matching,
    tsc_record,
)
from guestclock.kvm.model.x86.state import VcpuTime, VmTime
from guestclock.kvm.model.x86.tsc import NSEC_PER_SEC, compute_l1_tsc_offset, vcpu_nsec_to_cycles

_FIVE_SECONDS = 5 * NSEC_PER_SEC


def host_nsec_to_cycles(vcpu: VcpuTime, ns: int) -> int:
    """ns as cycles at the rate of the physical CPU: what P2 used, before a vCPU had a rate of its own."""
    kvm: KvmHost = vcpu.vm.kvm
    return u64(u64(ns * kvm.machine.cpu_khz(vcpu.on_cpu)) // 1_000_000)


# ---- the decision


@tsc_matching.rule(since="2.6.33")
def never(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> bool:
    """P0: every write stands for itself."""
    return False


@tsc_matching.rule(since="2010", commit="f38e098ff3a3")
def same_value_within_5s(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> bool:
    """P1: the same value once more within five seconds."""
    return write.data == vm.last_tsc_write and write.elapsed_ns < _FIVE_SECONDS


@tsc_matching.rule(since="2.6.37", commit="46543ba45fc4")
def close_value_within_5s(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> bool:
    """P2: a value less than five seconds' cycles away, within five seconds."""
    difference = s64(write.data - vm.last_tsc_write)
    if difference < 0:
        difference = -difference
    return difference < host_nsec_to_cycles(vcpu, _FIVE_SECONDS) and write.elapsed_ns < _FIVE_SECONDS


@tsc_matching.rule(since="3.4-rc", commit="5d3cb0f6a8e3")
def microseconds_taken_for_nanoseconds(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> bool:
    """P3, P4: meant as "within one second of where it should be"; takes µs from ns, so it asks for far less or more."""
    if vcpu.virtual_tsc_khz == 0:
        return False
    difference = div_s64(s64(s64(write.data - vm.last_tsc_write) * 1000), vcpu.virtual_tsc_khz)
    difference = s64(difference - write.elapsed_ns)
    if difference < 0:
        difference = -difference
    return difference < NSEC_PER_SEC and vcpu.virtual_tsc_khz == vm.last_tsc_khz


@tsc_matching.rule(since="3.5", commit="02626b6af5d2")
def within_1s_in_microseconds(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> bool:
    """P6: within one second of where the previous write should be by now, reckoned in µs."""
    if vcpu.virtual_tsc_khz == 0:
        return False
    difference = div_s64(s64(s64(write.data - vm.last_tsc_write) * 1000), vcpu.virtual_tsc_khz)
    difference = s64(difference - write.elapsed_ns // 1000)
    if difference < 0:
        difference = -difference
    return difference < 1_000_000 and vcpu.virtual_tsc_khz == vm.last_tsc_khz


@tsc_matching.rule(since="4.12", commit="bd8fab39cd4f")
def expected_within_1s(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> bool:
    """P9: 0, or within one second of where the previous write should be by now, reckoned in cycles."""
    khz = vcpu.virtual_tsc_khz
    if khz == 0 or khz != vm.last_tsc_khz:
        return False
    if write.data == 0 and write.by != "guest":
        return True  # the VMM's (and vCPU creation's) way to say "in sync": the value is never used
    return _near_expectation(vm, vcpu, write)


@tsc_matching.rule(since="6.7", commit="bf328e22e472")
def expected_within_1s_after_first_user_write(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> bool:
    """P12: as P9, but the first value userspace writes is never corrected: a guest may be younger than a second."""
    khz = vcpu.virtual_tsc_khz
    if khz == 0 or khz != vm.last_tsc_khz:
        return False
    if write.data == 0:
        return True
    return vm.user_set_tsc and _near_expectation(vm, vcpu, write)


def _near_expectation(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> bool:
    expected = u64(vm.last_tsc_write + vcpu_nsec_to_cycles(vcpu, write.elapsed_ns))
    hz = vcpu.virtual_tsc_khz * 1000
    return write.data < u64(expected + hz) and u64(write.data + hz) > expected


# ---- what a match becomes


@matched_stable.rule(since="2.6.37", commit="46543ba45fc4")
def last_offset_anchored(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> None:
    """The offset written last; the window stays where the first write of the row opened it."""
    write.offset = vm.last_tsc_offset
    write.ns = vm.last_tsc_nsec


@matched_stable.rule(since="3.4-rc", commit="4dd7980b2140")
def last_offset_sliding(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> None:
    """The offset written last; the window moves on with each write."""
    write.offset = vm.last_tsc_offset


@matched_stable.rule(since="3.4", commit="e26101b116a6")
def generation_offset(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> None:
    """The offset of the generation."""
    write.offset = vm.cur_tsc_offset


@matched_unstable.rule(since="2.6.37", commit="46543ba45fc4")
def offset_moved_by_host_cycles(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> None:
    """The asked-for offset, moved by the cycles a host CPU made since the previous write; window anchored."""
    write.offset = u64(write.offset + host_nsec_to_cycles(vcpu, write.elapsed_ns))
    write.ns = vm.last_tsc_nsec


@matched_unstable.rule(since="3.4-rc", commit="5d3cb0f6a8e3")
def value_moved_anchored(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> None:
    """The asked-for value, moved on by the time since the previous write; window anchored."""
    value_moved(vm, vcpu, write)
    write.ns = vm.last_tsc_nsec


@matched_unstable.rule(since="3.4-rc", commit="4dd7980b2140")
def value_moved(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> None:
    """The asked-for value, moved on by the time since the previous write."""
    write.data = u64(write.data + vcpu_nsec_to_cycles(vcpu, write.elapsed_ns))
    write.offset = compute_l1_tsc_offset(vcpu, write.data)


@matched_unstable.rule(since="3.5", commit="02626b6af5d2")
def value_moved_by_microseconds(vm: VmTime, vcpu: VcpuTime, write: TscWrite) -> None:
    """As value_moved, from a time that the matching had divided by 1000: a thousand times too little."""
    write.data = u64(write.data + vcpu_nsec_to_cycles(vcpu, write.elapsed_ns // 1000))
    write.offset = compute_l1_tsc_offset(vcpu, write.data)


# ---- what is remembered


@tsc_record.rule(since="2.6.33")
def last_only(vm: VmTime, vcpu: VcpuTime, write: TscWrite, matched: bool) -> None:
    """Only the latest write (kept by the caller); a vCPU that must catch up does so from its own write."""
    vcpu.this_tsc_nsec = write.ns
    vcpu.this_tsc_write = write.data
    vcpu.page_tsc_timestamp = 0


@tsc_record.rule(since="3.4", commit="e26101b116a6")
def generations(vm: VmTime, vcpu: VcpuTime, write: TscWrite, matched: bool) -> None:
    """An unmatched write opens a generation; matched ones join it and are counted once each."""
    if not matched:
        vm.cur_tsc_generation += 1
        vm.cur_tsc_nsec = write.ns
        vm.cur_tsc_write = write.data
        vm.cur_tsc_offset = write.offset
        vm.nr_vcpus_matched_tsc = 0
    elif vcpu.this_tsc_generation != vm.cur_tsc_generation:
        vm.nr_vcpus_matched_tsc += 1
    vcpu.this_tsc_generation = vm.cur_tsc_generation
    vcpu.this_tsc_nsec = vm.cur_tsc_nsec
    vcpu.this_tsc_write = vm.cur_tsc_write
    vcpu.page_tsc_timestamp = 0  # so that a kvmclock that never runs back (2.6.37 to 3.7) may do so after a TSC write


# ---- does the write ask for a new masterclock snapshot?


@masterclock_request.rule(since="2.6.33")
def no_masterclock(vm: VmTime, all_matched: bool, tsc_clocksource: bool, new_generation: bool) -> bool:
    """There is none (up to 3.7)."""
    return False


@masterclock_request.rule(since="3.8", commit="b48aa97e3820")
def on_toggle(vm: VmTime, all_matched: bool, tsc_clocksource: bool, new_generation: bool) -> bool:
    """P7: when it must go on or off."""
    if all_matched:
        return tsc_clocksource and not vm.use_master_clock
    return vm.use_master_clock


@masterclock_request.rule(since="3.19", commit="7f187922ddf6")
def always(vm: VmTime, all_matched: bool, tsc_clocksource: bool, new_generation: bool) -> bool:
    """P8: at every tracked write while it is on or can be on, so also when a vCPU is plugged in."""
    return vm.use_master_clock or (tsc_clocksource and all_matched)


@masterclock_request.rule(since="6.8", commit="c52ffadc65e2")
def on_toggle_or_new_generation(vm: VmTime, all_matched: bool, tsc_clocksource: bool, new_generation: bool) -> bool:
    """P13: when it must go on or off, or is on and a new generation begins."""
    wanted = all_matched and tsc_clocksource
    return (vm.use_master_clock and new_generation) or vm.use_master_clock != wanted


@masterclock_request.rule(since="2023-10-16", commit="as posted")
def as_posted_in_2023(vm: VmTime, all_matched: bool, tsc_clocksource: bool, new_generation: bool) -> bool:
    """The condition of the diff in the 2023 thread, in its own form; what landed is on_toggle_or_new_generation."""
    use_master_clock = all_matched and tsc_clocksource
    if vm.use_master_clock and new_generation:
        return True
    return vm.use_master_clock is not use_master_clock
