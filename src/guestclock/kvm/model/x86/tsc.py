"""TSC offsets and ratios, and kvm_synchronize_tsc(): every way in which a guest's TSC is set."""

from __future__ import annotations

from guestclock.arith import (
    kvm_get_time_scale,
    nested_tsc_offset,
    nested_tsc_ratio,
    nsec_to_cycles,
    tsc_khz_tolerance,
    tsc_ratio,
    u64,
)
from guestclock.kvm.model.x86 import tracepoints
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.profile import TscWrite, apply_tsc_offset, generation_tsc
from guestclock.kvm.model.x86.state import VcpuTime, VmTime
from guestclock.sim import cp

NSEC_PER_SEC = 1_000_000_000


# ---- reading


def read_l1_tsc(vcpu: VcpuTime, host_tsc: int) -> int:
    """kvm_read_l1_tsc(): L1's TSC when the host's is `host_tsc`; cycles, u64."""
    kvm: KvmHost = vcpu.vm.kvm
    return u64(kvm.scale(host_tsc, vcpu.l1_tsc_scaling_ratio) + vcpu.l1_tsc_offset)


def l1_tsc_now(vcpu: VcpuTime, host_tsc: int) -> int:
    """What everybody but the vCPU itself reads as L1's TSC: running, or stopped where StopAllTscs did that."""
    return vcpu.last_guest_tsc if vcpu.vm.tscs_stopped else read_l1_tsc(vcpu, host_tsc)


def guest_tsc(vcpu: VcpuTime, host_tsc: int) -> int:
    """What RDTSC gives in whatever runs on this vCPU, L1 or L2: the hardware's own scale and offset; cycles, u64."""
    kvm: KvmHost = vcpu.vm.kvm
    return u64(kvm.scale(host_tsc, vcpu.tsc_scaling_ratio) + vcpu.tsc_offset)


def rdtsc(vcpu: VcpuTime) -> int:
    """The host's RDTSC on the physical CPU where this vCPU is, or was last, loaded."""
    kvm: KvmHost = vcpu.vm.kvm
    return kvm.machine.rdtsc(vcpu.on_cpu)


# ---- offsets


def compute_l1_tsc_offset(vcpu: VcpuTime, target: int) -> int:
    """The offset with which L1's TSC is `target` at this read of the host's."""
    kvm: KvmHost = vcpu.vm.kvm
    return u64(target - kvm.scale(kvm.machine.rdtsc(vcpu.on_cpu), vcpu.l1_tsc_scaling_ratio))


def kvm_vcpu_write_tsc_offset(vcpu: VcpuTime, l1_offset: int) -> None:
    """Gives L1 this offset and, while L2 runs, L2 the composite of it and L1's own."""
    kvm: KvmHost = vcpu.vm.kvm
    if vcpu.guest_tsc_protected:
        return
    if kvm.emit is not None:
        kvm.trace(
            "kvm_write_tsc_offset",
            vcpu.index,
            tracepoints.kvm_write_tsc_offset(vcpu.index, vcpu.l1_tsc_offset, l1_offset),
        )
    kvm.profile.apply_tsc_offset(vcpu, l1_offset)


@apply_tsc_offset.rule()
def offset_as_asked(vcpu: VcpuTime, l1_offset: int) -> None:
    """The hardware takes the offset."""
    vcpu.l1_tsc_offset = l1_offset
    vcpu.tsc_offset = l2_offset(vcpu) if vcpu.l2_active else l1_offset


@apply_tsc_offset.rule(since="6.18", commit="kvm-pvm")
def offset_pinned_to_0(vcpu: VcpuTime, l1_offset: int) -> None:
    """kvm-pvm without hardware help: whatever was asked for, the guest sees the host's TSC."""
    vcpu.l1_tsc_offset = vcpu.tsc_offset = 0


def l2_offset(vcpu: VcpuTime) -> int:
    """kvm_calc_nested_tsc_offset()."""
    kvm: KvmHost = vcpu.vm.kvm
    return nested_tsc_offset(vcpu.l1_tsc_offset, vcpu.l2_offset, vcpu.l2_ratio, kvm.frac_bits)


