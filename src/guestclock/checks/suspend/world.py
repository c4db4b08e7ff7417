"""The world of a case: a host that sleeps, KVM on it, a VMM, a guest with its timekeeper, and who acts in it.

Actors: "host" (whoever closes the lid, and the kernel's suspend path), "VMM", KVM's own threads, and the guest: one
handler of interrupts per vCPU, its ticks, its own suspend. Readers need not act (checks.suspend.views).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.checks.spec import Site
from guestclock.checks.suspend.setting import (
    KHZ,
    TICK_NS,
    TICKED_NS,
    Night,
    Outcome,
    S,
    Setting,
)
from guestclock.checks.suspend.views import Tracker
from guestclock.checks.suspend.vmm import VMMS, Course
from guestclock.checks.x86.host import ExploredTimers, ExploredX86Machine
from guestclock.checks.x86.windows import kvmclock_by
from guestclock.explore.world import Between, World
from guestclock.guest.suspend_time import FIRST_REALTIME_NS, GuestLinux, GuestTimekeeper
from guestclock.kvm import api
from guestclock.kvm.model import lookup
from guestclock.kvm.model.x86 import KvmOptions, X86Kvm
from guestclock.kvm.model.x86.state import VcpuTime
from guestclock.kvm.model.x86.timers import KernelTimers
from guestclock.kvm.model.x86.tsc import guest_tsc, rdtsc
from guestclock.linux.clocksource import clocksource
from guestclock.machine.machine import Machine
from guestclock.sim import PS_PER_NS, cp

GPA = 0x5000


class SleepingMachine(ExploredX86Machine):
    """A host under unknown times that sleeps: its MONOTONIC runs as its RAW (nobody steers it), and stops with it."""

    night: Night
    before_sleep: Callable[[], None]

    def __init__(self, world: World, outcome: Outcome) -> None:
        super().__init__(world, Site(khz=KHZ, slew_ppm=0, scaling="svm" if outcome.setting.khz else ""))
        self.outcome = outcome

    async def sleep(self, ns: int, tsc: str = "running", kind: str = "s3", aborted_at: str = "") -> None:
        await Machine.sleep(self, ns, tsc, kind, aborted_at)

    def ktime_get_ns(self, cpu: int = 0) -> Any:
        return super().get_kvmclock_base_ns("raw", cpu) - self.timekeeper.offs_boot_ns

    def ktime_get_boottime_ns(self, cpu: int = 0) -> Any:
        return super().get_kvmclock_base_ns("raw", cpu)

    def _sleep_ps(self, ns: int) -> int:
        return Between.of(self.night.least_ns * PS_PER_NS, self.night.most_ns * PS_PER_NS)

    def _suspend(self) -> int:
        self.before_sleep()
        began = Machine._suspend(self)
        self._began = self.world.latest
        return began

    def _resume(self, began: int, woke: int) -> None:
        self.outcome.sleeps.append((self._began, self.world.latest))
        Machine._resume(self, began, woke)

    def _persistent_ns(self, ps: int) -> int:
        """None: how long it slept is told by _nonstop_ns alone, the RTC's error with it."""
        return 0

    def _nonstop_ns(self, began: int, woke: int) -> Any:
        """S', as the host believes it: the true length, and the RTC's error."""
        error = self.night.rtc_error_ns
        wrong = self.world.unknown(f"error of sleep {len(self.outcome.sleeps)}", -error, error) if error else 0
        self.outcome.errors.append(wrong)
        return (woke - began) // PS_PER_NS + wrong


