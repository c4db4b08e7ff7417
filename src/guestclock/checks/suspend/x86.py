"""x86 in the suspend thread's worlds: one TSC per vCPU, a kvmclock page, an RTC that may err."""

from __future__ import annotations

from typing import Any, NamedTuple

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.arith import u64
from guestclock.checks.spec import Site
from guestclock.checks.suspend.architecture import Architecture, Counter, Seen
from guestclock.checks.suspend.machine import Sleeping
from guestclock.checks.suspend.setting import Outcome, Setting
from guestclock.checks.x86.host import ExploredTimers, ExploredX86Machine
from guestclock.checks.x86.windows import kvmclock_by
from guestclock.explore.world import World
from guestclock.guest.suspend_time import FIRST_REALTIME_NS
from guestclock.kvm import api
from guestclock.kvm.model import lookup
from guestclock.kvm.model.x86 import KvmOptions, X86Kvm
from guestclock.kvm.model.x86.kvmclock import KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME
from guestclock.kvm.model.x86.state import VcpuTime, VmTime
from guestclock.kvm.model.x86.suspend_corrected import SuspendGate
from guestclock.kvm.model.x86.suspend_time import VmSuspend, interrupt, pages_of
from guestclock.kvm.model.x86.timers import KernelTimers
from guestclock.kvm.model.x86.tsc import guest_tsc, rdtsc
from guestclock.linux.clocksource import Clocksource, clocksource
from guestclock.sim import PS_PER_NS, cp


class SleepingX86(Sleeping, ExploredX86Machine):
    """How long it slept, an RTC says: it may err by as much as the night allows it."""

    def __init__(self, world: World, outcome: Outcome) -> None:
        setting = outcome.setting
        scaling = setting.scaling if setting.khz else ""
        ExploredX86Machine.__init__(self, world, Site(khz=setting.host_khz, slew_ppm=0, scaling=scaling))
        self.outcome = outcome

    def raw_and_slept_ns(self, cpu: int = 0) -> Any:
        return self.get_kvmclock_base_ns("raw", cpu)

    def _nonstop_ns(self, began: int, woke: int) -> Any:
        """S', as the host believes it: the true length, and the RTC's error."""
        error = self.night.rtc_error_ns
        wrong = self.world.unknown(f"error of sleep {len(self.outcome.sleeps)}", -error, error) if error else 0
        self.outcome.errors.append(wrong)
        return (woke - began) // PS_PER_NS + wrong


class Stamp(NamedTuple):
    """One instant: host TSC (cycles), the host's BOOTTIME and the guest's kvmclock (ns), each vCPU's TSC offset."""

    tsc: Any
    boot_ns: Any
    clock_ns: Any
    offsets: tuple[Any, ...]