def adjust_tsc_offset_guest(vcpu: VcpuTime, adjustment: int) -> None:
    """adjustment: guest cycles."""
    kvm_vcpu_write_tsc_offset(vcpu, u64(vcpu.l1_tsc_offset + adjustment))


def adjust_tsc_offset_host(vcpu: VcpuTime, adjustment: int) -> None:
    """adjustment: host cycles, not negative if the guest is scaled (the kernel warns and scales it as a huge one)."""
    kvm: KvmHost = vcpu.vm.kvm
    adjust_tsc_offset_guest(vcpu, kvm.scale(u64(adjustment), vcpu.l1_tsc_scaling_ratio))


# ---- rates


def write_tsc_multiplier(vcpu: VcpuTime, ratio: int) -> None:
    """kvm_vcpu_write_tsc_multiplier(): the ratio alone; the offset stays, so the guest's TSC jumps."""
    kvm: KvmHost = vcpu.vm.kvm
    vcpu.l1_tsc_scaling_ratio = ratio
    vcpu.tsc_scaling_ratio = nested_tsc_ratio(ratio, vcpu.l2_ratio, kvm.frac_bits) if vcpu.l2_active else ratio


def kvm_set_tsc_khz(vcpu: VcpuTime, khz: int) -> bool:
    """Promises the guest `khz`; whether it can be kept. False too has changed virtual_tsc_khz and its scale.

    Source: arch/x86/kvm/x86.c kvm_set_tsc_khz(), set_tsc_khz().
    """
    kvm: KvmHost = vcpu.vm.kvm
    if khz == 0:
        write_tsc_multiplier(vcpu, kvm.one)
        return False
    vcpu.virtual_tsc_shift, vcpu.virtual_tsc_mult = kvm_get_time_scale(khz * 1000, NSEC_PER_SEC)
    vcpu.virtual_tsc_khz = khz
    lo, hi = tsc_khz_tolerance(kvm.machine.tsc_khz, kvm.machine.spec.tsc_tolerance_ppm)
    if lo <= khz <= hi:
        write_tsc_multiplier(vcpu, kvm.one)
        return True
    if not kvm.has_tsc_control:
        if khz <= kvm.machine.tsc_khz:
            return False
        vcpu.tsc_catchup = vcpu.tsc_always_catchup = True
        return True
    ratio = tsc_ratio(khz, kvm.machine.tsc_khz, kvm.frac_bits)
    if ratio == 0 or ratio >= kvm.max_ratio:
        return False
    write_tsc_multiplier(vcpu, ratio)
    return True


def vcpu_nsec_to_cycles(vcpu: VcpuTime, ns: int) -> int:
    """ns, u64, as cycles at the rate the guest was promised."""
    return nsec_to_cycles(ns, vcpu.virtual_tsc_mult, vcpu.virtual_tsc_shift)


@generation_tsc.rule(since="2.6.37")
def compute_guest_tsc(vcpu: VcpuTime, kernel_ns: int) -> int:
    """Where the TSC should be at `kernel_ns`; for a time before the generation began, 1.4e19 cycles too far."""
    delta = u64(kernel_ns - vcpu.this_tsc_nsec)
    return u64(vcpu_nsec_to_cycles(vcpu, delta) + vcpu.this_tsc_write)


@generation_tsc.rule(since="7.4 queue", commit="d9173f59df3a")
def compute_guest_tsc_signed(vcpu: VcpuTime, kernel_ns: int) -> int:
    """Where the TSC should be at `kernel_ns`, also before the generation began: that far back.

    The queued text was not at hand: this is the arithmetic that its title asks for.
    """
    if kernel_ns < vcpu.this_tsc_nsec:
        return u64(vcpu.this_tsc_write - vcpu_nsec_to_cycles(vcpu, u64(vcpu.this_tsc_nsec - kernel_ns)))
    return compute_guest_tsc(vcpu, kernel_ns)


# ---- tracked writes


