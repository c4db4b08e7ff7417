"""A third opinion: the same coroutines run with integers, at times that are drawn at random within the same bounds.

It owes nothing to the engine but the meaning of `Bounds`: one thing happens after the other in true time, so there are
no orders, no footprints and no programs here. A run that would need time beyond the horizon is given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from guestclock.arith.affine import Form
from guestclock.explore.world import Actor, Between, Bounds, Build
from guestclock.sim.checkpoint import Checkpoint


class OutOfBounds(Exception):
    """These times cannot be continued within the bounds."""


@dataclass(slots=True)
class Pending:
    """An actor between two steps. due: when its step begins; latest: and no later. Both None while it may not go on."""

    actor: Actor
    point: Checkpoint
    since: int
    n: int = 0
    due: int | None = None
    latest: int | None = None
    least: int = 0  # of `since`, whatever is drawn: by its own timers


@dataclass(slots=True)
class Happened:
    """A step: times in units."""

    name: str
    actor: str
    label: str
    start: int
    end: int
    times: list[int] = field(default_factory=list)


class IntegerWorld:
    """One random run; `run()` answers what the build returned."""

    def __init__(self, build: Build, bounds: Bounds, rng: Random) -> None:
        self.bounds, self.rng = bounds, rng
        self.now = 0
        self.events: list[Happened] = []
        self.unknowns: dict[str, int] = {}
        self._pending: dict[str, Pending] = {}
        self._born: set[str] = set()
        self._sees: list[Callable[[int], None]] = []
        self._current: Happened | None = None
        self._section_ends = 0
        self.made = build(self)

    # ---- what the model sees

    symbolic = False

    @property
    def horizon_ns(self) -> int:
        return self.bounds.horizon_ns

    def value(self, instant: int) -> int:
        """Times are numbers here, not names of them."""
        return instant

    def new_call(self, within: int | None = None) -> None:
        assert not self.bounds.calls, "delays of whole calls are not drawn here"

    @property
    def now_ps(self) -> int:
        return self.ps_of(self.now) if self._current is not None else 0

    @property
    def here(self) -> str:
        return self._current.name if self._current is not None else ""

    @property
    def latest(self) -> Any:
        return self.now

    def ps_of(self, units: int) -> int:
        num, den = self.bounds.ps
        return -(-units * num // den)

    def read_ps(self) -> int:
        if self._current is None:
            return 0
        self.now = self._drawn(self.now, self._section_ends)
        self._current.times.append(self.now)
        self._current.end = self.now
        return self.ps_of(self.now)

    def spawn(self, name: str, actor: Actor, *, daemon: bool = False) -> None:
        unique, k = name, 1
        while unique in self._born:
            k += 1
            unique = f"{name} #{k}"
        self._born.add(unique)
        self._pending[unique] = Pending(actor, ("start", None, None), self.now)

    def unknown(self, name: str, lo: int, hi: int) -> int:
        return self.unknowns.setdefault(name, self._drawn(lo, hi))

    def clock(self, name: str, rows: Callable[[Form], Iterable[Form]], lo: int, hi: int) -> int:
        """Any whole number that the contract allows: its rows are linear in this reading, the rest is ints here."""
        for row in rows(Form.of(name)):
            c, rest = row.terms[name], row.const
            lo, hi = (lo, min(hi, -rest // c)) if c > 0 else (max(lo, -(-rest // c)), hi)
        if lo > hi:
            raise OutOfBounds
        return self._drawn(lo, hi)

    def after_step(self, see: Callable[[int], None]) -> None:
        self._sees.append(see)

    # ---- time

    def _drawn(self, lo: int, hi: int) -> int:
        """Often at an edge: that is where worst cases are."""
        kind = self.rng.random()
        if kind < 0.3:
            return lo
        if kind < 0.6:
            return hi
        return self.rng.randint(lo, hi)

    def run(self) -> Any:
        """Raises OutOfBounds."""
        try:
            while True:
                for name, pending in self._pending.items():
                    self._schedule(name, pending)
                ready = [(p.due, self.rng.random(), name) for name, p in self._pending.items() if p.due is not None]
                if not ready:
                    return self.made
                due, _, name = min(ready)
                assert due is not None
                self._step(name, max(due, self.now))
        finally:
            for pending in self._pending.values():
                pending.actor.close()

    def _schedule(self, name: str, pending: Pending) -> None:
        """When its next step begins, drawn once; again where a guard has closed and opened."""
        _, until, delay_ps = pending.point
        limit, bounds = self.bounds.of(name), self.bounds
        units = None if delay_ps is None else -(-delay_ps * bounds.ps[1] // bounds.ps[0])
        if until is not None:
            if not until():
                pending.latest = None
                # A time-out: from then on, whenever.
                pending.due = None if units is None else max(self.now, pending.since + units + self._late(name))
                if pending.due is not None and pending.due > bounds.horizon:
                    pending.due = None
                return
            if pending.latest is not None:
                return
            earliest = max(self.now, pending.since)
            latest = earliest + limit
            if units is not None:  # the time-out wakes it, whatever it waits for
                latest = min(latest, pending.since + units + limit)
        elif pending.due is not None:
            return
        elif units is not None:
            if pending.least + units > bounds.horizon:
                return  # never: it is over before
            earliest, latest = pending.since + units, pending.since + units + limit
            if type(delay_ps) is Between:
                latest = pending.since + limit - (-delay_ps.most * bounds.ps[1] // bounds.ps[0])
        else:
            earliest, latest = pending.since, pending.since + limit
        latest = min(latest, bounds.horizon)
        if earliest > latest:
            raise OutOfBounds
        pending.due, pending.latest = self._drawn(earliest, latest), latest

    def _late(self, name: str) -> int:
        return self._drawn(0, self.bounds.of(name))

    def _step(self, name: str, at: int) -> None:
        pending = self._pending[name]
        if pending.latest is not None and at > pending.latest:
            raise OutOfBounds
        pending.n += 1
        self.now = at
        label, until, delay_ps = pending.point
        if until is None and delay_ps is not None:
            pending.least += -(-delay_ps * self.bounds.ps[1] // self.bounds.ps[0])
        others = [p.latest for other, p in self._pending.items() if other != name and p.latest is not None]
        # Nobody else's step becomes too late by how long this one takes.
        self._section_ends = max(at, min([at + self.bounds.section, self.bounds.horizon, *others]))
        event = self._current = Happened(f"{name}.{pending.n}", name, label, at, at)
        try:
            pending.point = pending.actor.send(None)
        except StopIteration:
            del self._pending[name]
        else:
            pending.since, pending.due, pending.latest = self.now, None, None
        event.end = self.now
        self.events.append(event)
        for see in self._sees:
            see(len(self.events) - 1)
