"""VMMs that see their guest over a sleep of the host without KVM's help, or with a gate in it.

All of them stop the vCPUs, write down a counter and BOOTTIME, and after the sleep put every counter back to where it
was, fill the record that they share with the guest, interrupt it, and run it. They differ in how they learn of a sleep.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from guestclock.arith import u64
from guestclock.checks.suspend.setting import KHZ
from guestclock.kvm import api
from guestclock.kvm.model.x86.kvmclock import KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME
from guestclock.kvm.model.x86.suspend_corrected import SuspendGate
from guestclock.kvm.model.x86.suspend_time import SuspendPage, VmSuspend, interrupt
from guestclock.sim import cp
from guestclock.sim.field import flag, integer
from guestclock.sim.state import State


class Course(State):
    """How far the case has come, as far as others wait for it."""

    alive = flag("the guest runs")
    asked = integer("sleeps that were announced to who inhibits them")
    agreed = integer("sleeps that the inhibitor has agreed to")
    slept = integer("sleeps that are over, or were aborted")
    nights = integer("... and all that came with them")
    moving = flag("the VM is to be moved")
    moved = flag("... and was")
    quiet = flag("nothing more will come")


class Stamp(NamedTuple):
    """One instant: host TSC (cycles), the host's BOOTTIME and the guest's kvmclock (ns), each vCPU's TSC offset."""

    tsc: Any
    boot_ns: Any
    clock_ns: Any
    offsets: tuple[Any, ...]


class StoppingVmm:
    """What they have in common. adjusted: how many sleeps it has taken from the counters."""

    inhibits = False
    moves_counters = True

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

    async def out(self) -> None:
        for i in self.vcpus:
            await self.stage.execute(api.Kick(0, i))

    async def stamp(self) -> Stamp:
        """With every vCPU out. kvmclock comes with a host TSC of its own: the others are reckoned back to it.

        The offsets must be read now: after a TSC that began anew, KVM's own compensation is in them.
        """
        execute = self.stage.execute
        offsets = tuple([await execute(api.GetTscOffset(0, i)) for i in self.vcpus])
        clock = await execute(api.GetClock(0))
        tsc, boot_ns, _ = await self.now()
        if clock.flags & KVM_CLOCK_HOST_TSC:
            boot_ns = boot_ns - (tsc - clock.host_tsc) * 1_000_000 // KHZ
            tsc = clock.host_tsc
        return Stamp(tsc, boot_ns, clock.clock_ns, offsets)

    async def now(self) -> tuple[Any, Any, Any]:
        """(host TSC, BOOTTIME, REALTIME), sandwiched: read apart from each other they are as far off as it is slow."""
        machine = self.stage.machine
        await cp("rdtsc, clock_gettime, rdtsc", until=machine.tasks_run)
        boot_ns, tsc = machine.get_time_and_clockread()
        return tsc, boot_ns, machine.ktime_get_real_ns()

    async def put_back(self, stop: Stamp) -> Any:
        """Every counter to where it was at the stamp, as of one reading of the host's; for how long it stood, ns."""
        execute = self.stage.execute
        tsc, boot_ns, realtime_ns = await self.now()
        for i in self.vcpus:
            await execute(api.SetTscOffset(0, i, u64(stop.offsets[i] + stop.tsc - tsc)))
        # With a REALTIME the kernel moves the clock on by what has passed since the reading above.
        await execute(api.SetClock(0, stop.clock_ns, KVM_CLOCK_REALTIME, realtime_ns))
        return boot_ns - stop.boot_ns

    def tell(self, hidden_ns: Any) -> None:
        page = self.page
        page.suspend_time_ns = page.suspend_time_ns + hidden_ns
        page.epoch = page.epoch + 1
        page.stores = page.stores + 1
        for i in self.vcpus:
            interrupt(self.stage.vm.vcpus[i])

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
        told: VmSuspend = stage.vm.suspend

        def due() -> bool:
            over = course.nights == len(stage.setting.nights) and not told.gate
            return (told.over or over) and stage.machine.tasks_run()

        while True:
            await cp("KVM_EXIT_HOST_SUSPEND", until=due)
            if not told.over:
                return
            await self.out()
            # Another sleep may come while it works: then the epoch it acknowledges is old, and it begins again.
            while not await self.through(told):
                pass
            await self.start_all()
            stage.outcome.reached.add("the VMM adjusted")

    async def through(self, told: VmSuspend) -> bool:
        seq, sleeps = told.gates, len(self.stage.outcome.sleeps)
        hidden_ns = await self.put_back(await self.stopped_at(told))
        await cp("the VMM acknowledges", until=lambda: told.over and self.stage.machine.tasks_run())
        if not SuspendGate.acknowledged(self.stage.vm, seq):
            return False
        self.tell(hidden_ns)
        self.adjusted = sleeps
        return True

    async def stopped_at(self, told: VmSuspend) -> Stamp:
        offsets = tuple(vcpu.suspend_stop_offset for vcpu in self.stage.vm.vcpus)
        return Stamp(told.stop_tsc, told.stop_base_ns, told.stop_clock_ns, offsets)


class GateLateStamp(Gate):
    """The same, but the VMM stamps for itself when it is told: it may be frozen before it can (a negative control)."""

    async def stopped_at(self, told: VmSuspend) -> Stamp:
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
