"""A VMM that is not asked before a sleep: each vCPU's thread looks for one before every KVM_RUN (G3).

What it looks at is BOOTTIME - MONOTONIC. If that has grown, the host has slept: the thread stops all the others, puts
the counters back, fills the record that it shares with the guest, and everybody runs. Nobody need be told anything.

How it measures what to hide. It cannot stamp when it is stopped: the freezer's signal makes KVM_RUN return, but the
thread is frozen on its way to user space. So at each look it keeps readings that stay good for as long as the host is
awake: the host's TSC and kvmclock (KVM_GET_CLOCK has both), and MONOTONIC_RAW, which stands still over a sleep and is
not steered, as MONOTONIC is (at 500 ppm an hour's age would be 1.8 s). After a sleep every counter shall be where RAW
says: where it was at the look, and what RAW has gained since. A vCPU's offset is the one of before the sleep, so
neither what the TSC did meanwhile (it may have begun anew) nor what KVM has made up for it comes in, and all vCPUs are
moved alike. RAW's multiplier is rounded, by up to 0.1 ppm: so much more is taken for what the host ran, and a counter
gains up to 0.2 ppm of the look's age, but never goes back. The record grows by what BOOTTIME - MONOTONIC has gained:
the host's error about its sleep is in the guest's BOOTTIME as it is in the host's, and in no counter.

What it cannot do. Between a thread's look and its KVM_RUN it may be frozen. Thawed, it enters a guest whose counters
have the sleep in them, and stays there until something makes it leave: its next look comes too late, and if another
thread puts the counters back meanwhile, the guest sees them go back. A sleep over which the host's MONOTONIC runs on
(s2idle without a CPU state for it) is not seen at all. And BOOTTIME - MONOTONIC is exact here: a VMM has it from a
bracket of clock_gettime()s (MONOTONIC, BOOTTIME, MONOTONIC), and misses a sleep that is shorter than that is wide.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from guestclock.arith import u64
from guestclock.checks.suspend.vmm import StoppingVmm
from guestclock.checks.suspend.x86 import guest_cycles
from guestclock.kvm import api
from guestclock.kvm.model.mutex import lock, unlock
from guestclock.kvm.model.x86.kvmclock import KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME
from guestclock.kvm.model.x86.run import kvm_run
from guestclock.sim import cp
from guestclock.sim.field import flag, ref, s64
from guestclock.sim.state import State

RAW_IS_SLOW = 10**7
"""RAW may be short of the TSC by one in so many ..."""

LOST_NS = 3
"""... and by what readings lose to whole nanoseconds."""


class Look(NamedTuple):
    """One instant: host TSC (cycles), MONOTONIC_RAW, BOOTTIME - MONOTONIC, kvmclock and REALTIME (ns)."""

    tsc: Any
    raw_ns: Any
    offs_boot_ns: Any
    clock_ns: Any
    realtime_ns: Any


class Shared(State):
    """What the vCPUs' threads share, under a lock of the VMM's."""

    known = flag("there was a look")
    offs_boot_ns = s64("BOOTTIME - MONOTONIC as of the last sleep that was taken from the counters, ns")
    look: Any = ref("the latest one at which nothing had to be done", None)
    stopping = flag("a thread puts the counters back: nobody else may look, or run")


class VcpuThread(State):
    """A vCPU's thread, as the others see it."""

    going = flag("it has looked, and is on its way into KVM_RUN, in it, or on its way out")


