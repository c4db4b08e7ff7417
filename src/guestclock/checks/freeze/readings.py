"""A run of the freeze thread as a trace of readings: every reader that could read, whenever it could.

With times (`clocks`): V1 reads by system call, vDSO and fast timekeeper whenever it runs and the sequence is even, V0
whenever it is not in the handler, an NMI on V0 wherever none is held back; and the run's own two readings. Order alone
(`faults`): who runs the image, and whose it is. `h0` and `h1` are true time, in cycles of the source's TSC.

A guest whose old epoch is closed at the stop counts as frozen from there: what is read until then is counted. Where
the frequency changes no rate is told, so that none is judged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from guestclock.checks.freeze import clock_states, fault_states
from guestclock.checks.freeze.clock_states import ONE, Line
from guestclock.checks.readings import Readings, Recorder, Row, Timed, instants, ntp_columns, units_of
from guestclock.guest.freeze import MIGRATED, SAME_HOST, STOP
from guestclock.linux import Timekeeper

SOURCE, TARGET = "source", "target"
SANDWICH = 24
MOST_READINGS = 10
"""How many readings a vCPU takes in a row, by all its ways."""

EVERY_US = 50_000
TAIL_NS = 20_000_000


@dataclass(frozen=True, slots=True)
class After:
    """The guest's memory and vCPUs after a step."""

    number: int
    kernel: Line
    vdso: Line
    fast: Line
    runs: tuple[bool, bool]
    offsets: tuple[int, int]
    site: int
    gate: bool
    frozen: bool
    thawed: bool
    offs_boot_ns: int
    offs_real_ns: int
    ntp: Row
    image: str


def recorder(world: Any, outcome: Any) -> Recorder | None:
    """For `protocol.Thread.recorder`; None for worlds of guests in guests, whose guest is another's."""
    if isinstance(outcome, clock_states.Outcome) and outcome.guest is not None:
        return _Clocks(world, outcome)
    if isinstance(outcome, fault_states.Outcome):
        return _Faults(world, outcome)
    return None


