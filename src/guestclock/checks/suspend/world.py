"""The world of a case: a host that sleeps, KVM on it, a VMM, a guest with its timekeeper, and who acts in it.

Actors: "host" (whoever closes the lid, and the kernel's suspend path), "VMM", KVM's own threads, and the guest: one
handler of interrupts per vCPU, its ticks, its own suspend. Readers need not act (checks.suspend.views).
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from guestclock.checks.suspend.architectures import architecture
from guestclock.checks.suspend.detect import Detect
from guestclock.checks.suspend.detect_arm64 import DetectArm64
from guestclock.checks.suspend.setting import TICK_NS, TICKED_NS, Outcome, S, Setting
from guestclock.checks.suspend.spin import Spins
from guestclock.checks.suspend.states import States
from guestclock.checks.suspend.views import Tracker
from guestclock.checks.suspend.vmm import VMMS, Course
from guestclock.explore.world import Between, World
from guestclock.guest.ntp_client import synchronise
from guestclock.guest.suspend_time import GuestLinux, GuestTimekeeper
from guestclock.kvm import api
from guestclock.sim import PS_PER_NS, Checkpoint, cp

GPA = 0x5000


class Stage:
    """Everything of one case, put together."""

    def __init__(self, setting: Setting, world: World) -> None:
        self.setting, self.world = setting, world
        self.arch = architecture(setting.kernel)
        self.outcome = outcome = Outcome(setting, world, self.arch, GuestLinux(told=setting.handler))
        self.machine = outcome.machine = machine = self.arch.machine(world, outcome)
        self.kvm = outcome.kvm = self.arch.kvm(world, outcome)
        self.guest = outcome.guest
        self.course = Course()
        self.ticked_at_exit = 0
        self.offset: Any = 0
        """The counter offset that the VMM has set, where it sets one for the whole VM (arm64), ticks."""
        self.vmm = {**VMMS, "detect": Detect, "detect-arm64": DetectArm64}[setting.vmm](self) if setting.vmm else None
        outcome.tracker = Tracker(outcome, self.applied)
        outcome.spins = Spins(outcome)
        outcome.states = States(outcome)
        machine.before_sleep = self.last_tick
        machine.on_suspend_prepare.append(self.prepared)  # setup: subscribers
        machine.on_suspend_prepare.append(self.sync)  # setup: subscribers
        world.spawn("VMM", self.run_vmm())
        world.spawn("host", self.run_host())

    @property
    def vm(self) -> Any:
        """The guest's, wherever it is by now."""
        return self.kvm.host.vms[-1]

    def applied(self, vcpu: Any) -> bool:
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
            await cp("the host is about to sleep", until=lambda: course.prepared)
            await self.plug_in()
        if setting.paused >= 0:
            await cp("the paused vCPU goes on", until=lambda: course.nights == len(setting.nights))
            await self.start(setting.paused)
        if setting.moved:
            await cp("management moves the VM", until=lambda: course.moving)
            await self.move()
        if setting.looks:
            await cp("tasks run again", until=lambda: course.slept >= 1 and self.machine.tasks_run())
            await self.arch.look(self)
        await cp("the last night is over", until=lambda: course.nights == len(setting.nights))
        self.outcome.finished = True

    async def boot(self) -> None:
        setting = self.setting
        vm = await self.execute(api.CreateVm())
        if setting.hides:
            self.vm.suspend.asked = True
        for i in range(setting.vcpus):
            await self.execute(api.CreateVcpu(vm))
            await self.arch.vcpu_made(self, i)
        await self.arch.set_up(self)
        await self.guest_boots()
        if setting.registers == "boot":
            await self.register()
        for i in range(setting.vcpus):
            if i != setting.paused:
                await self.start(i)

    async def start(self, i: int) -> None:
        self.arch.starts(self, self.vm.vcpus[i])
        await (self.vmm.start(i) if self.vmm is not None else self.execute(api.Start(self.vm.id, i)))

    async def guest_boots(self) -> None:
        """The guest's kernel takes its clocksource, and sets its clocks: MONOTONIC and BOOTTIME are the same."""
        await cp("the guest boots")
        self.booted_ps = self.world.read_ps()
        clock = self.arch.clocksource(self.setting)
        self.guest.tk = GuestTimekeeper.booted(clock, self.cycles(self.vm.vcpus[0]))
        synchronise(self.guest.tk.ntp)
        for i in range(0 if self.setting.ignores else self.setting.most_vcpus):
            self.world.spawn(f"vCPU {i} interrupts", self.interrupts(i), daemon=True)
        if self.setting.handler.ticks:
            self.world.spawn("ticks", self.ticks(), daemon=True)
        self.arch.boots(self)

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
        if self.vmm is not None:
            await self.vmm.plugs()
        i = await self.execute(api.CreateVcpu(0))
        await self.arch.plugged(self, i)
        await self.start(i)
        self.outcome.reached.add("a vCPU was plugged in")

    async def move(self) -> None:
        """To another KVM on a host that is just like this one."""
        await cp("the guest is done with the first sleep", until=self.settled)
        await self.arch.move(self)
        for i in range(self.setting.vcpus):
            await self.start(i)
        self.ticked_at_exit = self.outcome.tracker.exits(0)
        self.course.moved = True
        self.outcome.reached.add("the VM was moved")

    # ---- the host

    def prepared(self) -> None:
        """KVM's notifiers have heard that the host is about to sleep."""
        if self.setting.hotplug == "around":
            self.course.prepared = True
        if self.setting.exits:
            self.vm.vcpus[0].kicked = True
        if self.setting.interrupted:
            for vcpu in self.vm.vcpus:
                vcpu.ipi = True

    def sync(self) -> Coroutine[Checkpoint, None, None] | None:
        """ksys_sync_helper(): a hibernation's comes between the notifiers and the freezer, others come before."""
        night = self.machine.night
        return self.synced(night.sync_ns) if night.sync_ns else None

    @staticmethod
    async def synced(most_ns: int) -> None:
        await cp("hibernation: files are written", delay_ps=Between.of(0, most_ns * PS_PER_NS))

    async def run_host(self) -> None:
        setting, course, machine = self.setting, self.course, self.machine
        await cp("the guest is not up yet", until=lambda: course.alive and self.running())
        for number, night in enumerate(setting.nights):
            machine.night = night
            if number and setting.again:
                await cp("the lid is closed again")
            else:
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
            if setting.anew and number == 0:
                await self.guest_registers_anew()
        self.outcome.reached.add("the host has slept" if self.outcome.sleeps else "the host did not sleep")

    def running(self) -> bool:
        """Every vCPU that is neither halted nor paused is in the guest."""
        vms, setting = self.kvm.host.vms, self.setting
        return (
            bool(vms)
            and len(vms[-1].vcpus) >= setting.vcpus
            and all(
                v.in_guest and self.arch.up(v)
                for v in vms[-1].vcpus
                if not self.arch.idle(v) and v.index != setting.paused
            )
        )

    # ---- the guest

    def cycles(self, vcpu: Any) -> Any:
        """The guest's clocksource on a vCPU, now."""
        return self.arch.cycles(self, vcpu)

    def last_tick(self) -> None:
        """Where the guest's last tick before the sleep was: up to TICK_NS before vCPU 0 left the guest (a contract)."""
        if self.guest.tk is None or self.guest.asleep or self.outcome.tracker.exits(0) <= self.ticked_at_exit:
            return
        if self.setting.again and self.outcome.sleeps:
            return  # between two such sleeps it may have run for less than a tick
        name = f"age of the last tick before sleep {len(self.outcome.sleeps)}"
        age = self.world.unknown(name, self.own_cycles(TICKED_NS), self.own_cycles(TICK_NS))
        self.guest.tk.tick(self.arch.cycles_at_exit(self, self.vm.vcpus[0]) - age)
        self.guest.version = self.guest.version + 1
        self.ticked_at_exit = self.outcome.tracker.exits(0)
        self.outcome.contracts.add("the guest's last tick lies up to 4 ms before it was stopped")

    def own_cycles(self, ns: int) -> int:
        """ns in units of the guest's clocksource."""
        return ns if self.setting.clock == "kvm-clock" else ns * self.setting.guest_khz // 1_000_000

    async def interrupts(self, i: int) -> None:
        """The interrupt about suspend time, taken when vCPU i runs with interrupts on."""
        guest = self.guest

        def due() -> bool:
            vms = self.kvm.host.vms
            if not vms or i >= len(vms[-1].vcpus):
                return False
            vcpu = vms[-1].vcpus[i]
            return vcpu.in_guest and vcpu.suspend_irq and not guest.asleep and self.arch.takes_interrupts(vcpu)

        while True:
            await cp("interrupt pending", until=due)
            vcpu = self.vm.vcpus[i]
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
        """The guest's own suspend."""
        await cp("the guest suspends itself", until=lambda: self.vm.vcpus[0].in_guest)
        self.guest.tk.suspend(self.cycles(self.vm.vcpus[0]), self.arch.persistent_ns(self))
        self.guest.asleep = True
        self.guest.version = self.guest.version + 1

    async def guest_resumes(self) -> None:
        await cp("the guest resumes", until=lambda: self.vm.vcpus[0].in_guest)
        began, woke = self.guest.tk.cycle_last, self.cycles(self.vm.vcpus[0])
        persistent_ns = self.arch.persistent_ns(self)
        slept = self.guest.tk.resume(woke, persistent_ns, self.arch.nonstop_ns(self, began, woke))
        self.guest.asleep = False
        self.guest.version = self.guest.version + 1
        self.guest.told.resumed(self.guest, slept)
        self.outcome.reached.add("the guest slept itself")

    async def guest_reboots(self) -> None:
        """kexec: another kernel, other memory; the MSR stays as it is unless the new kernel writes it."""
        await cp("the guest reboots", until=lambda: self.vm.vcpus[0].in_guest and self.settled())
        guest = self.guest
        first = self.vm.vcpus[0]
        guest.tk = GuestTimekeeper.booted(self.arch.clocksource(self.setting), self.cycles(first))
        synchronise(guest.tk.ntp)
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

    async def guest_registers_anew(self) -> None:
        """vCPU 1 writes the MSR, whose memory from then on is the record; what was the record is the guest's again."""
        await cp("the guest registers another record", until=lambda: self.vm.vcpus[1].in_guest)
        guest, rule = self.guest, self.kvm.host.profile.suspend_time
        old = guest.page
        rule.set_msr(self.vm.vcpus[1], (GPA + 0x1000) | 1, by_host=False)
        if old is not None:
            old.owned = False
        guest.told.register(guest, self.vm.suspend.page)
        self.outcome.reached.add("another record")

    def settled(self) -> bool:
        return self.setting.ignores or not any(
            vcpu.suspend_irq for vcpu in self.vm.vcpus if vcpu.index != self.setting.paused
        )


def build(setting: Setting) -> Callable[[World], Outcome]:
    """A builder of the case's world, for explore.Search and explore.IntegerWorld alike."""

    def made(world: World) -> Outcome:
        return Stage(setting, world).outcome

    return made


__all__ = ["GPA", "Stage", "build"]