class Detect(StoppingVmm):
    """It runs the vCPUs' threads itself."""

    def __init__(self, stage: Any) -> None:
        super().__init__(stage)
        self.shared = Shared()
        self.threads: dict[int, VcpuThread] = {}
        self.offsets: dict[int, Any] = {}

    async def night(self, number: int) -> None:
        """A vCPU that left as the host went down leaves once more: alone, nobody else's thread would look."""
        course, setting = self.stage.course, self.stage.setting
        if setting.exits and setting.vcpus == 1:
            await cp("the guest asks a device", until=lambda: course.slept > number and self.stage.machine.tasks_run())
            self.stage.vm.vcpus[0].kicked = True

    async def plugs(self) -> None:
        """With the lock of whoever puts counters back: KVM gives a new vCPU the others' TSC as of their last write."""
        await cp("no thread puts counters back", until=lambda: not self.shared.stopping)
        self.shared.stopping = True

    async def start(self, i: int) -> None:
        """From here on the thread of vCPU i looks, and runs it, again and again. A late one gets the others' TSC."""
        await self.joins(i)
        self.threads[i] = VcpuThread()
        self.shared.stopping = False
        self.stage.world.spawn(f"thread {i}", self.thread(i), daemon=True)

    async def joins(self, i: int) -> None:
        """vCPU i has the counters that all have."""
        if not self.offsets:
            self.offsets[i] = await self.stage.execute(api.GetTscOffset(0, i))
        elif self.stage.course.alive:
            await self.stage.execute(api.SetTscOffset(0, i, self.offsets[0]))
        self.offsets[i] = self.offsets[0]

    async def thread(self, i: int) -> None:
        tasks_run, shared, own = self.stage.machine.tasks_run, self.shared, self.threads[i]
        vcpu = self.stage.vm.vcpus[i]
        while True:
            await cp("the thread looks", until=lambda: tasks_run() and not shared.stopping)
            look = self.look()
            if shared.known and look.offs_boot_ns != shared.offs_boot_ns:
                await self.after_a_sleep(i)
                continue  # another sleep may have come meanwhile: it looks again
            shared.known, shared.look, shared.offs_boot_ns = True, look, look.offs_boot_ns
            own.going = True
            # Here it may be frozen: no call of KVM's says "enter, unless the host has slept since".
            await cp("KVM_RUN", until=tasks_run)
            await lock(vcpu, "KVM_RUN")
            vcpu.running = True
            await self.kvm_run(vcpu)
            vcpu.kicked = vcpu.running = own.going = False
            unlock(vcpu)

    async def kvm_run(self, vcpu: Any) -> None:
        """One KVM_RUN, until it returns to user space."""
        await kvm_run(vcpu)

    def look(self) -> Any:
        """One step: a VMM reads BOOTTIME - MONOTONIC before and after the rest, and all anew if it has changed."""
        machine, kvm = self.stage.machine, self.stage.kvm.host
        clock = kvm.profile.get_clock(self.stage.vm)
        base_ns, tsc = machine.get_time_and_clockread()
        offs_boot_ns = machine.ktime_get_offs_boot_ns()
        raw_ns = base_ns - offs_boot_ns
        if clock.flags & KVM_CLOCK_HOST_TSC:
            raw_ns = raw_ns - (tsc - clock.host_tsc) * 1_000_000 // self.stage.setting.host_khz
            return Look(clock.host_tsc, raw_ns, offs_boot_ns, clock.clock_ns, clock.realtime_ns)
        return Look(tsc, raw_ns, offs_boot_ns, clock.clock_ns, machine.ktime_get_real_ns())

    async def after_a_sleep(self, i: int) -> None:
        """Everybody out; every counter to where RAW says; the record; and on."""
        stage, shared = self.stage, self.shared
        tasks_run = stage.machine.tasks_run
        shared.stopping = True
        others = [j for j, thread in self.threads.items() if j != i and thread.going]
        for j in others:
            stage.vm.vcpus[j].kicked = True  # a signal, and immediate_exit: it does not get in any more either
        if others:
            await cp("the others leave", until=lambda: tasks_run() and not any(self.threads[j].going for j in others))
        await cp("all is read again", until=tasks_run)
        was, now, sleeps = shared.look, self.look(), len(stage.outcome.sleeps)
        hidden_ns = now.offs_boot_ns - shared.offs_boot_ns
        ran_ns = now.raw_ns - was.raw_ns + LOST_NS
        now = await self.put(was, now, ran_ns)
        await cp("the record is filled", until=tasks_run)
        self.tell(hidden_ns)
        self.adjusted = sleeps
        shared.look, shared.offs_boot_ns = now, now.offs_boot_ns
        shared.stopping = False
        stage.outcome.reached.add("the VMM adjusted")

    async def put(self, was: Any, now: Any, ran_ns: Any) -> Any:
        """Every clock of the VM to where it was at `was`, and what the host has run since; answers the look to keep."""
        clock_ns = was.clock_ns + ran_ns * (RAW_IS_SLOW + 1) // RAW_IS_SLOW
        ran = ran_ns * self.stage.setting.host_khz * (RAW_IS_SLOW + 1) // (RAW_IS_SLOW * 1_000_000)
        await self.counters_to(was.tsc + ran, now.tsc)
        # With a REALTIME the kernel moves the clock on by what has passed since it was read.
        await self.stage.execute(api.SetClock(0, u64(clock_ns), KVM_CLOCK_REALTIME, now.realtime_ns))
        return now._replace(clock_ns=clock_ns)

    async def counters_to(self, then: Any, now: Any) -> None:
        """Each vCPU's TSC, as of the host's TSC `now`, to what it would be as of `then` with the offset that it had."""
        for j in self.threads:
            vcpu = self.stage.vm.vcpus[j]
            back = guest_cycles(vcpu, then) - guest_cycles(vcpu, now)
            self.offsets[j] = u64(self.offsets[j] + back)
            await self.stage.execute(api.SetTscOffset(0, j, self.offsets[j]))
