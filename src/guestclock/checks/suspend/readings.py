"""A run of the suspend thread as a trace of readings: all clocks of the guest, and what its host did meanwhile.

Every vCPU reads in each of its views, densely, between two looks at its counter. `h0` and `h1` are true time, counted
at the host's nominal rate. What goes with the readings (entries, injections, pages, totals) is `checks.suspend.books`;
the guest's timers are `checks.suspend.timers`.

The trace is of the guest's last kernel: a reboot begins a new one. Stops in which nothing was slept (an abort, a
move, a VMM that looks) are `abort` rows, which say just that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from guestclock.abi.pvclock import PVCLOCK_GUEST_STOPPED
from guestclock.checks.architectures import arch_of
from guestclock.checks.readings import Readings, Row, Timed, instants, units_of
from guestclock.checks.suspend import views
from guestclock.checks.suspend.books import Books
from guestclock.checks.suspend.invariants.asking import RATES_NS, error_ns
from guestclock.checks.suspend.setting import IRQS_OFF_NS, MS, STEP_NS, Outcome, Setting
from guestclock.checks.suspend.timers import timer_rows
from guestclock.checks.suspend.views import CpuSpan, Reader, View, has_page
from guestclock.guest.suspend_time import FIRST_REALTIME_NS
from guestclock.linux import Timekeeper
from guestclock.linux.sched_clock import GenericSchedClock, NativeSchedClock
from guestclock.linux.watchdogs import over_a_jump
from guestclock.sim import PS_PER_NS
from guestclock.vmm.clocks import ARM64

SANDWICH_NS = 10
"""From a look at the counter to the clock, and on to the next look."""

MOST_CLOCKS = 9
"""How many readings are taken in a row."""

EVERY_US = 20_000
TAIL_NS = 400 * MS
"""For so long the guest goes on after the run's last step."""

KVMCLOCK_NS = 2
"""A clock of the host's and one of the guest's are each truncated."""

COMPLAINTS = {
    "soft lockup": "watchdog: BUG: soft lockup - CPU#{vcpu} stuck for {s}s!",
    "hung task": "INFO: task kworker blocked for more than {s} seconds.",
    "RCU stall": "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks",
    "workqueue stall": "BUG: workqueue lockup - pool cpus={vcpu} stuck for {s}s!",
}


@dataclass(frozen=True, slots=True)
class Host:
    """The host's timekeeper after a step, at which it was awake. end: units."""

    number: int
    end: int
    tk: Timekeeper
    line: Callable[[int], int]

    def read(self, ps: int) -> tuple[int, int]:
        """(MONOTONIC, BOOTTIME), ns, as SleepingMachine has them."""
        raw = self.tk.raw_ns(self.line(ps))
        return raw, raw + self.tk.offs_boot_ns


@dataclass(frozen=True, slots=True)
class Spanned:
    """A view with its ends in units. since: number of the step after which it can be read."""

    view: View
    opened: int
    closed: int
    since: int


@dataclass(frozen=True, slots=True)
class Stop:
    """No vCPU is in the guest. before, after: the last view that there was and the first one there is."""

    since: Spanned
    until: Spanned


class Recorder:
    """See `checks.readings.Recorder`."""

    def __init__(self, world: Any, outcome: Outcome) -> None:
        self.world, self.outcome = world, outcome
        self.hosts: list[Host] = []
        self.books = Books(world, outcome)
        world.after_step(self._look)

    def _look(self, number: int) -> None:
        machine, event = self.outcome.kvm.host.machine, self.world.events[number]
        if machine.awake():
            tk = machine.timekeeper
            copy = Timekeeper(**{name: getattr(tk, name) for name in Timekeeper.fields})
            self.hosts.append(Host(number, units_of(self.world, event.end), copy, machine.counter.line()))

    def readings(self) -> Readings:
        return _Trace(self).made()


