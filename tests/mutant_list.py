"""The mutants: what is broken, and how it would be written by mistake."""

from __future__ import annotations

from dataclasses import dataclass

MODEL = ("tests/kvm/model",)
TIME = ("tests/linux", "tests/machine")


@dataclass(frozen=True)
class Mutant:
    """One edit. file: below src/guestclock. old: text that stands there once."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = MODEL


def matching(name: str, old: str, new: str) -> Mutant:
    return Mutant(name, "kvm/model/matching.py", old, new)


MUTANTS = [
    # ---- matching and generations
    matching("window-upper-edge-closed", "return write.data < u64(expected + hz)", "return write.data <= u64(expected + hz)"),
    matching("window-lower-edge-closed", "and u64(write.data + hz) > expected", "and u64(write.data + hz) >= expected"),
    matching("expectation-stands-still", "u64(vm.last_tsc_write + vcpu_nsec_to_cycles(vcpu, write.elapsed_ns))",
             "u64(vm.last_tsc_write)"),
    matching("first-user-write-corrected", "return vm.user_set_tsc and _near_expectation(vm, vcpu, write)",
             "return _near_expectation(vm, vcpu, write)"),
    matching("five-seconds-are-four", "_FIVE_SECONDS = 5 * NSEC_PER_SEC", "_FIVE_SECONDS = 4 * NSEC_PER_SEC"),
    matching("match-keeps-the-asked-for-offset", "    write.offset = vm.cur_tsc_offset", "    pass"),
    matching("rejoining-counts-twice", "elif vcpu.this_tsc_generation != vm.cur_tsc_generation:", "else:"),
    matching("generation-keeps-its-count", "        vm.nr_vcpus_matched_tsc = 0\n", ""),
    matching("new-generation-asks-nothing",
             "return (vm.use_master_clock and new_generation) or vm.use_master_clock != wanted",
             "return vm.use_master_clock != wanted"),
    matching("p8-only-when-off", "return vm.use_master_clock or (tsc_clocksource and all_matched)",
             "return tsc_clocksource and all_matched and not vm.use_master_clock"),
    matching("microseconds-again", "difference = s64(difference - write.elapsed_ns // 1000)",
             "difference = s64(difference - write.elapsed_ns)"),
    # ---- writes
    Mutant("user-set-tsc-before-the-test", "kvm/model/tsc.py",
           "    matched = profile.tsc_matching(vm, vcpu, write)\n    if by == \"user\":\n        vm.user_set_tsc = True\n",
           "    if by == \"user\":\n        vm.user_set_tsc = True\n    matched = profile.tsc_matching(vm, vcpu, write)\n"),
    Mutant("matched-write-not-recorded", "kvm/model/tsc.py", "    vm.last_tsc_write = write.data\n",
           "    if not matched:\n        vm.last_tsc_write = write.data\n"),
    Mutant("matched-count-misses-the-reference", "kvm/model/tsc.py",
           "    all_matched = vm.nr_vcpus_matched_tsc + 1 == vm.online_vcpus\n    if kvm.profile.masterclock_request",
           "    all_matched = vm.nr_vcpus_matched_tsc == vm.online_vcpus\n    if kvm.profile.masterclock_request"),
    Mutant("attribute-matches-the-generation", "kvm/model/tsc.py", "vm.last_tsc_offset == offset",
           "vm.cur_tsc_offset == offset"),
    Mutant("generation-tsc-signed", "kvm/model/tsc.py",
           "    delta = u64(kernel_ns - vcpu.this_tsc_nsec)\n    return u64(vcpu_nsec_to_cycles(vcpu, delta)",
           "    delta = kernel_ns - vcpu.this_tsc_nsec\n    delta = 0 if delta < 0 else delta\n"
           "    return u64(vcpu_nsec_to_cycles(vcpu, delta)"),
    Mutant("guest-write-leaves-tsc-adjust", "kvm/model/msr.py",
           "    vcpu.ia32_tsc_adjust_msr = s64(vcpu.ia32_tsc_adjust_msr + adjustment)\n", ""),
    Mutant("host-restore-of-0x12-counts", "kvm/model/msr.py", "vcpu.index == 0 and not by_host and", "vcpu.index == 0 and"),
    # ---- masterclock
    Mutant("unmatched-masterclock", "kvm/model/masterclock.py", "read is not None and all_matched and", "read is not None and"),
    Mutant("backwards-tsc-forgotten", "kvm/model/masterclock.py", " and not vm.backwards_tsc_observed", ""),
    Mutant("update-without-new-pages", "kvm/model/masterclock.py",
           "    clock_update_all(vm)\n    entries_allowed(vm)", "    entries_allowed(vm)"),
    Mutant("clocksource-change-unnoticed", "kvm/model/masterclock.py",
           "if not kvm.tsc_clocksource and kvm.state.guest_has_master_clock:",
           "if kvm.tsc_clocksource and kvm.state.guest_has_master_clock:"),
    Mutant("in-progress-lets-in", "kvm/model/requests.py", "        vcpu.req_mclock_inprogress = True\n", "        pass\n"),
    # ---- pages
    Mutant("page-without-odd-version", "kvm/model/page.py",
           "    page.version = version\n    await cp(\"pvclock page: body\")", "    await cp(\"pvclock page: body\")"),
    Mutant("version-by-one", "kvm/model/page.py",
           "    await cp(\"pvclock page: even version\")\n    page.version = u32(version + 1)",
           "    await cp(\"pvclock page: even version\")\n    page.version = u32(version)"),
    Mutant("stopped-not-sticky", "kvm/model/page.py", "    flags |= page.flags & PVCLOCK_GUEST_STOPPED  # concrete: flags\n", ""),
    Mutant("page-khz-not-truncated", "kvm/model/page.py", "    return kvm.scale(khz, vcpu.l1_tsc_scaling_ratio)",
           "    return kvm.scale(khz, vcpu.l1_tsc_scaling_ratio) + 1"),
    Mutant("stable-always", "kvm/model/page.py", "flags = 0 if snapshot is None else PVCLOCK_TSC_STABLE_BIT",
           "flags = PVCLOCK_TSC_STABLE_BIT"),
    Mutant("time-before-tsc", "kvm/model/page.py",
           "        host_tsc = rdtsc(vcpu)\n        kernel_ns = kvm.base_ns(vcpu.on_cpu)\n    tsc =",
           "        kernel_ns = kvm.base_ns(vcpu.on_cpu)\n        host_tsc = rdtsc(vcpu)\n    tsc ="),
    Mutant("scale-never-renewed", "kvm/model/page.py", "    if vcpu.hw_tsc_khz != khz:", "    if vcpu.hw_tsc_khz == 0:"),
    Mutant("epoch-without-kvmclock", "kvm/model/kvmclock.py",
           "            return u64(realtime_ns - kvm.profile.guest_kvmclock(vm, host_tsc))",
           "            return u64(realtime_ns)"),
    # ---- KVM_GET_CLOCK and KVM_SET_CLOCK
    Mutant("set-clock-at-another-instant", "kvm/model/kvmclock.py",
           "    base_ns = vm.master_kernel_ns if vm.use_master_clock else kvm.base_ns()\n    vm.kvmclock_offset = s64(clock_ns - base_ns)",
           "    base_ns = kvm.base_ns()\n    vm.kvmclock_offset = s64(clock_ns - base_ns)"),
    Mutant("set-clock-goes-backwards", "kvm/model/kvmclock.py", "        if now_ns > realtime_ns:\n",
           "        if now_ns != realtime_ns:\n"),
    Mutant("clock-c-by-guest-rate", "kvm/model/kvmclock.py",
           "    shift, mul = kvm_get_time_scale(NSEC_PER_SEC, kvm.machine.cpu_khz(0) * 1000)\n    delta = u64(host_tsc - vm",
           "    shift, mul = kvm_get_time_scale(NSEC_PER_SEC, vm.vcpus[0].hw_tsc_khz * 1000)\n    delta = u64(host_tsc - vm"),
    # ---- running, creation, sleep, updates
    Mutant("page-before-masterclock", "kvm/model/run.py",
           "    if vcpu.req_masterclock_update:\n        vcpu.req_masterclock_update = False\n"
           "        await kvm_update_masterclock(vcpu.vm)\n    if vcpu.req_global_clock_update:",
           "    if vcpu.req_clock_update:\n        vcpu.req_clock_update = False\n"
           "        await kvm_guest_time_update(vcpu)\n    if vcpu.req_masterclock_update:\n"
           "        vcpu.req_masterclock_update = False\n        await kvm_update_masterclock(vcpu.vm)\n"
           "    if vcpu.req_global_clock_update:"),
    Mutant("exit-does-not-catch-up", "kvm/model/run.py",
           "    if vcpu.tsc_always_catchup:\n        vcpu.req_clock_update = True\n", ""),
    Mutant("published-with-its-tsc", "kvm/model/lifecycle.py", '        await cp("create_vcpu: postcreate")\n', ""),
    Mutant("unstable-load-keeps-running", "kvm/model/lifecycle.py",
           "        kvm_vcpu_write_tsc_offset(vcpu, compute_l1_tsc_offset(vcpu, vcpu.last_guest_tsc))\n", ""),
    Mutant("sleep-not-compensated", "kvm/model/lifecycle.py",
           "            vcpu.tsc_offset_adjustment = s64(vcpu.tsc_offset_adjustment + delta)\n", ""),
    Mutant("update-work-twice-as-late", "kvm/model/updates.py", "KVMCLOCK_UPDATE_DELAY_NS = 100_000_000",
           "KVMCLOCK_UPDATE_DELAY_NS = 200_000_000"),
    # ---- the floors below
    Mutant("scale-delta-rounds-up", "arith/kernel.py", "    return shifted * mul >> 32", "    return shifted * mul + 2**32 - 1 >> 32",
           ("tests/arith/test_kernel_vectors.py", "tests/arith/test_kernel_against_c.py")),
    Mutant("raw-clock-slewed", "linux/timekeeper.py",
           "        return (self.raw_snsec + self._elapsed(cycles) * self.raw_mult) >> self.clock.shift",
           "        return (self.raw_snsec + self._elapsed(cycles) * self.mono_mult) >> self.clock.shift", TIME),
]  # fmt: skip