class X86(Architecture):
    unit = "cycles"
    clock_counter = "TSC"
    vdso_guards = True

    # ---- the host

    def machine(self, world: World, outcome: Outcome) -> SleepingX86:
        return SleepingX86(world, outcome)

    def kvm(self, world: World, outcome: Outcome) -> X86Kvm:
        machine, profile = outcome.machine, lookup(outcome.setting.kernel)
        kvm = X86Kvm(machine, profile, world, None, KvmOptions(kvmclock_periodic_sync=False))
        kvm.host.timers = ExploredTimers(KernelTimers(machine, profile, 0), works=False)
        kvm.host.mutex_patience_ps = None
        return kvm

    # ---- the guest

    def clocksource(self, setting: Setting) -> Clocksource:
        return clocksource(setting.clock, tsc_khz=setting.guest_khz)

    def cycles(self, stage: Any, vcpu: VcpuTime) -> Any:
        return self._clock(stage, vcpu, guest_tsc(vcpu, rdtsc(vcpu)))

    def cycles_at_exit(self, stage: Any, vcpu: VcpuTime) -> Any:
        return self._clock(stage, vcpu, vcpu.left_guest_tsc)

    @staticmethod
    def _clock(stage: Any, vcpu: VcpuTime, tsc: Any) -> Any:
        return tsc if stage.setting.clock == "tsc" else kvmclock_by(vcpu.pv_time.copy(), tsc)

    def made_of(self, vcpu: VcpuTime) -> tuple[Any, ...]:
        page = vcpu.pv_time
        return vcpu.tsc_offset, None if page is None else page.version

    def same(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
        return one[0] is other[0] and bool(one[1] == other[1])

    def seen(self, outcome: Outcome, vcpu: VcpuTime) -> Seen:
        host, ratio, offset, page = outcome.kvm.host, vcpu.tsc_scaling_ratio, vcpu.tsc_offset, vcpu.pv_time
        line = outcome.machine.counter.line()
        counter = Counter("TSC", offset, lambda ps: u64(host.scale(line(ps), ratio) + offset))
        return Seen((counter,), None if page is None else page.copy())

    def persistent_ns(self, stage: Any) -> Any:
        """The guest's RTC: it was right when the guest booted, and keeps true time."""
        return FIRST_REALTIME_NS + (stage.world.read_ps() - stage.booted_ps) // PS_PER_NS

    def nonstop_ns(self, stage: Any, began: Any, woke: Any) -> Any:
        return 0

    def measures_sleep(self, setting: Setting) -> bool:
        """An RTC does."""
        return True

    def records(self, vm: VmTime) -> Any:
        return None if vm.suspend is None else pages_of(vm)

    def idle(self, vcpu: VcpuTime) -> bool:
        return vcpu.halted

    def spins(self, vcpu: VcpuTime) -> bool:
        outside = vcpu.mutex and not vcpu.kicked and not vcpu.in_guest
        return outside and bool(vcpu.vm.kvm.profile.suspend_time.spins(vcpu))

    # ---- the VMM

    async def vcpu_made(self, stage: Any, i: int) -> None:
        if stage.setting.khz:
            await stage.execute(api.SetTscKhz(0, stage.setting.khz, i))

    async def set_up(self, stage: Any) -> None:
        """The guest's pages; each vCPU runs until they are as they will stay."""
        setting = stage.setting
        for i in range(setting.vcpus):
            await self.plugged(stage, i)
        for _ in range(2 if setting.has_page else 1):
            for i in range(setting.vcpus):
                await stage.execute(api.Run(0, i, ()))

    async def plugged(self, stage: Any, i: int) -> None:
        if stage.setting.has_page:
            await stage.execute(api.EnableKvmclock(0, i))

    def starts(self, stage: Any, vcpu: VcpuTime) -> None:
        vcpu.halted = vcpu.index in stage.setting.halted
        vcpu.apic_enabled = vcpu.index not in stage.setting.apic_off

    def interrupt(self, vcpu: VcpuTime) -> None:
        interrupt(vcpu)

    async def stamp(self, vmm: Any) -> Stamp:
        """kvmclock comes with a host TSC of its own: the others are reckoned back to it.

        The offsets must be read now: after a TSC that began anew, KVM's own compensation is in them.
        """
        execute = vmm.stage.execute
        offsets = tuple([await execute(api.GetTscOffset(0, i)) for i in vmm.vcpus])
        clock = await execute(api.GetClock(0))
        tsc, boot_ns, _ = await _now(vmm.stage.machine)
        if clock.flags & KVM_CLOCK_HOST_TSC:
            boot_ns = boot_ns - (tsc - clock.host_tsc) * 1_000_000 // vmm.stage.setting.host_khz
            tsc = clock.host_tsc
        return Stamp(tsc, boot_ns, clock.clock_ns, offsets)

    async def put_back(self, vmm: Any, stop: Stamp) -> Any:
        """As of one reading of the host's clocks."""
        execute = vmm.stage.execute
        tsc, boot_ns, realtime_ns = await _now(vmm.stage.machine)
        for i in vmm.vcpus:
            vcpu = vmm.stage.vm.vcpus[i]
            back = guest_cycles(vcpu, stop.tsc) - guest_cycles(vcpu, tsc)
            await execute(api.SetTscOffset(0, i, u64(stop.offsets[i] + back)))
        # With a REALTIME the kernel moves the clock on by what has passed since the reading above.
        await execute(api.SetClock(0, stop.clock_ns, KVM_CLOCK_REALTIME, realtime_ns))
        return boot_ns - stop.boot_ns

    def stopped_at(self, stage: Any) -> Stamp:
        told: VmSuspend = stage.vm.suspend
        offsets = tuple(vcpu.suspend_stop_offset for vcpu in stage.vm.vcpus)
        return Stamp(told.stop_tsc, told.stop_base_ns, told.stop_clock_ns, offsets)

    def acknowledged(self, vm: VmTime, gates: int) -> bool:
        return SuspendGate.acknowledged(vm, gates)

    async def move(self, stage: Any) -> None:
        """By offsets, KVM_SET_CLOCK, MSRs and guest memory."""
        old, setting, execute = stage.vm, stage.setting, stage.execute
        for i in range(setting.vcpus):
            await execute(api.Kick(0, i))
        clock = await execute(api.GetClock(0))
        new = await execute(api.CreateVm())
        for i in range(setting.vcpus):
            await execute(api.CreateVcpu(new))
            await execute(api.SetTscOffset(new, i, old.vcpus[i].l1_tsc_offset))
        await execute(api.SetClock(new, clock.clock_ns))
        rule = stage.kvm.host.profile.suspend_time
        if rule.msr:
            told = stage.vm.suspend
            told.pages = old.suspend.pages  # guest memory
            rule.set_msr(stage.vm.vcpus[0], old.suspend.msr, by_host=True)
            stage.guest.page = told.page
            old.suspend.page, old.suspend.msr = None, 0  # the VM here is no more

    async def look(self, stage: Any) -> None:
        execute, outcome, world = stage.execute, stage.outcome, stage.world
        await execute(api.Kick(0, 0))
        try:
            tsc = await execute(api.GetMsr(0, 0, MSR_IA32_TSC))
        except api.KvmError:
            outcome.reached.add("refused")
            await stage.start(0)
            return
        outcome.looked.append((tsc, world.latest, len(world.events)))
        outcome.reached.add("looked")
        await stage.start(0)


def guest_cycles(vcpu: VcpuTime, host_tsc: Any) -> Any:
    """A host's TSC as the guest's without its offset: debugfs has the ratio (tsc-scaling-ratio), no ioctl has."""
    return vcpu.vm.kvm.scale(host_tsc, vcpu.l1_tsc_scaling_ratio)


async def _now(machine: Any) -> tuple[Any, Any, Any]:
    """(host TSC, BOOTTIME, REALTIME), sandwiched: read apart from each other they are as far off as the VMM is slow."""
    await cp("rdtsc, clock_gettime, rdtsc", until=machine.tasks_run)
    boot_ns, tsc = machine.get_time_and_clockread()
    return tsc, boot_ns, machine.ktime_get_real_ns()
