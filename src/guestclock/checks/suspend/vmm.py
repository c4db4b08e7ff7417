"""VMMs that see their guest over a sleep of the host without KVM's help, or with a gate in it.

All of them stop the vCPUs, write down a counter and BOOTTIME, and after the sleep put every counter back to where it
was, fill the record that they share with the guest, interrupt it, and run it. They differ in how they learn of a sleep.
"""

from __future__ import annotations

from typing import Any

from guestclock.kvm import api
from guestclock.kvm.model.x86.suspend_time import SuspendPage
from guestclock.sim import cp
from guestclock.sim.field import flag, integer
from guestclock.sim.state import State


class Course(State):
    """How far the case has come, as far as others wait for it."""

    alive = flag("the guest runs")
    asked = integer("sleeps that were announced to who inhibits them")
    prepared = flag("KVM has heard that the host is about to sleep")
    agreed = integer("sleeps that the inhibitor has agreed to")
    slept = integer("sleeps that are over, or were aborted")
    nights = integer("... and all that came with them")
    moving = flag("the VM is to be moved")
    moved = flag("... and was")


class StoppingVmm:
    """What they have in common. adjusted: how many sleeps it has taken from the counters."""

    inhibits = False
    moves_counters = True
    offset_at_start = True
    """Whether it gives the VM an offset before anything runs in it, where offsets are given (arm64)."""

    def __init__(self, stage: Any) -> None:
        self.stage = stage
        self.page = SuspendPage()
        self.adjusted = 0

    @property
    def vcpus(self) -> range:
        return range(self.stage.setting.vcpus)

    async def run(self) -> None:
        for number in range(len(self.stage.setting.nights)):
            await self.night(number)

    async def night(self, number: int) -> None:
        raise NotImplementedError

    async def plugs(self) -> None:
        """Before it makes one more vCPU."""

    async def start(self, i: int) -> None:
        """vCPU i runs from now on."""
        await self.stage.execute(api.Start(self.stage.vm.id, i))

    async def out(self) -> None:
        for i in self.vcpus:
            await self.stage.execute(api.Kick(0, i))

    async def stamp(self) -> Any:
        """With every vCPU out: an instant, and where the VM's clocks stand."""
        return await self.stage.arch.stamp(self)

    async def put_back(self, stop: Any) -> Any:
        """Every counter to where it was at the stamp; for how long it stood, ns."""
        return await self.stage.arch.put_back(self, stop)

    def tell(self, hidden_ns: Any) -> None:
        page = self.page
        page.suspend_time_ns = page.suspend_time_ns + hidden_ns
        page.epoch = page.epoch + 1
        page.stores = page.stores + 1
        for i in self.vcpus:
            self.stage.arch.interrupt(self.stage.vm.vcpus[i])

    async def start_all(self) -> None:
        for i in self.vcpus:
            if i != self.stage.setting.paused:
                await self.stage.start(i)


class Inhibitor(StoppingVmm):
    """logind's delay inhibitor: it is told before, and agrees when it has stopped and stamped (G1)."""

    inhibits = True

    async def night(self, number: int) -> None:
        course = self.stage.course
        await cp("PrepareForSleep(true)", until=lambda: course.asked > number)
        if self.stage.setting.uninformed:
            await cp("nobody told it", until=lambda: course.slept > number)
            return
        await self.out()
        stop = await self.stamp()
        course.agreed = number + 1
        await cp("PrepareForSleep(false)", until=lambda: course.slept > number and self.stage.machine.tasks_run())
        self.tell(await self.put_back(stop))
        self.adjusted = number + 1
        await self.start_all()
        self.stage.outcome.reached.add("the VMM adjusted")


class Gate(StoppingVmm):
    """A gate in KVM that survives the sleep, and keeps the instant at which the last vCPU had left (G2)."""

    async def run(self) -> None:
        stage = self.stage
        course = stage.course
        told = stage.vm.suspend

        def due() -> bool:
            over = course.nights == len(stage.setting.nights) and not told.gate
            return (told.over or over) and stage.machine.tasks_run()

        while True:
            await cp("KVM_EXIT_HOST_SUSPEND", until=due)
            if not told.over:
                return
            await self.out()
            stop = await self.stopped_at()
            # Another sleep may come while it works: then the epoch it acknowledges is old, and it begins again.
            while not await self.through(told, stop):
                pass
            await self.start_all()
            stage.outcome.reached.add("the VMM adjusted")

    async def through(self, told: Any, stop: Any) -> bool:
        """The number of the gate is had when the sleep is over: what was read before may have the next one to come."""
        await cp("the gate may be opened", until=lambda: told.over and self.stage.machine.tasks_run())
        seq, sleeps = told.gates, len(self.stage.outcome.sleeps)
        hidden_ns = await self.put_back(stop)
        await cp("the VMM acknowledges", until=self.stage.machine.tasks_run)
        if not self.stage.arch.acknowledged(self.stage.vm, seq):
            return False
        self.tell(hidden_ns)
        self.adjusted = sleeps
        return True

    async def stopped_at(self) -> Any:
        return self.stage.arch.stopped_at(self.stage)


class GateLateStamp(Gate):
    """The same, but the VMM stamps for itself when it is told: it may be frozen before it can (a negative control)."""

    async def stopped_at(self) -> Any:
        return await self.stamp()


class GuestFirst(StoppingVmm):
    """The guest suspends first, and the host waits for it: its own resume path does everything (F3)."""

    inhibits = True
    moves_counters = False

    async def night(self, number: int) -> None:
        stage, course = self.stage, self.stage.course
        await cp("PrepareForSleep(true)", until=lambda: course.asked > number)
        if stage.setting.uninformed:
            await cp("nobody told it", until=lambda: course.slept > number)
            return
        await stage.guest_suspends()
        course.agreed = number + 1
        await cp("PrepareForSleep(false)", until=lambda: course.slept > number and stage.machine.tasks_run())
        await stage.guest_resumes()
        stage.outcome.reached.add("the VMM adjusted")


VMMS: dict[str, type[StoppingVmm]] = {
    "inhibitor": Inhibitor,
    "gate": Gate,
    "gate-late-stamp": GateLateStamp,
    "guest-first": GuestFirst,
}
