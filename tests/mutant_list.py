"""The mutants: what is broken, and how it would be written by mistake."""

from __future__ import annotations

from dataclasses import dataclass

MODEL = ("tests/kvm/model/x86", "tests/kvm/model/test_patch.py")
ARM64 = ("tests/kvm/model/arm64",)
TIME = ("tests/linux", "tests/machine")
FREEZE = ("tests/guest/test_freeze.py", "tests/checks/freeze")
SUSPEND = (
    "tests/guest/test_suspend_time.py", "tests/kvm/model/x86/test_suspend_time.py",
    "tests/kvm/model/arm64/test_sleep_gate.py", "tests/checks/suspend",
)  # fmt: skip
ORDERS = ("tests/explore/test_search.py",)
FORMS = (
    "tests/arith/test_affine.py", "tests/explore/test_search.py", "tests/explore/test_traps.py",
    "tests/explore/test_random_runs.py",
)  # fmt: skip
EXACT = ("tests/explore/test_exact.py", "tests/explore/test_traps.py")
ENGINE = {
    "search": ORDERS, "run": ORDERS, "judge": FORMS, "exact": EXACT, "times": ("tests/explore/test_times.py",),
    "system": ("tests/explore/test_times.py", *FORMS[1:]), "leaf": (*ORDERS, "tests/explore/test_random_runs.py"),
}  # fmt: skip
RECORDED = (
    "tests/check/recorded/test_what_is_no_order.py", "tests/check/recorded/test_broken_clocks.py",
    "tests/check/recorded/test_real_traces.py", "tests/check/recorded/test_invariants.py",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One edit. file: below src/guestclock. old: text that stands there once."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = MODEL


def engine(name: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, f"explore/{file}.py", old, new, ENGINE[file])


def accumulation(name: str, old: str, new: str) -> Mutant:
    return Mutant(name, "linux/accumulation.py", old, new, TIME)


def timekeeper(name: str, old: str, new: str) -> Mutant:
    return Mutant(name, "linux/timekeeper.py", old, new, TIME)


def clocks(name: str, file: str, old: str, new: str) -> Mutant:
    tests = {
        "guest/clock_readers": ("tests/guest/test_clock_readers.py",),
        "linux/ticks": ("tests/linux/test_real_hour.py",),
    }
    modules = ("timers", "watchdogs", "sched_clock", "selection")
    return Mutant(name, f"{file}.py", old, new, tests.get(file, tuple(f"tests/linux/test_{m}.py" for m in modules)))


def recorded(name: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, f"check/recorded/{file}.py", old, new, RECORDED)


def arm64(name: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, f"kvm/model/arm64/{file}.py", old, new, ARM64)


def freeze(name: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, file, old, new, FREEZE)


def suspend(name: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, file, old, new, SUSPEND)


def matching(name: str, old: str, new: str) -> Mutant:
    return Mutant(name, "kvm/model/x86/matching.py", old, new)


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
    Mutant("user-set-tsc-before-the-test", "kvm/model/x86/tsc.py",
           "    matched = profile.tsc_matching(vm, vcpu, write)\n    if by == \"user\":\n        vm.user_set_tsc = True\n",
           "    if by == \"user\":\n        vm.user_set_tsc = True\n    matched = profile.tsc_matching(vm, vcpu, write)\n"),
    Mutant("matched-write-not-recorded", "kvm/model/x86/tsc.py", "    vm.last_tsc_write = write.data\n",
           "    if not matched:\n        vm.last_tsc_write = write.data\n"),
    Mutant("matched-count-misses-the-reference", "kvm/model/x86/tsc.py",
           "    all_matched = vm.nr_vcpus_matched_tsc + 1 == vm.online_vcpus\n    if kvm.profile.masterclock_request",
           "    all_matched = vm.nr_vcpus_matched_tsc == vm.online_vcpus\n    if kvm.profile.masterclock_request"),
    Mutant("attribute-matches-the-generation", "kvm/model/x86/tsc.py", "vm.last_tsc_offset == offset",
           "vm.cur_tsc_offset == offset"),
    Mutant("generation-tsc-signed", "kvm/model/x86/tsc.py",
           "    delta = u64(kernel_ns - vcpu.this_tsc_nsec)\n    return u64(vcpu_nsec_to_cycles(vcpu, delta)",
           "    delta = kernel_ns - vcpu.this_tsc_nsec\n    delta = 0 if delta < 0 else delta\n"
           "    return u64(vcpu_nsec_to_cycles(vcpu, delta)"),
    Mutant("guest-write-leaves-tsc-adjust", "kvm/model/x86/msr.py",
           "    vcpu.ia32_tsc_adjust_msr = s64(vcpu.ia32_tsc_adjust_msr + adjustment)\n", ""),
    Mutant("host-restore-of-0x12-counts", "kvm/model/x86/msr.py", "vcpu.index == 0 and not by_host and", "vcpu.index == 0 and"),
    # ---- masterclock
    Mutant("unmatched-masterclock", "kvm/model/x86/masterclock.py", "read is not None and all_matched and", "read is not None and"),
    Mutant("backwards-tsc-forgotten", "kvm/model/x86/masterclock.py", " and not vm.backwards_tsc_observed", ""),
    Mutant("update-without-new-pages", "kvm/model/x86/masterclock.py",
           "    clock_update_all(vm)\n    entries_allowed(vm)", "    entries_allowed(vm)"),
    Mutant("clocksource-change-unnoticed", "kvm/model/x86/masterclock.py",
           "if not kvm.tsc_clocksource and kvm.state.guest_has_master_clock:",
           "if kvm.tsc_clocksource and kvm.state.guest_has_master_clock:"),
    Mutant("in-progress-lets-in", "kvm/model/x86/requests.py", "        vcpu.req_mclock_inprogress = True\n", "        pass\n"),
    # ---- pages
    Mutant("page-without-odd-version", "kvm/model/x86/page.py",
           "    page.version = version\n    flags = _stopped", "    flags = _stopped"),
    Mutant("version-by-one", "kvm/model/x86/page.py",
           "    await cp(\"pvclock page: even version\")\n    page.version = u32(version + 1)",
           "    await cp(\"pvclock page: even version\")\n    page.version = u32(version)"),
    Mutant("stopped-not-sticky", "kvm/model/x86/page.py", "    flags |= page.flags & PVCLOCK_GUEST_STOPPED  # concrete: flags\n", ""),
    Mutant("page-khz-not-truncated", "kvm/model/x86/page.py", "    return kvm.scale(khz, vcpu.l1_tsc_scaling_ratio)",
           "    return kvm.scale(khz, vcpu.l1_tsc_scaling_ratio) + 1"),
    Mutant("stable-always", "kvm/model/x86/page.py", "flags = 0 if snapshot is None else PVCLOCK_TSC_STABLE_BIT",
           "flags = PVCLOCK_TSC_STABLE_BIT"),
    Mutant("time-before-tsc", "kvm/model/x86/page.py",
           "        host_tsc = rdtsc(vcpu)\n        kernel_ns = kvm.base_ns(vcpu.on_cpu)\n    tsc =",
           "        kernel_ns = kvm.base_ns(vcpu.on_cpu)\n        host_tsc = rdtsc(vcpu)\n    tsc ="),
    Mutant("scale-never-renewed", "kvm/model/x86/page.py", "    if vcpu.hw_tsc_khz != khz:", "    if vcpu.hw_tsc_khz == 0:"),
    Mutant("epoch-without-kvmclock", "kvm/model/x86/kvmclock.py",
           "            return u64(realtime_ns - kvm.profile.guest_kvmclock(vm, host_tsc))",
           "            return u64(realtime_ns)"),
    # ---- KVM_GET_CLOCK and KVM_SET_CLOCK
    Mutant("set-clock-at-another-instant", "kvm/model/x86/kvmclock.py",
           "    base_ns = vm.master_kernel_ns if vm.use_master_clock else kvm.base_ns()\n    vm.kvmclock_offset = s64(clock_ns - base_ns)",
           "    base_ns = kvm.base_ns()\n    vm.kvmclock_offset = s64(clock_ns - base_ns)"),
    Mutant("set-clock-goes-backwards", "kvm/model/x86/kvmclock.py", "        if now_ns > realtime_ns:\n",
           "        if now_ns != realtime_ns:\n"),
    Mutant("clock-c-by-guest-rate", "kvm/model/x86/kvmclock.py",
           "    shift, mul = kvm_get_time_scale(NSEC_PER_SEC, kvm.machine.cpu_khz(0) * 1000)\n    delta = u64(host_tsc - vm",
           "    shift, mul = kvm_get_time_scale(NSEC_PER_SEC, vm.vcpus[0].hw_tsc_khz * 1000)\n    delta = u64(host_tsc - vm"),
    # ---- running, creation, sleep, updates
    Mutant("page-before-masterclock", "kvm/model/x86/run.py",
           "    if vcpu.req_masterclock_update:\n        vcpu.req_masterclock_update = False\n"
           "        await kvm_update_masterclock(vcpu.vm)\n    if vcpu.req_global_clock_update:",
           "    if vcpu.req_clock_update:\n        vcpu.req_clock_update = False\n"
           "        await kvm_guest_time_update(vcpu)\n    if vcpu.req_masterclock_update:\n"
           "        vcpu.req_masterclock_update = False\n        await kvm_update_masterclock(vcpu.vm)\n"
           "    if vcpu.req_global_clock_update:"),
    Mutant("exit-does-not-catch-up", "kvm/model/x86/run.py",
           "    if vcpu.tsc_always_catchup:\n        vcpu.req_clock_update = True\n", ""),
    Mutant("published-with-its-tsc", "kvm/model/x86/lifecycle.py", '        await cp("create_vcpu: postcreate")\n', ""),
    Mutant("unstable-load-keeps-running", "kvm/model/x86/lifecycle.py",
           "        kvm_vcpu_write_tsc_offset(vcpu, compute_l1_tsc_offset(vcpu, vcpu.last_guest_tsc))\n", ""),
    Mutant("sleep-not-compensated", "kvm/model/x86/lifecycle.py",
           "            vcpu.tsc_offset_adjustment = s64(vcpu.tsc_offset_adjustment + delta)\n", ""),
    Mutant("update-work-twice-as-late", "kvm/model/x86/updates.py", "KVMCLOCK_UPDATE_DELAY_NS = 100_000_000",
           "KVMCLOCK_UPDATE_DELAY_NS = 200_000_000"),
    # ---- arm64: offsets, and who writes them
    arm64("creation-keeps-poffset", "offsets", '    await cp("kvm_timer_vcpu_init: poffset")\n    set_cell(vm, vm.poffset, 0)\n', ""),
    arm64("creation-resets-a-given-offset", "offsets", "    if vm.counter_offset:\n        return\n", ""),
    arm64("refused-creation-resets-nothing", "lifecycle", "    refused = vm.vgic\n",
          "    refused = vm.vgic\n    if id_ is not None and id_ < len(vm.vcpus):\n        unlock_vm(vm)\n        return \"EEXIST\"\n"),
    arm64("offset-of-one-counter-only", "offsets",
          '    await cp("SetCounterOffset: poffset")\n    set_cell(vm, vm.poffset, offset)\n', ""),
    arm64("offset-without-the-flag", "offsets", "    vm.counter_offset = True\n", ""),
    arm64("busy-only-in-the-guest", "offsets", "if any(vcpu.mutex for vcpu in vm.vcpus):", "if any(vcpu.in_guest for vcpu in vm.vcpus):"),
    arm64("reserved-looked-at-last", "kvm",
          '        raise KvmError("EINVAL", op, f"reserved is {op.reserved:#x}, expected 0")\n    if not await kvm_vm_ioctl_set_counter_offset(vm, u64(op.offset)):\n'
          '        raise KvmError("EBUSY", op, "a vCPU is in KVM_RUN or in another ioctl")\n',
          '        await kvm_vm_ioctl_set_counter_offset(vm, u64(op.offset))\n        raise KvmError("EINVAL", op, "reserved")\n'
          '    if not await kvm_vm_ioctl_set_counter_offset(vm, u64(op.offset)):\n        raise KvmError("EBUSY", op, "busy")\n'),
    arm64("a-given-offset-is-written-over", "offsets", "    if not vcpu.vm.counter_offset:\n        await counter_stored", "    if True:\n        await counter_stored"),
    arm64("broadcast-in-one-step", "offsets", '    for other in vm.vcpus:\n        await cp(f"update_vtimer_cntvoff: vCPU {other.index}")\n        set_cell',
          "    for other in vm.vcpus:\n        set_cell"),
    arm64("broadcast-without-the-new-one", "offsets", "        set_cell(vm, cell_of(other.timers[index]), offset)\n    set_cell(vm, cell_of(vcpu.timers[index]), offset)\n",
          "        set_cell(vm, cell_of(other.timers[index]), offset)\n"),
    arm64("l2-without-the-hosts-offset", "arch_timer", "offset = u64(offset + timer.vcpu_offset.value)", "offset = timer.vcpu_offset.value"),
    arm64("v6-value-minds-the-physical-offset", "offsets", "    await broadcast_guest_offset(vcpu, u64(kvm.phys_timer_read() - value))",
          "    await broadcast_guest_offset(vcpu, u64(kvm.phys_timer_read() - value - cell_of(ptimer(vcpu)).value))"),
    # ---- arm64: what a running vCPU has
    arm64("running-vcpu-has-the-offset-of-now", "sysregs", "return timer.hw_offset if timer.loaded else timer_get_offset(timer)", "return timer_get_offset(timer)"),
    arm64("trapped-read-with-the-loaded-offset", "sysregs", "    if by == TRAPPED:\n        return timer_get_offset(timer)\n", "    if by == TRAPPED:\n        return timer.hw_offset\n"),
    arm64("put-forgets-the-offset", "arch_timer", "        timer.cval = u64(timer.hw_cval + timer.hw_on_exit - at_load - at_exit)\n",
          "        timer.cval = timer.hw_cval\n"),
    arm64("cval-loaded-as-it-is", "arch_timer", "        timer.hw_cval = u64(timer.cval + at_load)\n", "        timer.hw_cval = timer.cval\n"),
    arm64("load-without-traps", "traps", "        program(vcpu, traps=not kvm.has_cntpoff and timer_get_offset(direct) != 0)\n", "        feel(vcpu)\n"),
    arm64("nvhe-reads-the-counter-raw", "traps", "        _world_switch(vcpu, counter_traps=vcpu.vm.poffset.value != 0)\n", "        _world_switch(vcpu, counter_traps=False)\n"),
    arm64("v2-traps-as-v1", "traps", "    if vcpu.vm.kvm.vhe:\n        program(vcpu, traps=offset)\n", "    if vcpu.vm.kvm.vhe:\n        feel(vcpu)\n"),
    arm64("preempted-and-not-put", "run", "    vcpu_put(vcpu)\n    vcpu.preempted = False\n", "    vcpu.preempted = False\n"),
    # ---- arm64: timers
    arm64("due-one-tick-late", "arch_timer", "return kvm_timer_irq_can_fire(timer) and timer.cval <= counter_now(timer)",
          "return kvm_timer_irq_can_fire(timer) and timer.cval < counter_now(timer)"),
    arm64("hardware-due-one-tick-late", "arch_timer", "return timer.hw_cval <= u64(host_counter - timer.hw_offset)", "return timer.hw_cval < u64(host_counter - timer.hw_offset)"),
    arm64("tge-forgotten", "arch_timer", "if is_virtual(timer) or timer.vcpu.in_guest:", "if True:"),
    arm64("the-fraction-is-the-hosts", "arch_timer", "    if kvm.profile.ns_frac_per_timer:\n", "    if not kvm.profile.ns_frac_per_timer:\n"),
    arm64("istatus-of-enabled-timers-only", "sysregs", "return timer.ctl | CTL_ISTATUS if delay_ns(timer, host_counter) == 0 else timer.ctl",
          "return timer.ctl | CTL_ISTATUS if timer.ctl & CTL_ENABLE and delay_ns(timer, host_counter) == 0 else timer.ctl"),
    arm64("tval-without-its-sign", "sysregs", "timer.cval = u64(counter_now(timer) + s32(value))", "timer.cval = u64(counter_now(timer) + u32(value))"),
    arm64("reset-clears-cval", "lifecycle", "        timer.ctl = 0\n", "        timer.ctl = timer.cval = 0\n"),
    arm64("hrtimer-not-started-again", "soft_timer", "        if ns != 0:\n            timer.soft_fires_ps = forwarded_ps", "        if False:\n            timer.soft_fires_ps = forwarded_ps"),
    arm64("moved-timer-forgotten", "soft_timer", "        kvm_timer_update_irq(timer, should_fire)\n    if not should_fire and", "        kvm_timer_update_irq(timer, should_fire)\n    elif not should_fire and"),
    arm64("offset-changes-before-due-callbacks", "soft_timer", "            if timer.soft_armed:\n                settle(timer)\n    cell.value = offset\n", "            pass\n    cell.value = offset\n"),
    # ---- arm64: hypercalls
    arm64("steal-counted-from-the-start", "pvtime", "    vcpu.last_steal = vcpu.run_delay\n    page = record_of(vcpu)\n", "    vcpu.last_steal = 0\n    page = record_of(vcpu)\n"),
    arm64("ptp-without-poffset", "offsets", "return vm.voffset.value if counter == VIRTUAL else vm.poffset.value", "return vm.voffset.value if counter == VIRTUAL else 0"),
    # ---- the floors below
    Mutant("cycle-counter-never-wraps", "arith/kernel.py", "    shifted = u64(cycles * mult + frac)\n", "    shifted = cycles * mult + frac\n", ARM64),
    Mutant("cycle-counter-drops-its-fraction", "arith/kernel.py", "    shifted = u64(cycles * mult + frac)\n", "    shifted = u64(cycles * mult)\n", ARM64),
    Mutant("arm64-sleeps-unmeasured", "machine/arm64.py", "        return mul_u64_u64_shr(u64(self.counter.at(woke) - self.counter.at(began)), clock.mult, clock.shift)\n",
           "        return 0\n", ("tests/machine", "tests/kvm/model/arm64/test_sleep.py")),
    Mutant("scale-delta-rounds-up", "arith/kernel.py", "    return shifted * mul >> 32", "    return shifted * mul + 2**32 - 1 >> 32",
           ("tests/arith/test_kernel_vectors.py", "tests/arith/test_kernel_against_c.py")),
    accumulation("raw-clock-slewed", "        return self.raw_snsec + delta * self.raw_mult",
                 "        return self.raw_snsec + delta * self.mono_mult"),
    accumulation("a-second-taken-back-is-told-twice", "            self.skip_second_overflow = True", "            pass"),
    accumulation("ticks-run-past-the-second", "                many = many if many < left else left\n",
                 "                many = left\n"),
    accumulation("settled-seconds-are-not-counted", "            self.ntp.seconds_pass(seconds)\n", ""),
    accumulation("leap-forgets-tai", "                self.tai_offset -= leap\n", ""),
    timekeeper("settimeofday-keeps-the-fraction",
               "            self.mono_snsec = self.mono_snsec >> shift << shift\n", ""),
    timekeeper("mirror-keeps-the-ticks-copy", "            self.shadow = None\n\n    def parted", "            pass\n\n    def parted"),
    timekeeper("injection-forgets-boottime", "        self.offs_boot_ns = as_s64(self.offs_boot_ns + ns)\n", ""),
    timekeeper("tai-is-not-mirrored", "            self.timekeeping_update(TK_MIRROR | TK_CLOCK_WAS_SET)\n        if asked",
               "            self.timekeeping_update(TK_CLOCK_WAS_SET)\n        if asked"),
    Mutant("phase-slewed-at-once", "linux/ntp.py", "return shift_right(self.time_offset, _SHIFT_PLL + self.time_constant)",
           "return self.time_offset", TIME),
    Mutant("ntp-clear-drops-the-frequency", "linux/ntp.py", "        self.time_adjust_us = 0\n        self.time_status |= STA_UNSYNC",
           "        self.time_adjust_us = self.time_freq = 0\n        self.time_status |= STA_UNSYNC", TIME),
    Mutant("raw-in-the-clock-s-own-base-time", "linux/image.py", "            base_ns=raw_sec * NSEC_PER_SEC,", "            base_ns=base_ns,", TIME),
    Mutant("vdso-shows-while-it-is-written", "linux/readout.py", "    def begin() -> None:\n        hres.seq += 1\n",
           "    def begin() -> None:\n        hres.seq += 2\n", TIME),
    Mutant("latch-written-where-it-is-read", "linux/readout.py",
           "        return self.base1 if seq & 1 else self.base0", "        return self.base0 if seq & 1 else self.base1", TIME),
    # ---- timers, watchdogs, readers
    clocks("interrupt-with-old-offsets", "linux/timers", "        self.update_base(tk)\n        fired: tuple", "        fired: tuple"),
    clocks("every-cpu-is-interrupted", "linux/timers", " for t in cpu.timers if t.clock in bases", " for t in cpu.timers"),
    clocks("overrun-counts-the-expiry-twice", "linux/timers", "            ticks += self.timer.forward(now) - 1", "            ticks += self.timer.forward(now)"),
    clocks("cancelled-for-ever", "linux/timers", "            self.moffs_ns = tk.offs_real_ns\n            self.ticks, self.expired = 0, False", "            self.ticks, self.expired = 0, False"),
    clocks("soft-lockup-in-plain-seconds", "linux/watchdogs", "        now = sched_clock_ns >> 30\n        if paused", "        now = sched_clock_ns // 1_000_000_000\n        if paused"),
    clocks("hung-at-first-sight", "linux/watchdogs", "            self.seen, self.last_switch = True, jiffies\n            return 0\n", "            self.seen = True\n"),
    clocks("rate-change-jumps", "linux/sched_clock", "        now = self.ns(tsc)\n        self.mul", "        now = 0\n        self.mul"),
    clocks("long-intervals-are-judged", "linux/selection", "        if cs_ns > INTERVAL_MAX_NS or wd_ns > INTERVAL_MAX_NS:\n            return \"skipped\"\n", ""),
    clocks("refined-beyond-1-percent", "linux/frequency", "or apart > early.khz // 100", ""),
    clocks("ticks-on-time", "linux/ticks", "            tk.advance(at)\n", "            tk.tick_until(at)\n"),
    clocks("getter-looks-once", "guest/clock_readers", "        if not retry or readout.seq == seq:", "        if True:"),
    clocks("vdso-takes-an-odd-sequence", "guest/clock_readers", "until=lambda: data.seq & 1 == 0", "until=lambda: True"),
    clocks("nmi-does-not-stop-its-cpu", "guest/clock_readers", "    await cp(label, until=cpu.goes_on)", "    await cp(label)"),
    clocks("irq-inside-a-writer", "guest/clock_readers", "until=lambda: not cpu.irqs_off and cpu.goes_on())", "until=cpu.goes_on)"),
    # ---- the explorer: orders
    engine("races-of-two-actors-back-to-back-only", "search", "                self._reverse(run, i, event)\n",
           "                if event.number == i + 1:\n                    self._reverse(run, i, event)\n"),
    engine("who-waits-has-no-races", "search", "            self._refused(run)\n", ""),
    engine("only-the-last-one-opens-a-guard", "search",
           "                for k in range(i + 1, len(events)):\n                    if events[k].writes & waiting.cells and",
           "                for k in range(i + 1, len(events)):\n                    if not events[k].writes and"),
    engine("sleepers-are-not-woken-for-another-step", "search", "            self._wakers(run)\n", ""),
    engine("sleep-set-not-filtered", "search", "if q != node.chosen and apart(f, node.footprint)}", "if q != node.chosen}"),
    engine("reads-do-not-race-with-later-writes", "search", "return not (f[1] & g[1] or f[1] & g[0] or f[0] & g[1])",
           "return not (f[1] & g[1] or f[1] & g[0])"),
    engine("second-branch-dropped", "search", "            if node.forks:\n                fork = node.forks[-1]",
           "            if node.forks and len(self.path) < 3:\n                fork = node.forks[-1]"),
    engine("same-form-written-is-a-read", "run", "same = old is value or (type(old) is type(value) and type(value) in _CONCRETE and old == value)",
           "same = old is value or type(old) is type(value)"),
    engine("guard-reads-nothing", "run", "        event.reads |= actor.cells\n", ""),
    engine("readers-do-not-order-a-write", "run", "            for reader in self._last_reads.get(cell, ()):\n                before |= 1 << reader\n", ""),
    engine("children-of-one-name-are-one", "run", "        while unique in self.born:", "        while unique in self.waiting:"),
    # ---- the explorer: time
    engine("order-row-dropped", "run",
           "                event.past |= self.events[number].past | 1 << number\n                self._later(event.start, self.events[number].end)\n\n",
           "                event.past |= self.events[number].past | 1 << number\n\n"),
    engine("section-row-too-tight", "run", "self.nodes[event.start], self.bounds.section)", "self.nodes[event.start], self.bounds.section // 2)"),
    engine("section-row-dropped", "run", "        self.differences.at_most(self.nodes[symbol], self.nodes[event.start], self.bounds.section)\n", ""),
    engine("delay-row-dropped", "run", "        elif until is None:\n            at_most(node, since, limit)", "        elif until is None:\n            pass"),
    engine("timer-may-be-early", "run", "            at_most(last, node, -units)\n", ""),
    engine("time-out-without-end", "run", "            at_most(node, last, limit + self.units(delay_ps))\n            since = -1\n", "            since = -1\n"),
    engine("first-cause-bounds-the-wait", "run", "            if len(latest) != 1:", "            if not latest:"),
    engine("closure-one-way", "times", "            np.minimum(d, through, out=d)\n", ""),
    engine("bounds-through-origin-too-short", "times", "best[x] = zero + horizon", "best[x] = zero + horizon // 2"),
    # ---- the explorer: whole numbers and certificates
    engine("floor-interval-rounded-up", "judge", "        self.name_floor(name, argument, whole, (lo // whole, hi // whole))",
           "        self.name_floor(name, argument, whole, (-(-lo // whole), hi // whole))"),
    engine("floor-difference-too-narrow", "judge", "return lo // whole, -(-hi // whole)", "return lo // whole, hi // whole"),
    engine("facts-of-the-other-sign", "judge", "        if g < 0:\n            lo, hi = hi, lo\n        least =", "        least ="),
    engine("less-than-is-at-most", "judge", "self._fork([(True, (whole,)), (False, (1 - whole,))])", "self._fork([(True, (whole,)), (False, (2 - whole,))])"),
    engine("wrap-forgets-the-last-turn", "judge", "max(first, last) + 1), key=abs)", "max(first, last)) or (first,), key=abs)"),
    engine("remainder-one-short", "system", "system.box[rest] = 0, n - 1", "system.box[rest] = 0, n - 2"),
    engine("floors-fall", "system", "self._add(Form({y: 1, x: -1}, least))", "self._add(Form({y: 1, x: -1}, least + 1))"),
    engine("needed-rows-dropped", "system", "keep = off < FAR if fixed.any() else", "keep = (off < 0) if fixed.any() else"),
    engine("certificate-trusts-the-float", "exact", "return Optimum(upper, float(program.value(objective, point)), program.rounded(point))",
           "return Optimum(program.value(objective, point), float(program.value(objective, point)), program.rounded(point))"),
    engine("any-infeasibility-is-proved", "exact", "        return const - self._most({s: -c for s, c in left.items()}) > 0", "        return True"),
    engine("bound-at-the-lower-end", "exact", "total += c * (self.low[at] + self.width[at] if c > 0 else self.low[at])",
           "total += c * (self.low[at] + self.width[at])"),
    engine("unknown-status-is-infeasible", "exact",
           "            if status == highspy.HighsModelStatus.kInfeasible and best is None:\n",
           "            if status != highspy.HighsModelStatus.kOptimal and best is None:\n"),
    engine("each-last-forgets-one", "leaf", "        for last in causes:\n", "        for last in causes[1:]:\n"),
    engine("floors-of-unlike-divisors-are-alike", "judge", "of_x is None or of_y is None or not _divides(of_x[1], of_y[1])", "of_x is None or of_y is None"),
    engine("finer-floors-are-not-scaled", "judge", "of_x[0] * (whole // of_x[1]) - of_y[0] * (whole // of_y[1])", "of_x[0] - of_y[0]"),
    engine("shifts-in-shifts-lose-a-factor", "judge", "within + (argument - Form.of(inner)) * n, n * whole", "within + (argument - Form.of(inner)), n * whole"),
    engine("an-onlooker-is-a-cause", "run", "        if event.number < len(self.events):\n            return  #", "        if False:\n            return  #"),
    # ---- the freeze protocol: the guest's part, and what is asked of its worlds
    freeze("frozen-at-the-stop-of-nobody", "guest/freeze.py", "        tk.forward_now(record.stop_cycles)\n", "        tk.forward_now(tk.cycle_last)\n"),
    freeze("abort-changes-the-counter", "guest/freeze.py", "    if record.status == MIGRATED:\n        tk.rebase", "    if record.status in (MIGRATED, SAME_HOST):\n        tk.rebase"),
    freeze("downtime-for-monotonic-too", "guest/freeze.py", "    elif record.status == MIGRATED:\n        tk.mono_snsec", "    if record.status == MIGRATED:\n        tk.mono_snsec"),
    freeze("abort-forgets-ntp", "guest/freeze.py", "moved = record.status == MIGRATED or rules.ntp_at_freeze", "moved = True"),
    freeze("frequency-of-the-old-crystal", "guest/freeze.py", "            tk.ntp.time_freq = 0  #", "            tk.ntp.time_freq = tk.ntp.time_freq  #"),
    freeze("two-hosts-are-not-counted", "checks/freeze/faults.py", "            self.outcome.split += 1\n", "            pass\n"),
    freeze("loads-what-was-never-sent", "checks/freeze/fault_states.py", "self.content, self.rate, self.armed, self.timer_rate = of.content,", "self.content, self.rate, self.armed, self.timer_rate = 0,"),
    freeze("nobody-is-ever-fenced-here", "checks/freeze/mishaps.py", "        here.alive = here.runs0 = here.runs1 = False\n    await cp(\"lets the target", "        pass\n    await cp(\"lets the target"),
    freeze("generations-are-all-counted-once", "checks/freeze/restores.py", "numbers.count(number) > 1", "numbers.count(number) > 9"),
    freeze("reader-that-does-not-retry", "checks/freeze/clocks.py", "            await cp(f\"{kind} returns\", until=lambda: vm.runs1)\n            if line.seq == seq:\n", "            await cp(f\"{kind} returns\", until=lambda: vm.runs1)\n            if True:\n"),

    # ---- suspend time: what was posted, what we would do, and what is asked of its worlds
    suspend("whole-milliseconds-are-whole", "kvm/model/x86/suspend_time.py", "cycles = kvm.machine.cpu_khz(vcpu.on_cpu) * (more // NS_PER_MS)", "cycles = kvm.machine.cpu_khz(vcpu.on_cpu) * more // NS_PER_MS"),
    suspend("post-clears-every-request", "kvm/model/x86/suspend_time.py", "                    if cls.total(vm) == vcpu.suspend_time_ns:\n", "                    if True:\n"),
    suspend("a-cleared-msr-is-heeded", "kvm/model/x86/suspend_time.py", "        if not data & KVM_MSR_ENABLED:  # concrete: a flag\n            return True\n        told.msr = data\n", "        if not data & KVM_MSR_ENABLED:  # concrete: a flag\n            told.page = None\n            return True\n        told.msr = data\n"),
    suspend("kvmclock-from-the-base-clock", "kvm/model/x86/suspend_corrected.py", "    if vm.use_master_clock:\n        return kvm.profile.guest_kvmclock", "    if False:\n        return kvm.profile.guest_kvmclock"),
    suspend("compensated-twice", "kvm/model/x86/suspend_corrected.py", "            vcpu.tsc_offset_adjustment = 0\n", ""),
    suspend("books-of-tsc-writes-stay", "kvm/model/x86/suspend_corrected.py", "                vm.cur_tsc_offset = u64(vm.cur_tsc_offset + back)\n", ""),
    suspend("the-gate-opens-for-an-old-epoch", "kvm/model/x86/suspend_corrected.py", "        if told.gates != gates:\n            return False\n", ""),
    suspend("lost-interrupts-stay-lost", "kvm/model/x86/suspend_corrected.py", "and not told.gate and not vcpu.suspend_irq:\n            interrupt(vcpu)\n", "and not told.gate and not vcpu.suspend_irq:\n            pass\n"),
    suspend("gate-of-arm64-opens-at-once", "kvm/model/arm64/sleep_gate.py", "            told.over = told.gate\n", "            told.over, told.gate = told.gate, False\n"),
    suspend("stop-of-arm64-is-the-notifier's", "kvm/model/arm64/sleep_gate.py", "        if told.gate:\n            cls._stopped(vcpu.vm)\n", "        if told.gate:\n            pass\n"),
    suspend("tells-before-it-puts-back", "checks/suspend/vmm.py", "        await self.out()\n        stop = await self.stamp()\n        course.agreed", "        stop = await self.stamp()\n        await self.out()\n        course.agreed"),
    suspend("takes-raw-for-boottime", "checks/suspend/detect.py", "hidden_ns = now.offs_boot_ns - shared.offs_boot_ns", "hidden_ns = now.raw_ns - was.raw_ns"),
    suspend("injects-what-it-slept-itself", "guest/suspend_time.py", "        if page is None or guest.asleep or page.epoch == guest.epoch:\n", "        if page is None or page.epoch == guest.epoch:\n"),
    suspend("every-epoch-is-a-new-one", "guest/suspend_time.py", "        if page is None or guest.asleep or page.epoch == guest.epoch:\n", "        if page is None or guest.asleep:\n"),
    # ---- recorded traces
    recorded("sandwiches-that-touch-are-in-order", "order", 'np.searchsorted(stairs.ends, starts, "left") - 1', 'np.searchsorted(stairs.ends, starts, "right") - 1'),
    recorded("last-reading-instead-of-the-greatest", "order", "greatest = np.maximum.accumulate(values)", "greatest = values"),
    recorded("sandwiches-are-no-tolerance", "rate", "slewed(before, allowed.freq_ppm), moved - slewed(after, allowed.freq_ppm)", "slewed(before, allowed.freq_ppm), moved - slewed(before, allowed.freq_ppm)"),
    recorded("slow-clocks-are-not-looked-for", "rate", "-(most + wide_before), -(least + wide_after)", "-(most + wide_before), -(least + wide_after) + 10**12"),
    recorded("a-sleeping-machine-ticks", "rate", "part_of(pauses, allowed.step_ppm)", "part_of(pauses, 0.0)"),
    recorded("a-nanosecond-back-is-nothing", "monotone", "if steps.min() < 0:", "if steps.min() < -1:"),
    recorded("offsets-of-each-reading-alone", "offsets", "low = np.maximum.accumulate(found.low[part] - total)", "low = found.low[part] - total - 10**7"),
    recorded("offsets-forget-how-low-they-were", "offsets", "steps.low = max(steps.low, int(low[count - 1]))", "steps.low = int(I64.min)"),
    recorded("counter-may-begin-in-the-last-sandwich", "holes", "block.c0[rows[1:]] - block.c1[rows[:-1]]", "block.c1[rows[1:]] - block.c1[rows[:-1]]"),
    recorded("timers-may-be-a-little-early", "timers", "if early > 0:", "if early > 2 * 10**6:"),
    recorded("entries-ahead-of-their-vm", "protocol", "if own != vm:", "if own > vm:"),
]  # fmt: skip