def kvm_synchronize_tsc(vcpu: VcpuTime, data: int, by: str) -> bool:
    """One TSC write that KVM tracks: a new generation, or (True) taken for "in sync" with the others.

    Two or three clock reads, in this order, under one lock. data: cycles, u64; 0 is what a new vCPU is given.
    Source: arch/x86/kvm/x86.c kvm_synchronize_tsc() (kvm_write_tsc() before 5.10, guest_write_tsc() before 2.6.38).
    """
    vm: VmTime = vcpu.vm
    kvm: KvmHost = vm.kvm
    profile = kvm.profile
    offset = compute_l1_tsc_offset(vcpu, data)
    ns = u64(kvm.base_ns(vcpu.on_cpu))
    write = TscWrite(by, data, offset, ns, u64(ns - vm.last_tsc_nsec))
    matched = profile.tsc_matching(vm, vcpu, write)
    if by == "user":
        vm.user_set_tsc = True
    if matched:
        if kvm.machine.kvm_check_tsc_unstable():
            profile.matched_unstable(vm, vcpu, write)
        else:
            profile.matched_stable(vm, vcpu, write)
    record_tsc_write(vcpu, write, matched)
    return matched


def record_tsc_write(vcpu: VcpuTime, write: TscWrite, matched: bool) -> None:
    """__kvm_synchronize_tsc() without its last line: what is remembered, and the offset itself."""
    vm: VmTime = vcpu.vm
    kvm: KvmHost = vm.kvm
    vm.last_tsc_nsec = write.ns
    vm.last_tsc_write = write.data
    vm.last_tsc_khz = vcpu.virtual_tsc_khz
    vm.last_tsc_offset = write.offset
    vcpu.last_guest_tsc = write.data
    kvm_vcpu_write_tsc_offset(vcpu, write.offset)
    kvm.profile.tsc_record(vm, vcpu, write, matched)


def kvm_track_tsc_matching(vcpu: VcpuTime, new_generation: bool) -> None:
    """Asks for a masterclock update, on the vCPU that wrote, if this kernel's rule says so."""
    vm: VmTime = vcpu.vm
    kvm: KvmHost = vm.kvm
    all_matched = vm.nr_vcpus_matched_tsc + 1 == vm.online_vcpus
    if kvm.profile.masterclock_request(vm, all_matched, kvm.tsc_clocksource, new_generation):
        vcpu.req_masterclock_update = True
    if kvm.emit is not None:
        kvm.trace(
            "kvm_track_tsc",
            vcpu.index,
            tracepoints.kvm_track_tsc(
                vcpu.index, vm.nr_vcpus_matched_tsc, vm.online_vcpus, vm.use_master_clock, kvm.machine.vclock_mode
            ),
        )


async def write_tsc(vcpu: VcpuTime, data: int, by: str) -> None:
    """A tracked write with its tracking. Up to 5.15 these are two sections under two locks (869b44211adc, 5.16)."""
    kvm: KvmHost = vcpu.vm.kvm
    matched = kvm_synchronize_tsc(vcpu, data, by)
    if kvm.profile.tracking_section:
        await cp("kvm_track_tsc_matching")
    kvm_track_tsc_matching(vcpu, not matched)


def write_tsc_offset_attribute(vcpu: VcpuTime, offset: int) -> None:
    """KVM_VCPU_TSC_OFFSET: matched iff it is exactly the offset written last, by whatever way (828ca89628bf, 5.16)."""
    vm: VmTime = vcpu.vm
    kvm: KvmHost = vm.kvm
    khz = vcpu.virtual_tsc_khz
    matched = khz != 0 and vm.last_tsc_khz == khz and vm.last_tsc_offset == offset
    tsc = u64(kvm.scale(rdtsc(vcpu), vcpu.l1_tsc_scaling_ratio) + offset)
    ns = u64(kvm.base_ns(vcpu.on_cpu))
    vm.user_set_tsc = True
    record_tsc_write(vcpu, TscWrite("user", tsc, offset, ns, 0), matched)
    kvm_track_tsc_matching(vcpu, not matched)