class _Clocks:
    def __init__(self, world: Any, outcome: clock_states.Outcome) -> None:
        self.world, self.outcome, self.guest = world, outcome, outcome.guest
        self.move, self.protocol = outcome.move, outcome.protocol
        self.seen: list[After] = []
        self.timed = Timed()
        self.per_us = self.move.source_khz / 1000
        world.after_step(self._look)

    # ---- during the run

    def _look(self, number: int) -> None:
        vm, tk = self.guest.vm, self.guest.tk
        kernel, vdso, fast = (Line(**{name: getattr(line, name) for name in line.fields}) for line in self._lines())
        self.seen.append(
            After(
                number, kernel, vdso, fast, (vm.runs0, vm.runs1), (vm.offset0, vm.offset1), vm.site, vm.gate, vm.frozen,
                vm.thawed, tk.offs_boot_ns, tk.offs_real_ns, ntp_columns(tk.ntp), self._image(tk),
            )
        )  # fmt: skip

    def _lines(self) -> tuple[Line, Line, Line]:
        return self.guest.kernel, self.guest.vdso, self.guest.fast

    def _image(self, tk: Timekeeper) -> str:
        """Of struct timekeeper, the vDSO's data and the fast timekeepers."""
        parts = [f"{name}={getattr(line, name)}" for line in self._lines() for name in line.fields]
        parts += [f"{name}={getattr(tk, name)}" for name in ("cycle_last", "mono_snsec", "raw_snsec", "mono_mult")]
        return sha256("/".join(parts).encode()).hexdigest()[:12]

    # ---- afterwards

    def readings(self) -> Readings:
        self.events = list(self.world.events)
        self.labels = [event.label for event in self.events]
        self._stages()
        for stretch in self._stretches():
            for at in instants(stretch[0], stretch[1], self.per_us, EVERY_US, 2 * SANDWICH * MOST_READINGS):
                self._batch(at, *stretch)
        self._own()
        return Readings(self._header(), self.timed.sorted())

    @property
    def one_rate(self) -> bool:
        move = self.move
        ratios = (move.source_ratio, move.target_ratio) == (ONE, ONE)
        return ratios and (move.status == SAME_HOST or move.source_khz == move.target_khz)

    def _header(self) -> dict[str, Any]:
        steered = bool(self.move.tick_step)
        told = {
            "vm": "freeze", "vcpus": 2, "host_hz": self.move.source_khz * 1000, "logs": "inject set",
            "backstep_ns": 0,
        }  # fmt: skip
        if self.one_rate:
            told["counter_hz"] = self.move.guest_khz[0] * 1000
            if not steered:
                clock = self.move.clocksources[0]
                told |= {"mult": clock.mult, "shift": clock.shift, "freq_ppm": 0.0}
        elif self.move.policy == STOP:
            # Without a rate it is judged whether MONOTONIC steps back over the stop, and nothing more.
            told["design"] = "corrected"
        return told

    # ---- the protocol's steps

    def _at(self, label: str) -> int | None:
        """The number of the step of that name, if the run came to it."""
        return self.labels.index(label) if label in self.labels else None

    def _place(self, number: int) -> int:
        return units_of(self.world, self.events[number].start)

    def _event(self, number: int, kind: str, behind: float = 0.0, **columns: Any) -> None:
        self.timed.event(self._place(number), number + behind, kind, **columns)

    def _stages(self) -> None:
        first = self.seen[0]
        self._event(0, "ntp", **first.ntp)
        self._entries(0, SOURCE, (0, 1))
        to_the_letter = not (self.protocol.rules.closes and self.protocol.stop_of_all) or self.protocol.blocks_vdso
        frozen, stops, moved = self._at("4 frozen"), self._at("6 stops V1"), self._at("6 has moved it")
        begins = frozen if to_the_letter else stops
        if begins is not None:
            self._event(begins, "freeze", 0.1, text="frozen", id=self.seen[begins].image)
        if stops is not None:
            self._boundary(stops, "stop", 1, self.seen[stops - 1])
            self._event(stops, "freeze", 0.2, text="acked", id=self.seen[stops].image)
        if moved is not None:
            if self.move.status == MIGRATED:
                self._event(moved, "commit", id=TARGET)
            if self.move.status == MIGRATED or self.move.reset:  # a TSC that came back with any value is another's
                self._event(moved, "move", text="migrate")
            self._event(moved, "freeze", 0.2, text="moved", id=self.seen[moved].image)
        self._goes_on()

    def _goes_on(self) -> None:
        lets, anew = self._at("8 lets it run"), self._at("9 reconfigures")
        over, all_run = self._at("10 unfreezes"), self._at("11 lets all run")
        owner = TARGET if self.move.status == MIGRATED else SOURCE
        if lets is not None:
            self._boundary(lets, "resume", 0, self.seen[lets])
            self._entries(lets, owner, (0,) if self.protocol.v0_first else (0, 1))
        if anew is not None:
            self._event(anew, "freeze", -0.1, text="reconf", id=self.seen[anew - 1].image)
        if over is not None:
            self._event(over, "freeze", 0.1, text="thawed")
            moved = self.seen[over].offs_boot_ns - self.seen[0].offs_boot_ns
            if moved:
                self._event(over, "inject", 0.2, ns=moved)
            if self.move.status == MIGRATED:
                self._event(over, "ntp", 0.3, **self.seen[over].ntp)
            for line in ("kernel", "vdso", "fast"):
                self._page(len(self.seen) - 1, line)
        if all_run is not None:
            self._entries(all_run, owner, (1,))

    def _page(self, number: int, name: str) -> None:
        """A sequence at rest."""
        line: Line = getattr(self.seen[number], name)
        if not self.seen[number].frozen:
            self._event(number, "page", 0.9, id=name, version=line.seq, text=f"{line.cycle_last}/{line.snsec}")

    def _entries(self, number: int, host: str, vcpus: tuple[int, ...]) -> None:
        for vcpu in vcpus:
            self._event(number, "entry", 0.3, vcpu=vcpu, id=host)

    def _boundary(self, number: int, kind: str, vcpu: int, after: After) -> None:
        event = self.events[number]
        first, last = (units_of(self.world, instant) for instant in (event.start, event.end))
        slept = self.guest.vm.slept_ps if kind == "resume" else 0
        passed = self.world.ps_of(first)
        self._event(
            number, kind, c0=self._counter(first, vcpu, after), c1=self._counter(last, vcpu, after), h0=first, h1=last,
            host_monotonic_ns=(passed - slept) // 1000, host_boottime_ns=passed // 1000,
        )  # fmt: skip

    def _counter(self, t: int, vcpu: int, after: After) -> int:
        return int(self.guest._counted(self.world.ps_of(t), after.site) + after.offsets[vcpu])

    # ---- readings

    def _stretches(self) -> Iterator[tuple[int, int, After]]:
        """From one step to the next, where no other is still going on."""
        ended = 0
        for place, after in enumerate(self.seen):
            ended = max(ended, units_of(self.world, self.events[place].end))
            tail = ended + int(TAIL_NS * self.per_us / 1000)
            until = self._place(place + 1) if place + 1 < len(self.seen) else tail
            if until >= ended:
                yield ended, until, after

    def _readers(self, after: After) -> Iterator[tuple[int, str, str, Line]]:
        """(vCPU, context, path, what it reads) of whoever can read now."""
        handler = self._at("4 sequence odd")
        in_handler = handler is not None and after.number >= handler and not after.thawed
        for vcpu in (0, 1):
            if not after.runs[vcpu] or (vcpu == 0 and in_handler):
                continue
            for path, line in (("syscall", after.kernel), ("vdso", after.vdso)):
                if line.seq % 2 == 0:
                    yield vcpu, "task", path, line
            yield vcpu, "task", "fast", after.fast
        if after.runs[0] and not after.gate:
            yield 0, "nmi", "fast", after.fast

    def _batch(self, at: int, opened: int, closed: int, after: After) -> None:
        apart = min(SANDWICH, (closed - at) // (2 * MOST_READINGS))
        begins = [at, at]
        for vcpu, context, path, line in self._readers(after):
            t = begins[vcpu]
            if context == "nmi" and not line.halted:
                self.timed.event(t, after.number + 0.5, "nmi", vcpu=vcpu)
            names = ("MONOTONIC",) if path == "fast" else ("MONOTONIC", "BOOTTIME", "REALTIME", "MONOTONIC")
            for name in names:
                row = self._row(t, apart, vcpu, after, line, name)
                self.timed.add(t, after.number + 0.5, row | {"context": context, "path": path})
                t += 2 * apart
            begins[vcpu] = t

    def _row(self, t: int, apart: int, vcpu: int, after: After, line: Line, clock: str) -> Row:
        taken = t + apart
        ns = int(line.ns(self._counter(taken, vcpu, after)))
        # REALTIME and BOOTTIME part by what they did at first: both are moved by the same.
        real = self.seen[0].offs_real_ns - self.seen[0].offs_boot_ns
        offset = {"MONOTONIC": 0, "BOOTTIME": line.offs_boot_ns, "REALTIME": line.offs_boot_ns + real}[clock]
        row: Row = {"vcpu": vcpu, "h0": max(t - 1, 0), "h1": t + 2 * apart + 1, "clock": clock, "value": ns + offset}
        if not line.halted:
            row |= {"c0": self._counter(t, vcpu, after), "c1": self._counter(t + 2 * apart, vcpu, after)}
        return row

    def _own(self) -> None:
        """The run's two readings: they stand where they were handed out."""
        for reading in self.outcome.readings:
            looked, vcpu = self.events[reading.number], 0 if reading.kind == "nmi" else 1
            t = units_of(self.world, looked.start)
            context, path = ("nmi", "fast") if reading.kind == "nmi" else ("task", reading.kind)
            clocks_read = [("MONOTONIC", reading.ns), ("BOOTTIME", reading.boottime_ns)]
            if reading.kind == "sched":
                path, clocks_read = "syscall", [("SCHED_CLOCK", reading.ns)]
            for clock, ns in clocks_read:
                row = {"vcpu": vcpu, "h0": max(t - 1, 0), "h1": units_of(self.world, looked.end) + 1, "clock": clock,
                       "value": int(ns), "context": context, "path": path}  # fmt: skip
                if not reading.halted:
                    row |= {"c0": int(reading.cycles), "c1": int(reading.cycles)}
                self.timed.add(t, reading.number + 0.4, row)


class _Faults:
    def __init__(self, world: Any, outcome: fault_states.Outcome) -> None:
        self.world, self.outcome = world, outcome
        self.timed = Timed()
        self.owner = ""
        self.generation = 0
        world.after_step(self._look)

    def _look(self, number: int) -> None:
        event, between = self.world.events[number], self.outcome.between
        at = units_of(self.world, event.start)
        # Without a token the image is handed over as it is sent.
        handed = event.label == ("6 hands the token over" if self.outcome.protocol.token else "6 sends the image")
        if handed:
            self._commit(at, number, TARGET)
        if between.generation != self.generation:
            self.generation = between.generation
            self._commit(at, number, SOURCE)
        for host, side in zip((SOURCE, TARGET), self.outcome.sides, strict=True):
            # Whoever runs leaves and enters all the time.
            for vcpu, runs in enumerate((side.runs0, side.runs1)):
                if runs and side.alive:
                    self.timed.event(at, number + 0.3, "entry", vcpu=vcpu, id=host)

    def _commit(self, at: int, number: int, owner: str) -> None:
        if owner != self.owner:
            self.owner = owner
            self.timed.event(at, number + 0.1, "commit", id=owner)

    def readings(self) -> Readings:
        last = len(self.world.events) - 1
        at = units_of(self.world, self.world.events[last].end)
        for host, side, image in zip((SOURCE, TARGET), self.outcome.sides, self.outcome.images, strict=True):
            if side.alive and side.runs0 and side.runs1 and not self.outcome.between.hung:
                self.timed.event(at, last + 0.9, "page", id=f"tk_core on the {host}", version=1 if image.odd else 2)
        return Readings({"vm": "freeze", "vcpus": 2}, self.timed.sorted())


__all__ = ["recorder"]