class _Trace:
    """What is made of a run that is over."""

    def __init__(self, recorder: Recorder) -> None:
        self.world, self.outcome, self.books = recorder.world, recorder.outcome, recorder.books
        self.hosts = recorder.hosts
        self.setting: Setting = self.outcome.setting
        self.reader = Reader(self.outcome)
        self.kernel = self.outcome.tracker.kernel
        self.per_us = self.setting.host_khz / 1000
        self.sandwich = self.setting.units(SANDWICH_NS) or 1
        self.end = max(units_of(self.world, e.end) for e in self.world.events) + self.setting.units(TAIL_NS)
        self.views = sorted(self._views(), key=lambda v: (v.opened, v.since, v.closed))
        self.timed = Timed()
        self.last_value = self.first_stop = 0
        self.booted = units_of(self.world, next(e for e in self.world.events if e.label == "the guest boots").end)

    def _views(self) -> Iterator[Spanned]:
        for view in views.of(self.outcome):
            spans = (view.cpu, view.keeper)
            opened = max(units_of(self.world, span.opened) for span in spans)
            closed = min([self.end, *(units_of(self.world, s.closed) for s in spans if s.closed is not None)])
            since = max(span.opener for span in spans)
            before = all(span.closer is None or since < span.closer for span in spans)
            if view.kernel == self.kernel and opened <= closed and before:
                yield Spanned(view, opened, closed, since)

    def made(self) -> Readings:
        self._dmesg(0, -1.0, "Linux version 6.12: of its log there is what its watchdogs say")
        stops = list(self._stops())
        self.first_stop = stops[0].since.closed if stops else self.end
        self._stopped(stops)
        for row in self.books.rows(self.kernel, [self._stop_steps(stop) for stop in stops]):
            self.timed.add(*row)
        self._read()
        self._complaints(stops)
        for row in timer_rows(self.outcome, self.reader, [(v.view, v.opened, v.closed, v.since) for v in self.views]):
            self.timed.add(*row)
        return Readings(self.header(), self.timed.sorted())

    # ---- the header

    def header(self) -> dict[str, Any]:
        setting = self.setting
        # Somebody whose local APIC is off is deaf for as long, whatever the design.
        deaf_ns = 20 * STEP_NS if setting.apic_off else 0
        told = {
            "vm": setting.kernel, "vcpus": setting.most_vcpus, "freq_ppm": 0.0,
            "host_hz": setting.host_khz * 1000, "logs": "inject set timer", "design": self._design(),
            "hole_ns": RATES_NS,
            "rtc_error_ns": setting.rtc_error_ns, "stale_ns": IRQS_OFF_NS + deaf_ns + 1000,
            "real_ns": error_ns(self.outcome), "raw_ppm": 1.0,
        }  # fmt: skip
        if self.arm64:
            return told | {"counter_hz": setting.guest_khz * 1000, "clocksource": "arch_sys_counter"}
        told["tsc_khz"] = setting.guest_khz
        return told | {"clocksource": "tsc"} if setting.clock == "tsc" else told

    @property
    def arm64(self) -> bool:
        return arch_of(self.setting.kernel) == ARM64

    def _design(self) -> str:
        """What is promised: nothing to a guest that is not registered, or is asleep itself."""
        setting = self.setting
        if setting.registers != "boot" or setting.guest_asleep or (self.kernel and not setting.reboot_registers):
            return "none"
        if setting.vmm == "guest-first":
            return "none"
        return "corrected" if self.books.gated else "running"

    # ---- stops

    def _stops(self) -> Iterator[Stop]:
        """Where the last view that was open ends, and no vCPU is in the guest until the next one begins."""
        inside = [
            (units_of(self.world, cpu.opened), self.end if cpu.closed is None else units_of(self.world, cpu.closed))
            for cpu in self.outcome.tracker.cpus()
            if self.reader.counts(cpu)  # while its own guest runs, a hypervisor is stopped too
        ]  # fmt: skip
        last: Spanned | None = None
        for view in self.views:
            if last is not None and view.opened > last.closed:
                slept_itself = view.view.keeper.index > last.view.keeper.index + 1
                step = any(opened <= last.closed and view.opened <= closed for opened, closed in inside)
                within = any(last.closed < closed and opened < view.opened for opened, closed in inside)
                if slept_itself or not (step or within):
                    yield Stop(last, view)
            if last is None or (view.closed, self._closer(view)) >= (last.closed, self._closer(last)):
                last = view

    def _stopped(self, stops: list[Stop]) -> None:
        for stop in stops:
            one, other = stop.since, stop.until
            closer = self._closer(one)
            until = max(one.closed, *(units_of(self.world, e.end) for e in self.world.events[closer : closer + 1]))
            self._boundary("stop", one.view.cpu, (one.closed, until), closer)
            opened = self.books.opened_between(closer, other.since) if self._design() == "corrected" else None
            if opened is not None:
                event = self.world.events[opened]
                at = units_of(self.world, event.start), units_of(self.world, event.end)
                self._boundary("resume", other.view.cpu, at, opened)
            else:
                self._boundary("resume", other.view.cpu, (other.opened, other.opened), other.since)

    def _stop_steps(self, stop: Stop) -> tuple[int, int]:
        return self._closer(stop.since), stop.until.since

    @staticmethod
    def _closer(view: Spanned) -> int:
        """Number of the step that ends it."""
        spans = (view.view.cpu, view.view.keeper)
        return min((span.closer for span in spans if span.closer is not None), default=0)

    def _boundary(self, kind: str, cpu: CpuSpan, at: tuple[int, int], number: int) -> None:
        """The guest's counter there by the offset of a vCPU that was in it, or will be."""
        first, last = (self.reader.clock_counter(cpu, t) for t in at)
        monotonic, boottime = self.host_at(at[0], number)
        place = units_of(self.world, self.world.events[number].start)
        self.timed.event(
            place, number, kind, c0=first, c1=last, h0=at[0], h1=at[1], host_monotonic_ns=monotonic,
            host_boottime_ns=boottime,
        )  # fmt: skip

    def host_at(self, at: int, number: int) -> tuple[int, int]:
        """The host's (MONOTONIC, BOOTTIME) at an instant in that step, by its timekeeper after the last one before."""
        known = [host for host in self.hosts if host.number < number or host.end <= at]
        found = max(known or self.hosts[:1], key=lambda host: host.number)
        return found.read(self.world.ps_of(at))

    # ---- readings

    def _read(self) -> None:
        batches = [
            (at, view)
            for view in self.views
            for at in instants(view.opened, view.closed, self.per_us, EVERY_US, 2 * self.sandwich * MOST_CLOCKS)
        ]  # fmt: skip
        if not batches:
            return
        sched = self._sched_clock()
        seen: dict[int, tuple[int, bool]] = {}
        for at, view in sorted(batches, key=lambda b: (b[0], b[1].since)):
            self._page_row(at, view, seen)
            self._batch(at, view, sched)

    def _batch(self, at: int, view: Spanned, sched: Callable[[View, int, int], int]) -> None:
        clocks = ["MONOTONIC", "BOOTTIME", "REALTIME", "TAI", "MONOTONIC", "MONOTONIC_RAW"]
        cpu, reader = view.view.cpu, self.reader
        if has_page(cpu):
            clocks += ["KVMCLOCK"]
        clocks += ["SCHED_CLOCK", "COUNTER"]
        assert len(clocks) <= MOST_CLOCKS
        apart = min(self.sandwich, (view.closed - at) // (2 * len(clocks)))
        for clock in clocks:
            first, taken, last = at, at + apart, at + 2 * apart
            row = {
                "vcpu": cpu.vcpu, "c0": reader.clock_counter(cpu, first), "c1": reader.clock_counter(cpu, last),
                # A counter that began anew may have begun within a unit.
                "h0": max(first - 1, 0), "h1": last + 1,
                "clock": clock, "value": self._value(clock, view.view, taken, sched),
            }  # fmt: skip
            row |= self._host(clock, view, taken)
            self.timed.add(first, view.since + 0.5, row)
            at = last

    def _value(self, clock: str, view: View, t: int, sched: Callable[[View, int, int], int]) -> int:
        reader = self.reader
        if clock == "COUNTER":
            return signed(reader.clock_counter(view.cpu, t))
        kvmclock = self._kvmclock(view.cpu, t) if has_page(view.cpu) else 0
        if clock == "KVMCLOCK":
            return kvmclock
        if clock == "SCHED_CLOCK":
            return sched(view, t, kvmclock)
        cycles = kvmclock if reader.kvm_clock else reader.clock_counter(view.cpu, t)
        if clock == "MONOTONIC" and reader.mono_is_boot:
            clock = "BOOTTIME"
        return int(view.tk.read_ns(clock.lower(), cycles))

    def _kvmclock(self, cpu: CpuSpan, t: int) -> int:
        """As a guest reads it: without STABLE no less than anybody has read."""
        value = self.reader.kvmclock(cpu, t)
        if self.reader.stable(cpu):
            return int(value)
        self.last_value = max(self.last_value, int(value))
        return self.last_value

    def _sched_clock(self) -> Callable[[View, int, int], int]:
        """kvmclock where there is a page, else by the TSC; the guest's own suspend stops that one."""
        first = self.views[0].view
        if has_page(first.cpu):
            begins = self.reader.kvmclock(first.cpu, self.views[0].opened)
            return lambda view, t, kvmclock: kvmclock - begins
        lines: dict[int, NativeSchedClock | GenericSchedClock] = {}
        begins = self.reader.clock_counter(first.cpu, self.views[0].opened)
        clock: Any
        if self.arm64:
            clock = GenericSchedClock.start(self.setting.guest_khz * 1000, begins)
        else:
            clock = NativeSchedClock.start(self.setting.guest_khz, begins)
        slept_itself = False
        for keeper in self.outcome.tracker.keepers():
            if keeper.kernel != self.kernel:
                continue
            if keeper.asleep:
                clock.suspend(keeper.tk.cycle_last)
            elif slept_itself:
                clock.resume(keeper.tk.cycle_last)
            slept_itself = keeper.asleep
            if not keeper.asleep:
                lines[keeper.index] = type(clock)(**{name: getattr(clock, name) for name in clock.fields})
        return lambda view, t, kvmclock: lines[view.keeper.index].ns(self.reader.clock_counter(view.cpu, t))

    def _host(self, clock: str, view: Spanned, t: int) -> Row:
        """The host's same clock: its base clock for kvmclock; true time for REALTIME, where the guest is at rest."""
        if clock == "KVMCLOCK":
            return {"host_ns": self.host_at(t, view.since + 1)[1], "err_ns": KVMCLOCK_NS}
        rests = view.view.last or (view.view.slept == 0 and view.closed <= self.first_stop)
        if clock == "REALTIME" and rests and not self.kernel:
            true_ns = FIRST_REALTIME_NS + (self.world.ps_of(t) - self.world.ps_of(self.booted)) // PS_PER_NS
            return {"host_ns": true_ns, "err_ns": error_ns(self.outcome)}
        return {}

    def _page_row(self, at: int, view: Spanned, seen: dict[int, tuple[int, bool]]) -> None:
        page, vcpu = view.view.cpu.page, view.view.vcpu
        if page is None or seen.get(vcpu) == (view.view.cpu.index, True):
            return
        seen[vcpu] = view.view.cpu.index, True
        text = f"{page.tsc_timestamp}/{page.system_time}/{page.tsc_to_system_mul}/{page.tsc_shift}"
        self.timed.event(at, view.since + 0.5, "page", vcpu=vcpu, id=f"vcpu{vcpu}", version=page.version, text=text)

    # ---- the log

    def _dmesg(self, at: int, step: float, text: str) -> None:
        self.timed.event(at, step, "dmesg", text=text)

    def _complaints(self, stops: list[Stop]) -> None:
        """What the watchdogs say of a guest in good health after each stop; GUEST_STOPPED in a page excuses it."""
        rows = [row for row in self.timed.sorted() if "clock" in row]
        for stop in stops:
            gained = {
                clock: self._gained(rows, clock, stop.since.closed, stop.until.opened)
                for clock in ("MONOTONIC", "SCHED_CLOCK")
            }  # fmt: skip
            page, vcpu = stop.until.view.cpu.page, stop.until.view.vcpu
            paused = page is not None and bool(page.flags & PVCLOCK_GUEST_STOPPED)
            for name in over_a_jump(
                hz=250, sched_clock_ns=gained["SCHED_CLOCK"], monotonic_ns=gained["MONOTONIC"], paused=paused
            ):
                text = COMPLAINTS[name].format(vcpu=vcpu, s=max(gained.values()) // 10**9)
                self._dmesg(stop.until.opened, stop.until.since + 0.5, text)

    @staticmethod
    def _gained(rows: list[Row], clock: str, since: int, until: int) -> int:
        before = [row["value"] for row in rows if row["clock"] == clock and row["h1"] <= since]
        after = [row["value"] for row in rows if row["clock"] == clock and row["h0"] >= until]
        return int(after[0] - before[-1]) if before and after else 0


def signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def recorder(world: Any, outcome: Outcome) -> Recorder:
    """For `protocol.Thread.recorder`."""
    return Recorder(world, outcome)


__all__ = ["Recorder", "recorder", "signed"]
