"""A machine: counters, a Linux that tells the time by one of them, and whoever must hear when that changes.

What every architecture's machine has. `X86Machine` and `Arm64Machine` add their counters, and what KVM reads there.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence

from guestclock.errors import UserError
from guestclock.linux.clocksource import Clocksource
from guestclock.linux.ntp import ADJ_FREQUENCY, MAX_FREQ_PPB, Timex, TimexAnswer, adjtimex_freq
from guestclock.linux.timekeeper import Timekeeper
from guestclock.machine.counter import AnyCounter
from guestclock.sim.checkpoint import Checkpoint, cp
from guestclock.sim.field import flag, integer
from guestclock.sim.scheduler import Scheduler
from guestclock.sim.state import State
from guestclock.sim.timeline import PS_PER_NS, Timeline

SLEEP_KINDS = ("s3", "s2idle", "idle")
SLEEP_COUNTER = ("running", "stopped", "reset")
ABORTED_AT = ("", "freezer", "devices")

_ASLEEP = "a clock read on a machine that is asleep: the reader must wait for awake()"


class _Sleeping(State):
    """How far down the machine is."""

    frozen = flag("user tasks are frozen")
    asleep = flag("the machine is suspended: nothing runs")
    resumes = integer("how often timekeeping was resumed: for guards, which must not compare times")


class Machine:
    """A host, or a guest that is a host to others, on a timeline: the part that no architecture has for itself.

    arch: "x86_64" or "arm64", as kernel profiles say it.
    clocksources: what current_clocksource may name, each with the counter it reads. clocksource: the one at the start.
    one_line: all CPUs read one counter that never changes its rate, so that no reader sees whether ticks were taken.
    scheduler: where kernel workers run, daemons for the scheduler's next run; without one they act at once.

    Subscribers are lists of callables, called in their order: `on_clocksource_change` (the pvclock_gtod notifier, when
    the clocksource has changed), and around a sleep `on_suspend_prepare` (PM notifier), `on_suspend` and `on_resume`
    (syscore: hardware off and on), `on_timekeeping_resume` (by how much offs_boot has grown, ns), `on_suspend_post` (PM
    notifier: tasks run again by then). What the first of them answers, if anything, is waited for.
    """

    arch: str

    def __init__(
        self,
        timeline: Timeline,
        clocksources: Mapping[str, tuple[Clocksource, AnyCounter]],
        clocksource: str,
        *,
        cpus: int,
        hz: int,
        uptime_ns: int,
        realtime_ns: int,
        one_line: bool,
        scheduler: Scheduler | None,
    ) -> None:
        self.timeline, self._scheduler = timeline, scheduler
        self.cpus = cpus
        self._clocksources, self._one_line = clocksources, one_line
        self._sleeping = _Sleeping()
        clock, counter = clocksources[clocksource]
        self.timekeeper = Timekeeper.start(
            clock, counter.at(timeline.now_ps), hz=hz, monotonic_ns=uptime_ns, realtime_ns=realtime_ns
        )
        self.on_clocksource_change: list[Callable[[], None]] = []
        self.on_suspend_prepare: list[Callable[[], Coroutine[Checkpoint, None, None] | None]] = []
        self.on_suspend: list[Callable[[], None]] = []
        self.on_resume: list[Callable[[], None]] = []
        self.on_timekeeping_resume: list[Callable[[int], None]] = []
        self.on_suspend_post: list[Callable[[], None]] = []
        self.tasks_frozen: list[Callable[[], bool]] = []  # the freezer waits until each is true

    # ---- the clocks

    @property
    def clocksource(self) -> str:
        return self.timekeeper.clock.name

    @property
    def vclock_mode(self) -> int:
        return self.timekeeper.clock.vclock_mode

    def ktime_get_ns(self, cpu: int = 0) -> int:
        """CLOCK_MONOTONIC, ns; one clock read, as all ktime_get_*."""
        return self.timekeeper.monotonic_ns(self._cycles(cpu))

    def ktime_get_raw_ns(self, cpu: int = 0) -> int:
        return self.timekeeper.raw_ns(self._cycles(cpu))

    def ktime_get_real_ns(self, cpu: int = 0) -> int:
        return self.timekeeper.realtime_ns(self._cycles(cpu))

    def ktime_get_boottime_ns(self, cpu: int = 0) -> int:
        return self.timekeeper.boottime_ns(self._cycles(cpu))

    def ktime_get_offs_boot_ns(self) -> int:
        """BOOTTIME - MONOTONIC: all that was slept; no clock is read."""
        return self.timekeeper.offs_boot_ns

    def ktime_get_tai_ns(self, cpu: int = 0) -> int:
        return self.timekeeper.tai_ns(self._cycles(cpu))

    def readers(self) -> dict[str, Callable[[int], int]]:
        """What ReadHostClock may name, and how it is read on a CPU; a subclass adds its counter."""
        return {
            "realtime": self.ktime_get_real_ns,
            "monotonic": self.ktime_get_ns,
            "monotonic_raw": self.ktime_get_raw_ns,
            "boottime": self.ktime_get_boottime_ns,
        }

    def read_clock(self, name: str, cpu: int = 0) -> int:
        """What ReadHostClock answers: "realtime", "monotonic", "monotonic_raw", "boottime" (ns), or the counter's name.

        Raises UserError for another one.
        """
        readers = self.readers()
        if name not in readers:
            raise UserError(f"host clock: unknown {name!r}, expected one of {', '.join(readers)}")
        return readers[name](cpu)

    def _counter(self) -> AnyCounter:
        """The counter of the clocksource in use."""
        return self._clocksources[self.clocksource][1]

    def _cycles(self, cpu: int) -> int:
        """One read of the clocksource on `cpu`."""
        return self._counter().at(self._read_ps(), cpu)

    def _read_ps(self) -> int:
        """The instant of one clock read; the ticks due until then have been taken."""
        self._awake()
        now = self.timeline.read_ps()
        if not (self._one_line and self.timekeeper.steady):
            self._ticks(now)
        return now

    def _ticks(self, ps: int) -> None:
        """Ticks are CPU 0's (tick_do_timer_cpu)."""
        self.timekeeper.tick_until(self._counter().at(ps))

    def catch_up(self) -> None:
        """Takes the ticks due by now. For whoever is about to set back a counter that this machine counts with."""
        if not self._sleeping.asleep:
            self._ticks(self.timeline.now_ps)

    # ---- changes

    def set_clocksource(self, name: str) -> bool:
        """Writes current_clocksource; whether it is the clocksource now.

        Raises UserError for a clocksource this machine has not.
        """
        if name not in self._clocksources:
            have = ", ".join(self._clocksources)
            raise UserError(f"clocksource: {name!r} is not on this machine, expected one of {have}")
        if name == self.clocksource:
            return True
        now = self._read_ps()
        self._ticks(now)
        clock, counter = self._clocksources[name]
        self.timekeeper.change_clocksource(clock, self._counter().at(now), counter.at(now))
        for heard in self.on_clocksource_change:
            heard()
        return True

    def step_realtime(self, ns: int) -> None:
        """REALTIME moves by ns (signed) at once. Refused, as in the kernel, if it would come before MONOTONIC."""
        if self.timekeeper.offs_real_ns + ns < 0:
            raise UserError(f"step_realtime: {ns} ns would put REALTIME before MONOTONIC, the kernel answers EINVAL")
        self.timekeeper.inject_offset(self._writers_cycles(), ns)

    def settimeofday(self, ns: int) -> int:
        """clock_settime(CLOCK_REALTIME) to ns; 0 or -EINVAL."""
        return self.timekeeper.settimeofday(self._writers_cycles(), ns)

    def adjtimex(self, asked: Timex) -> TimexAnswer:
        """adjtimex() on this machine, now."""
        return self.timekeeper.adjtimex(self._writers_cycles(), asked)

    def adjust_frequency(self, ppb: int) -> None:
        """adjtimex(ADJ_FREQUENCY): MONOTONIC runs ppb (signed) faster than the clocksource says, from now on."""
        if not -MAX_FREQ_PPB <= ppb <= MAX_FREQ_PPB:
            raise UserError(f"adjust_frequency: {ppb} ppb, expected at most {MAX_FREQ_PPB} either way")
        self.adjtimex(Timex(modes=ADJ_FREQUENCY, freq=adjtimex_freq(ppb)))

    def inject_sleeptime(self, ns: int) -> bool:
        """timekeeping_inject_sleeptime64(), now: the machine is told that it slept ns. Whether it believes it."""
        return self.timekeeper.inject_sleeptime64(self._writers_cycles(), ns)

    def _writers_cycles(self) -> int:
        """One read of the clocksource for a write section; the ticks due until then have been taken, all of them."""
        self._awake()
        now = self.timeline.read_ps()
        self._ticks(now)
        return self._counter().at(now)

    # ---- sleep

    def awake(self) -> bool:
        """Guard for kernel workers and timers: false while the machine is suspended."""
        return not self._sleeping.asleep

    def tasks_run(self) -> bool:
        """Guard for user tasks, VMM and vCPU threads among them: false from the freezer on until they are thawed."""
        return not self._sleeping.frozen

    @property
    def resumes(self) -> int:
        """How often timekeeping was resumed: what a guard can look at, where it must not compare times."""
        return self._sleeping.resumes

    def _awake(self) -> None:
        assert not self._sleeping.asleep, _ASLEEP

    async def sleep(self, ns: int, tsc: str = "running", kind: str = "s3", aborted_at: str = "") -> None:
        """The machine sleeps for ns of true time.

        tsc: what becomes of its counter: "running" (counts on), "stopped" (holds) or "reset" (starts again at 0).
        kind: "s3" takes the hardware down and up again; "s2idle" stops timekeeping only, so KVM's hardware hooks do
        not run and the counter counts on; "idle" is an s2idle without a CPU state that allows it: tasks are frozen, and
        timekeeping runs on. aborted_at: the suspend goes no further than the "freezer", or than the "devices".
        """
        if tsc not in SLEEP_COUNTER or kind not in SLEEP_KINDS or ns < 0 or aborted_at not in ABORTED_AT:
            raise UserError(
                f"sleep: {ns} ns, tsc {tsc!r}, kind {kind!r}: expected 0 ns or more, tsc one of "
                f"{', '.join(SLEEP_COUNTER)}, kind one of {', '.join(SLEEP_KINDS)}"
            )
        self._refuse_sleep(tsc, kind)
        for heard in self.on_suspend_prepare:
            waits = heard()
            if waits is not None:
                await waits
        await cp("suspend: prepared")
        self._sleeping.frozen = True
        if aborted_at != "freezer":
            await cp("suspend: tasks frozen")
            while not all(frozen() for frozen in self.tasks_frozen):
                await cp("suspend: tasks frozen", until=lambda: all(frozen() for frozen in self.tasks_frozen))
        if aborted_at:
            await cp("suspend: aborted")
        elif kind == "idle":
            await cp("idle", delay_ps=self._sleep_ps(ns))
        else:
            await self._asleep(ns, tsc, kind)
        await cp("resume: devices")
        self._sleeping.frozen = False
        if self.on_suspend_post:
            await cp("resume: tasks thawed")
            self._call(self.on_suspend_post)

    async def _asleep(self, ns: int, tsc: str, kind: str) -> None:
        if kind == "s3":
            self._call(self.on_suspend)
        began = self._suspend()
        self._fell_asleep(began, tsc)
        await cp("asleep", delay_ps=self._sleep_ps(ns))
        woke = self.timeline.read_ps()
        self._wakes(woke, tsc)
        self._resume(began, woke)
        if kind == "s3":
            self._call(self.on_resume)

    def _sleep_ps(self, ns: int) -> int:
        """How long it is to last, ps."""
        return ns * PS_PER_NS

    def _suspend(self) -> int:
        """timekeeping_suspend() now; answers the instant."""
        now = self._read_ps()
        self._ticks(now)
        self.timekeeper.suspend(self._counter().at(now), self._persistent_ns(now))
        self._sleeping.asleep = True
        return now

    def _resume(self, began: int, woke: int) -> None:
        """timekeeping_resume()."""
        self._sleeping.asleep = False
        nonstop_ns = self._nonstop_ns(began, woke)
        slept = self.timekeeper.resume(self._counter().at(woke), self._persistent_ns(woke), nonstop_ns)
        self._resumed(slept)

    def _resumed(self, slept_ns: int) -> None:
        """offs_boot has grown by slept_ns."""
        self._sleeping.resumes += 1
        for heard in self.on_timekeeping_resume:
            heard(slept_ns)

    # What an architecture says about its sleep.

    def _refuse_sleep(self, tsc: str, kind: str) -> None:
        """Raises UserError for a sleep that this machine cannot have."""
        raise NotImplementedError

    def _fell_asleep(self, ps: int, tsc: str) -> None:
        """The machine's counter when the machine has gone down."""

    def _wakes(self, ps: int, tsc: str) -> None:
        """... and before anything runs again."""

    def _persistent_ns(self, ps: int) -> int:
        """read_persistent_clock64(), ns; 0 where there is none."""
        raise NotImplementedError

    def _nonstop_ns(self, began: int, woke: int) -> int:
        """The sleep as a counter that never stops measured it, ns; 0 where none did."""
        raise NotImplementedError

    @staticmethod
    def _call(heard: Sequence[Callable[[], None]]) -> None:
        for one in heard:
            one()
