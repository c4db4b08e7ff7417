"""One order of steps, run with forms for times: who may go on, what each step touched, what bounds its time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from guestclock.arith.affine import Form, Symbol, Value, judged_by
from guestclock.explore.event import Cell, Event, Refusal, bits
from guestclock.explore.judge import FloorNames, Interval, Judge, Outcome, Rows, Undecidable
from guestclock.explore.times import ORIGIN, Differences, Impossible
from guestclock.explore.world import Actor, Between, Bounds, Build
from guestclock.sim.checkpoint import Checkpoint, Guard
from guestclock.sim.state import State, watching


class Entry(NamedTuple):
    """One answer of the judge, and what it taught, so that a prefix can be run again without asking."""

    answer: Any
    lessons: tuple[tuple[Any, ...], ...]


@dataclass(slots=True)
class _Waiting:
    """An actor between two steps."""

    coroutine: Actor
    point: Checkpoint
    daemon: bool
    last: int  # number of its last event, or of the one that spawned it; -1: the start
    n: int = 0
    guard: bool = True
    cells: frozenset[Cell] = frozenset()
    beyond: bool = False  # what it waits for is not before the horizon
    refusal: Refusal | None = None
    limit: int | None = None  # of the present call, where it has one of its own
    since: int = -1  # node from which the present call is bounded; -1: from the last step's end


class Driver(Protocol):
    """Whoever chooses: the search."""

    def script(self, number: int) -> list[Entry]:
        """The answers known for event `number`, to which new ones are added."""
        ...

    def fork(self, run: Run, outcomes: Sequence[Outcome]) -> Any: ...


class _ScriptedJudge(Judge):
    """Gives the answers that are written down, and writes down new ones."""

    def __init__(self, run: Run, names: FloorNames) -> None:
        super().__init__(run, names)
        self.entries: list[Entry] = []
        self.position = 0
        self._lessons: list[tuple[Any, ...]] = []
        self._deep = False

    def _scripted(self, ask: Callable[..., Any], *question: Any) -> Any:
        if self._deep:
            return ask(*question)
        if self.position < len(self.entries):
            entry = self.entries[self.position]
            self.position += 1
            for lesson in entry.lessons:
                self._learn(*lesson)
            return entry.answer
        run: Any = self.context
        key = (run.partial_signature(), self.position)
        entry = run.answers.get(key)
        if entry is not None:
            for lesson in entry.lessons:
                self._learn(*lesson)
            self.entries.append(entry)
            self.position += 1
            return entry.answer
        self._lessons, self._deep, forks = [], True, run.forked
        try:
            answer = ask(*question)
        finally:
            self._deep = False
        entry = Entry(answer, tuple(self._lessons))
        if run.forked == forks:
            # What follows from an event's own past is the same wherever that past is.
            run.answers[key] = entry
        self.entries.append(entry)
        self.position += 1
        return answer

    def _learn(self, what: str, *told: Any) -> None:
        self._note(what, *told)
        if what == "settle":
            super().settle(*told)
        elif what == "floor":
            name, argument, whole, box = told
            if name not in self.floors:
                self.floors[name] = argument, whole
                self.box[name] = box
        else:
            label, rows = told
            self._branch(label, rows)

    def _branch(self, label: Any, rows: Rows) -> None:
        run: Any = self.context
        run.current.branches += rows
        run.current.labels.append(label)

    def at_most_zero(self, form: Form) -> bool:
        return bool(self._scripted(super().at_most_zero, form))

    def is_zero(self, form: Form) -> bool:
        return bool(self._scripted(super().is_zero, form))

    def wrap(self, form: Form, lowest: int, bits: int) -> Value:
        return self._scripted(super().wrap, form, lowest, bits)  # type: ignore[no-any-return]

    def floor(self, form: Form, divisor: int) -> Value:
        return self._scripted(super().floor, form, divisor)  # type: ignore[no-any-return]

    def _note(self, *lesson: Any) -> None:
        """What a step has taught belongs to it: a part of the order without that step does not know it."""
        run: Any = self.context
        if lesson[0] != "branch" and run.current is not None:
            run.current.lessons.append(lesson)

    def settle(self, form: Form, lo: int | None, hi: int | None) -> None:
        self._lessons.append(("settle", form, lo, hi))
        self._note("settle", form, lo, hi)
        super().settle(form, lo, hi)

    def name_floor(self, name: Symbol, argument: Form, whole: int, box: Interval) -> None:
        self._lessons.append(("floor", name, argument, whole, box))
        self._note("floor", name, argument, whole, box)
        super().name_floor(name, argument, whole, box)

    def _fork(self, outcomes: list[Outcome]) -> Any:
        label = self.context.fork(outcomes)
        rows = dict(outcomes)[label]
        self._lessons.append(("branch", label, rows))
        self._branch(label, rows)
        return label


@dataclass(slots=True)
class Shared:
    """What all runs of one search know in common: names of floors, signatures of events, answers by signature."""

    names: FloorNames = field(default_factory=FloorNames)
    signatures: dict[Any, int] = field(default_factory=dict)
    answers: dict[Any, Entry] = field(default_factory=dict)


class Run:
    """The context of one order. `step` lets one actor go on to its next checkpoint."""

    def __init__(self, build: Build, bounds: Bounds, shared: Shared, driver: Driver) -> None:
        self.bounds, self.driver = bounds, driver
        self.signatures, self.answers, names = shared.signatures, shared.answers, shared.names
        self.forked = 0
        self.judge = _ScriptedJudge(self, names)
        self.differences = Differences(bounds.horizon)
        self.nodes: dict[Symbol, int] = {}
        self.owner: list[int] = [-1]  # node -> event
        self.events: list[Event] = []
        self.unknowns: dict[Symbol, Interval] = {}
        self.contracts: dict[Symbol, list[Form]] = {}
        self.waiting: dict[str, _Waiting] = {}
        self.born: dict[str, int] = {}
        self.current: Event | None = None
        self._recording: tuple[set[Cell], set[Cell]] | None = None
        self._made = 0
        self._last_write: dict[Cell, int] = {}
        self._last_reads: dict[Cell, list[int]] = {}
        self._slots: dict[tuple[type, str], Any] = {}
        self._sees: list[Callable[[int], None]] = []
        self._farthest: dict[int, dict[int, int]] = {}
        self.ghost = False
        """No times allow what has been run: whatever follows is run only to see which steps race."""
        self._guarding = False
        self.refusals: list[Refusal] = []
        self._signed: tuple[int, frozenset[int]] = (-1, frozenset())
        with judged_by(self.judge), watching(self):
            self.world = build(self)

    # ---- what the model sees

    symbolic = True

    def value(self, symbol: Symbol) -> int:
        raise TypeError(f"{symbol} has no value while orders are explored")

    @property
    def horizon_ns(self) -> int:
        return self.bounds.horizon_ns

    @property
    def here(self) -> str:
        return self.current.name if self.current is not None else ""

    @property
    def latest(self) -> Symbol:
        return self.current.end if self.current is not None else ""

    def ps_of(self, units: Any) -> Any:
        num, den = self.bounds.ps
        if type(units) is not Form:
            return -(-units * num // den)
        return Form({s: c * num for s, c in units.terms.items()}, units.const * num, units.den * den)

    @property
    def now_ps(self) -> Any:
        if self.current is None:
            return 0
        return self._ps(self.current.end)

    def _ps(self, symbol: Symbol) -> Form:
        num, den = self.bounds.ps
        return Form({symbol: num}, 0, den)

    def read_ps(self) -> Any:
        event = self.current
        if event is None:
            return 0
        symbol = f"{event.name}:{len(event.times)}"
        self._time(symbol, event.number)
        self._later(symbol, event.end)
        event.times.append(symbol)
        event.end = symbol
        self.differences.at_most(self.nodes[symbol], self.nodes[event.start], self.bounds.section)
        return self._ps(symbol)

    def spawn(self, name: str, actor: Actor, *, daemon: bool = False) -> None:
        unique, k = name, 1
        if self._recording is not None:
            # Which of two of one name is the first is for all to see.
            self._recording[1].add(("", f"spawn {name}"))
        while unique in self.born:
            k += 1
            unique = f"{name} #{k}"
        last = -1 if self.current is None else self.current.number
        self.born[unique] = last
        self.waiting[unique] = _Waiting(actor, ("start", None, None), daemon, last)

    def unknown(self, name: str, lo: int, hi: int) -> Any:
        assert lo <= hi, (name, lo, hi)
        self.unknowns[name] = self.judge.box[name] = (lo, hi)
        return Form.of(name) if lo < hi else lo

    def clock(self, name: str, rows: Callable[[Form], Iterable[Form]], lo: int, hi: int) -> Any:
        self.judge.box[name] = (lo, hi)
        form = Form.of(name)
        self.contracts[name] = [row for row in rows(form) if type(row) is Form]
        return form

    def after_step(self, see: Callable[[int], None]) -> None:
        self._sees.append(see)

    def new_call(self, within: int | None = None) -> None:
        if self.current is not None and self.current.actor in self.waiting:
            actor = self.waiting[self.current.actor]
            actor.since, actor.limit = -1, within

    # ---- footprints: the observer of guestclock.sim.state

    def name(self, state: State) -> str:
        self._made += 1
        return f"{self.current.name if self.current else ''}/{self._made}"

    def read(self, state: State, name: str) -> None:
        if self._recording is not None:
            self._recording[0].add((state.watched_as, name))  # type: ignore[attr-defined]

    def write(self, state: State, name: str, value: Any) -> None:
        if self._recording is None:
            return
        kind = type(state)
        slot = self._slots.get((kind, name))
        if slot is None:
            slot = self._slots[kind, name] = getattr(kind.__base__, name)
        try:
            old = slot.__get__(state)
        except AttributeError:
            return  # the object is being made in this step: nobody else knows it
        same = old is value or (type(old) is type(value) and type(value) in _CONCRETE and old == value)
        self._recording[0 if same else 1].add((state.watched_as, name))  # type: ignore[attr-defined]

    # ---- order and time

    def _time(self, symbol: Symbol, event: int) -> int:
        node = self.nodes[symbol] = self.differences.node()
        self.owner.append(event)
        self.judge.box[symbol] = (0, self.bounds.horizon)
        return node

    def _later(self, later: Symbol, earlier: Symbol, by: int = 0) -> None:
        """later >= earlier + by."""
        self.differences.at_most(self.nodes[earlier], self.nodes[later], -by)

    def upper(self, x: Symbol, y: Symbol, exact: bool) -> int | None:
        if x not in self.nodes or y not in self.nodes:
            return None
        self._causes()
        if exact:
            return self.most_after(y).get(self.nodes[x])
        a, b = self.owner[self.nodes[x]], self.owner[self.nodes[y]]
        if a == b:
            return 0 if self.nodes[x] <= self.nodes[y] else self.bounds.section
        later = self.current if self.current is not None and b == self.current.number else self.events[b]
        return 0 if later.past >> a & 1 else None

    def contradicted(self) -> None:
        self.ghost = True

    def place(self, symbol: Symbol) -> int:
        return self.nodes.get(symbol, -1)

    def most_after(self, y: Symbol) -> dict[int, int]:
        """How far each time of the current event's past can be after time y."""
        return self.farthest_from(self.nodes[y])

    def farthest_from(self, node: int) -> dict[int, int]:
        """Likewise of a node. Where bounds contradict each other nothing bounds, and this order is a ghost."""
        if self.ghost:
            return {}
        try:
            return self._farthest_from(node)
        except Impossible:
            self.ghost = True
            return {}

    def _farthest_from(self, node: int) -> dict[int, int]:
        known = self._farthest.get(node)
        if known is None:
            known = self._farthest[node] = self.differences.farthest(node, self._past_nodes())
        return known

    def _past_nodes(self) -> int:
        assert self.current is not None
        events = self.current.past | 1 << self.current.number
        mask = 1
        for node, owner in enumerate(self.owner):
            if owner >= 0 and events >> owner & 1:
                mask |= 1 << node
        return mask

    def _causes(self) -> None:
        """Brings the current event's past up to what it has touched so far."""
        event = self.current
        assert event is not None
        if event.number < len(self.events):
            return  # it is over, and an onlooker asks: what it wrote itself by now is none of its causes
        before = event.before
        for cell in event.reads:
            last = self._last_write.get(cell)
            if last is not None:
                before |= 1 << last
        for cell in event.writes:
            last = self._last_write.get(cell)
            if last is not None:
                before |= 1 << last
            for reader in self._last_reads.get(cell, ()):
                before |= 1 << reader
        new = before & ~event.before
        if new or len(self.nodes) != getattr(self, "_seen_nodes", -1):
            self._farthest.clear()
            self.judge.forget()
            self._seen_nodes = len(self.nodes)
        if new:
            event.before = before
            for number in bits(new):
                event.past |= self.events[number].past | 1 << number
                self._later(event.start, self.events[number].end)

    # ---- steps

    def enabled(self) -> list[str]:
        return [name for name, actor in self.waiting.items() if self._can_go(actor)]

    def _can_go(self, actor: _Waiting) -> bool:
        _, until, delay_ps = actor.point
        if actor.beyond:
            return until is not None and actor.guard
        if until is not None and not actor.guard:
            return delay_ps is not None
        return True

    def stuck(self) -> list[tuple[str, str]]:
        """Actors that are no daemons and wait for what nobody will do: (name, label)."""
        return [(n, a.point[0]) for n, a in self.waiting.items() if not a.daemon and not self._can_go(a)]

    def step(self, name: str) -> Event:
        actor = self.waiting[name]
        label, until, delay_ps = actor.point
        actor.n += 1
        number = len(self.events)
        symbol = f"{name}.{actor.n}"
        event = Event(name, actor.n, number, label, symbol, symbol, until is not None)
        self._time(symbol, number)
        self._farthest.clear()
        self.judge.forget()
        self._signed = -1, frozenset()
        self.current = event
        if actor.last >= 0:
            event.before = 1 << actor.last
            event.past = self.events[actor.last].past | 1 << actor.last
            self._later(event.start, self.events[actor.last].end)
        self._bound(event, actor, until, delay_ps)
        event.reads |= actor.cells
        self.judge.entries = self.driver.script(number)
        self.judge.position = 0
        self._recording, self._made = (event.reads, event.writes), 0
        try:
            with judged_by(self.judge), watching(self):
                point = actor.coroutine.send(None)
        except StopIteration:
            del self.waiting[name]
        else:
            actor.point, actor.last, actor.guard, actor.cells = point, number, True, frozenset()
        finally:
            self._recording = None
        self._causes()
        self.events.append(event)
        event.reads -= event.writes
        for cell in event.writes:
            self._last_write[cell] = number
            self._last_reads[cell] = []
        for cell in event.reads:
            self._last_reads.setdefault(cell, []).append(number)
        event.signature = self._signature(event)
        if name in self.waiting and actor.point[2] is not None:
            actor.beyond = self._earliest(event) + self.units(actor.point[2]) > self.bounds.horizon
            if self.ghost:
                # Without times nothing would end a timer that is set again and again.
                actor.beyond = actor.daemon and actor.n > 2
        self._guards(event, name)
        self.current = event
        for see in self._sees:
            with judged_by(self.judge):
                see(number)
        return event

    def _bound(self, event: Event, actor: _Waiting, until: Guard | None, delay_ps: Any) -> None:
        """How late this step can be: within the delay of when its actor could go on, or of when its call began."""
        at_most = self.differences.at_most
        limit = self.bounds.of(event.actor) if actor.limit is None else actor.limit
        node, last = self.nodes[event.start], ORIGIN
        if actor.last >= 0:
            last = self.nodes[self.events[actor.last].end]
        since = actor.since if actor.since >= 0 and self.bounds.calls else last
        if until is None and delay_ps is not None:
            units = self.units(delay_ps)
            at_most(last, node, -units)
            at_most(node, last, limit + (self.units(delay_ps.most) if type(delay_ps) is Between else units))
            since = -1
        elif until is None:
            at_most(node, since, limit)
        elif not actor.guard:
            at_most(last, node, -self.units(delay_ps))
            at_most(node, last, limit + self.units(delay_ps))
            since = -1
        else:
            if delay_ps is not None:  # the time-out wakes it, whatever it waits for
                at_most(node, last, limit + self.units(delay_ps))
            causes = self._guard_causes(actor)
            for number in bits(causes):
                event.before |= 1 << number
                event.past |= self.events[number].past | 1 << number
                self._later(event.start, self.events[number].end)
            latest = self._maximal(causes | (1 << actor.last if actor.last >= 0 else 0))
            if len(latest) != 1:
                # Of several concurrent causes only the last one bounds, and which that is no single row can say.
                event.after_last_of = tuple(self.events[k].end for k in latest), limit
                since = node
            else:
                if latest[0] != actor.last:
                    since = self.nodes[self.events[latest[0]].end]
                at_most(node, since, limit)
        actor.since = since

    def _guard_causes(self, actor: _Waiting) -> int:
        causes = 0
        for cell in actor.cells:
            last = self._last_write.get(cell)
            if last is not None:
                causes |= 1 << last
        return causes

    def _maximal(self, events: int) -> list[int]:
        return [a for a in bits(events) if not any(self.events[b].past >> a & 1 for b in bits(events) if b != a)]

    def units(self, ps: int) -> int:
        """A concrete duration in units, rounded up."""
        num, den = self.bounds.ps
        return -(-ps * den // num)

    def _earliest(self, event: Event) -> int:
        """The earliest time at which the current event can be over."""
        self._farthest.clear()
        return -self.most_after(event.end).get(ORIGIN, 0)

    def _guards(self, event: Event, stepped: str) -> None:
        """Evaluates what this step may have changed, and notes whom it let go on or stopped."""
        for name, actor in self.waiting.items():
            until = actor.point[1]
            if until is None:
                continue
            if name != stepped and actor.cells and not actor.cells & event.writes:
                continue
            cells: set[Cell] = set()
            self._recording, self._guarding = (cells, set()), True
            try:
                with judged_by(self.judge), watching(self):
                    value = bool(until())
            finally:
                self._recording, self._guarding = None, False
            if actor.guard and not value and name != stepped:
                event.disabled.append(name)
            actor.guard, actor.cells = value, frozenset(cells)
            if actor.refusal is not None:
                actor.refusal.again, actor.refusal = event.number, None
            if not self._can_go(actor):
                before = self._guard_causes(actor) | 1 << actor.last
                actor.refusal = Refusal(name, actor.n + 1, actor.cells, event.number, before)
                self.refusals.append(actor.refusal)

    def _signature(self, event: Event) -> int:
        """Equal for events of different orders that have the same past and took the same branches."""
        key = (
            event.actor,
            event.n,
            frozenset(self.events[b].signature for b in bits(event.before)),
            tuple(event.labels),
        )
        return self.signatures.setdefault(key, len(self.signatures))

    def partial_signature(self) -> Any:
        """Of the current event, as far as it has come."""
        event = self.current
        assert event is not None
        self._causes()
        if event.before != self._signed[0]:
            self._signed = event.before, frozenset(self.events[b].signature for b in bits(event.before))
        return event.actor, event.n, self._signed[1], tuple(event.labels)

    # ---- forks

    def fork(self, outcomes: Sequence[Outcome]) -> Any:
        if self._guarding:
            raise Undecidable("a guard compares unknown times")
        if self.current is None:
            raise Undecidable("unknown values are compared before the first step")
        self.forked += 1
        return self.driver.fork(self, outcomes)

    def close(self) -> None:
        """Ends every actor where it is. What they do on their way out (a `finally`) is done, and means nothing."""
        with judged_by(_Careless()):
            for actor in self.waiting.values():
                actor.coroutine.close()


class _Careless:
    """Answers whatever comes: for what is run only to be ended."""

    def at_most_zero(self, form: Form) -> bool:
        return True

    def is_zero(self, form: Form) -> bool:
        return False

    def floor(self, form: Form, divisor: int) -> Value:
        return 0

    def wrap(self, form: Form, lowest: int, bits: int) -> Value:
        return form


_CONCRETE = (bool, int, str, type(None))