class Stage:
    """Everything of one case, put together."""

    def __init__(self, setting: Setting, world: World) -> None:
        self.setting, self.world = setting, world
        self.outcome = outcome = Outcome(setting, world, None, GuestLinux(told=setting.handler))
        self.machine = machine = SleepingMachine(world, outcome)
        profile = lookup(setting.kernel)
        self.kvm = outcome.kvm = X86Kvm(machine, profile, world, None, KvmOptions(kvmclock_periodic_sync=False))
        self.kvm.host.timers = ExploredTimers(KernelTimers(machine, profile, 0), works=False)
        self.kvm.host.mutex_patience_ps = None
        self.guest = outcome.guest
        self.course = Course()
        self.ticked_at_exit = 0
        self.vmm = VMMS[setting.vmm](self) if setting.vmm else None
        outcome.tracker = Tracker(outcome, self.applied)
        machine.before_sleep = self.last_tick
        world.spawn("VMM", self.run_vmm())
        world.spawn("host", self.run_host())

    @property
    def vm(self) -> Any:
        """The guest's, wherever it is by now."""
        return self.kvm.host.vms[-1]

    def applied(self, vcpu: VcpuTime) -> bool:
        """Whether this vCPU's counter is of the VM's latest epoch: where nobody moves counters, only before a sleep."""
        if self.vmm is not None:
            return not self.vmm.moves_counters or self.vmm.adjusted >= len(self.outcome.sleeps)
        rule = self.kvm.host.profile.suspend_time
        return bool(rule.applied(vcpu)) if rule.msr else not self.outcome.sleeps

    # ---- the VMM

    async def execute(self, op: Any) -> Any:
        return await self.kvm.execute(op)

    async def run_vmm(self) -> None:
        setting, course = self.setting, self.course
        await self.boot()
        course.alive = True
        if self.vmm is not None:
            await self.vmm.run()
        if setting.hotplug == "after":
            await cp("the host has slept", until=lambda: course.nights >= 1)
            await self.plug_in()
        elif setting.hotplug == "around":
            await cp("the host is about to sleep", until=lambda: course.asked >= 1)
            await self.plug_in()
        if setting.paused >= 0:
            await cp("the paused vCPU goes on", until=lambda: course.nights == len(setting.nights))
            await self.start(setting.paused)
        if setting.moved:
            await cp("management moves the VM", until=lambda: course.moving)
            await self.move()
        if setting.looks:
            await cp("tasks run again", until=lambda: course.slept >= 1 and self.machine.tasks_run())
            await self.look()
        await cp("the last night is over", until=lambda: course.nights == len(setting.nights))
        course.quiet = True
        self.outcome.finished = True

    async def boot(self) -> None:
        setting = self.setting
        vm = await self.execute(api.CreateVm())
        for i in range(setting.vcpus):
            await self.execute(api.CreateVcpu(vm))
            if setting.khz:
                await self.execute(api.SetTscKhz(vm, i, setting.khz))
        for i in range(setting.vcpus):
            if setting.has_page:
                await self.execute(api.EnableKvmclock(vm, i))
        for _ in range(2 if setting.has_page else 1):
            for i in range(setting.vcpus):
                await self.execute(api.Run(vm, i, ()))
        await self.guest_boots()
        if setting.registers == "boot":
            await self.register()
        for i in range(setting.vcpus):
            if i != setting.paused:
                await self.start(i)

    async def start(self, i: int) -> None:
        self.vm.vcpus[i].halted = i in self.setting.halted
        self.vm.vcpus[i].apic_enabled = i not in self.setting.apic_off
        await self.execute(api.Start(self.vm.id, i))

    async def guest_boots(self) -> None:
        """The guest's kernel takes its clocksource, and sets its clocks: MONOTONIC and BOOTTIME are the same."""
        await cp("the guest boots")
        khz = self.setting.khz or KHZ
        clock = clocksource(self.setting.clock, tsc_khz=khz)
        self.booted_ps = self.world.read_ps()
        first: VcpuTime = self.vm.vcpus[0]
        self.guest.tk = GuestTimekeeper.booted(clock, self.cycles(first))
        for i in range(self.setting.most_vcpus):
            self.world.spawn(f"vCPU {i} interrupts", self.interrupts(i), daemon=True)
        if self.setting.handler.ticks:
            self.world.spawn("ticks", self.ticks(), daemon=True)

    async def register(self) -> None:
        """The guest's kernel writes the MSR on vCPU 0, where it has one; a VMM's own record needs none."""
        await cp("the guest registers")
        self.register_now()

    def register_now(self, gpa: int = GPA) -> None:
        rule = self.kvm.host.profile.suspend_time
        if self.vmm is not None:
            self.guest.told.register(self.guest, self.vmm.page)
        elif self.guest.told.msr_written and rule.msr:
            rule.set_msr(self.vm.vcpus[0], gpa | 1, by_host=False)
            self.guest.told.register(self.guest, self.vm.suspend.page)

    async def apic_on(self) -> None:
        """The guest turns its local APICs on; a vCPU that is in the guest leaves it for that."""
        await cp("the guest turns its local APIC on", until=self.running)
        for vcpu in self.vm.vcpus:
            vcpu.apic_enabled = True
            vcpu.ipi = True
        self.outcome.reached.add("interrupts were lost")

    async def plug_in(self) -> None:
        """One more vCPU, given its clocks as the others were, and started."""
        i = await self.execute(api.CreateVcpu(0))
        if self.setting.has_page:
            await self.execute(api.EnableKvmclock(0, i))
        await self.start(i)
        self.outcome.reached.add("a vCPU was plugged in")

    async def move(self) -> None:
        """To another KVM on a host that is just like this one, by offsets, KVM_SET_CLOCK, MSRs and guest memory."""
        old = self.vm
        await cp("the guest is done with the first sleep", until=self.settled)
        for i in range(self.setting.vcpus):
            await self.execute(api.Kick(0, i))
        clock = await self.execute(api.GetClock(0))
        new = await self.execute(api.CreateVm())
        for i in range(self.setting.vcpus):
            await self.execute(api.CreateVcpu(new))
            await self.execute(api.SetTscOffset(new, i, old.vcpus[i].l1_tsc_offset))
        await self.execute(api.SetClock(new, clock.clock_ns))
        rule = self.kvm.host.profile.suspend_time
        if rule.msr:
            told = self.vm.suspend
            told.pages = old.suspend.pages  # guest memory
            rule.set_msr(self.vm.vcpus[0], old.suspend.msr, by_host=True)
            self.guest.page = told.page
            old.suspend.page, old.suspend.msr = None, 0  # the VM here is no more
        for i in range(self.setting.vcpus):
            await self.start(i)
        self.ticked_at_exit = self.outcome.tracker.exits(0)
        self.course.moved = True
        self.outcome.reached.add("the VM was moved")

    async def look(self) -> None:
        """The VMM takes down a vCPU's TSC as for a snapshot, whether or not the guest has run since."""
        await self.execute(api.Kick(0, 0))
        try:
            tsc = await self.execute(api.GetMsr(0, 0, MSR_IA32_TSC))
        except api.KvmError:
            self.outcome.reached.add("refused")
            await self.start(0)
            return
        self.outcome.looked.append((tsc, self.world.latest, len(self.world.events)))
        self.outcome.reached.add("looked")
        await self.start(0)

    # ---- the host

    async def run_host(self) -> None:
        setting, course, machine = self.setting, self.course, self.machine
        await cp("the guest is not up yet", until=lambda: course.alive and self.running())
        for number, night in enumerate(setting.nights):
            machine.night = night
            if number:
                await cp("the guest goes on", until=lambda: self.running() and self.settled())
            await cp("the lid is closed", delay_ps=Between.of(S * PS_PER_NS, S * PS_PER_NS))
            if setting.guest_asleep:
                await self.guest_suspends()
            course.asked = number + 1
            if self.vmm is not None and self.vmm.inhibits and not setting.uninformed:
                await cp("inhibitors", until=lambda number=number: course.agreed > number)  # type: ignore[misc]
            await machine.sleep(0, night.tsc, night.kind, night.aborted_at)
            course.slept = number + 1
            if setting.guest_asleep:
                await self.guest_resumes()
            if setting.apic_off:
                await self.apic_on()
            if setting.moved and number == 0:
                course.moving = True
                await cp("the VM is moved", until=lambda: course.moved)
            if setting.registers == "late" and number == 0:
                await cp("the guest loads its driver", until=lambda: self.running())
                self.register_now()
            course.nights = number + 1
            if setting.reboots and number == 0:
                await self.guest_reboots()
        self.outcome.reached.add("the host has slept" if self.outcome.sleeps else "the host did not sleep")

    def running(self) -> bool:
        """Every vCPU that is neither halted nor paused is in the guest."""
        vms, setting = self.kvm.host.vms, self.setting
        return (
            bool(vms)
            and len(vms[-1].vcpus) >= setting.vcpus
            and all(v.in_guest for v in vms[-1].vcpus if not v.halted and v.index != setting.paused)
        )

    # ---- the guest

    def cycles(self, vcpu: VcpuTime, tsc: Any = None) -> Any:
        """The guest's clocksource on a vCPU: now, or at a value of its TSC."""
        if tsc is None:
            tsc = guest_tsc(vcpu, rdtsc(vcpu))
        if self.setting.clock == "tsc":
            return tsc
        return kvmclock_by(vcpu.pv_time.copy(), tsc)

    def last_tick(self) -> None:
        """Where the guest's last tick before the sleep was: up to TICK_NS before vCPU 0 left the guest (a contract)."""
        if self.guest.tk is None or self.guest.asleep or self.outcome.tracker.exits(0) <= self.ticked_at_exit:
            return
        first: VcpuTime = self.vm.vcpus[0]
        name = f"age of the last tick before sleep {len(self.outcome.sleeps)}"
        age = self.world.unknown(name, self.own_cycles(TICKED_NS), self.own_cycles(TICK_NS))
        self.guest.tk.tick(self.cycles(first, first.left_guest_tsc) - age)
        self.guest.version = self.guest.version + 1
        self.ticked_at_exit = self.outcome.tracker.exits(0)
        self.outcome.contracts.add("the guest's last tick lies up to 4 ms before it was stopped")

    def own_cycles(self, ns: int) -> int:
        """ns in units of the guest's clocksource."""
        return ns if self.setting.clock == "kvm-clock" else ns * (self.setting.khz or KHZ) // 1_000_000

    async def interrupts(self, i: int) -> None:
        """The interrupt about suspend time, taken when vCPU i runs with interrupts on."""
        guest = self.guest

        def due() -> bool:
            vms = self.kvm.host.vms
            if not vms or i >= len(vms[-1].vcpus):
                return False
            vcpu: VcpuTime = vms[-1].vcpus[i]
            return vcpu.in_guest and vcpu.suspend_irq and not guest.asleep

        while True:
            await cp("interrupt pending", until=due)
            vcpu: VcpuTime = self.vm.vcpus[i]
            vcpu.suspend_irq = False
            before = guest.injections
            guest.told.interrupt(guest, self.cycles(vcpu))
            if guest.injections != before:
                self.outcome.reached.add("injected")
            if self.setting.twice and guest.injections == before + 1:
                vcpu.suspend_irq = True

    async def ticks(self) -> None:
        """Ticks that have something to do: v1 compares at each, v2's injection waits for one."""
        guest = self.guest

        def due() -> bool:
            vms = self.kvm.host.vms
            runs = bool(vms) and bool(vms[-1].vcpus) and vms[-1].vcpus[0].in_guest and not guest.asleep
            return runs and guest.told.tick_has_work(guest)

        while True:
            await cp("tick", until=due)
            before = guest.injections
            guest.told.tick(guest, self.cycles(self.vm.vcpus[0]))
            if guest.injections != before:
                self.outcome.reached.add("injected")

    async def guest_suspends(self) -> None:
        """The guest's own suspend (S3, s2idle): its RTC is the host's, and keeps true time."""
        await cp("the guest suspends itself", until=lambda: self.vm.vcpus[0].in_guest)
        first: VcpuTime = self.vm.vcpus[0]
        self.guest.tk.suspend(self.cycles(first), self.rtc_ns())
        self.guest.asleep = True
        self.guest.version = self.guest.version + 1

    async def guest_resumes(self) -> None:
        await cp("the guest resumes", until=lambda: self.vm.vcpus[0].in_guest)
        first: VcpuTime = self.vm.vcpus[0]
        slept = self.guest.tk.resume(self.cycles(first), self.rtc_ns())
        self.guest.asleep = False
        self.guest.version = self.guest.version + 1
        self.guest.told.resumed(self.guest, slept)
        self.outcome.reached.add("the guest slept itself")

    def rtc_ns(self) -> Any:
        """The guest's persistent clock: it was right when the guest booted, and keeps true time."""
        return FIRST_REALTIME_NS + (self.world.read_ps() - self.booted_ps) // PS_PER_NS

    async def guest_reboots(self) -> None:
        """kexec: another kernel, other memory; the MSR stays as it is unless the new kernel writes it."""
        await cp("the guest reboots", until=lambda: self.vm.vcpus[0].in_guest and self.settled())
        guest = self.guest
        first: VcpuTime = self.vm.vcpus[0]
        clock = clocksource(self.setting.clock, tsc_khz=self.setting.khz or KHZ)
        guest.tk = GuestTimekeeper.booted(clock, self.cycles(first))
        old = guest.page
        guest.page, guest.injected_ns, guest.epoch, guest.injections = None, 0, 0, 0
        guest.version = guest.version + 1
        self.outcome.tracker.kernel += 1
        rule = self.kvm.host.profile.suspend_time
        if guest.told.msr_written and rule.msr:
            rule.set_msr(first, 0, by_host=False)  # what a kernel does on its way out, where that is heeded
            if old is not None:
                old.owned = False
            if self.setting.reboot_registers:
                self.register_now(GPA + 0x1000)
        await cp("an async page fault is ready")
        first.suspend_irq = True
        self.outcome.reached.add("rebooted")

    def settled(self) -> bool:
        return not any(vcpu.suspend_irq for vcpu in self.vm.vcpus if vcpu.index != self.setting.paused)


def build(setting: Setting) -> Callable[[World], Outcome]:
    """A builder of the case's world, for explore.Search and explore.IntegerWorld alike."""

    def made(world: World) -> Outcome:
        return Stage(setting, world).outcome

    return made


__all__ = ["GPA", "Stage", "build"]
