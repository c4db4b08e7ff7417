"""What a model sees of whoever runs it, with forms or with integers; and what is assumed of time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from guestclock.arith.affine import Form, Symbol
from guestclock.sim.checkpoint import Checkpoint

Actor = Coroutine[Checkpoint, None, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What is assumed of time, in units of the search (cycles of the first host's TSC).

    horizon: every event lies in 0..horizon. delay: an actor that can go on does so within this. delays: other delays
    for single actors, by name. calls: the delay is that of a whole call with all its steps, not of each step.
    section: the reads of one step lie within this. ps: (num, den) of a unit, in ps.
    """

    horizon: int
    delay: int
    section: int
    delays: tuple[tuple[str, int], ...] = ()
    ps: tuple[int, int] = (1, 1)
    calls: bool = False

    @property
    def horizon_ns(self) -> int:
        num, den = self.ps
        return -(-self.horizon * num // (den * 1000))

    def of(self, actor: str) -> int:
        return next((delay for name, delay in self.delays if name == actor), self.delay)


class Between(int):
    """A delay, in ps, of at least this and at most `most`."""

    most: int

    @classmethod
    def of(cls, least: int, most: int) -> Between:
        made = cls(least)
        made.most = most
        return made


class Build(Protocol):
    """Makes the model anew: spawns its actors, answers whatever the leaves' judges want to see again."""

    def __call__(self, world: World, /) -> Any: ...


class World(Protocol):
    """What a model sees of the explorer, or of the integer replay."""

    @property
    def now_ps(self) -> Any: ...
    @property
    def here(self) -> str:
        """The step that is being carried out, or "" before the first: the same name in every order."""
        ...

    @property
    def events(self) -> Sequence[Any]:
        """The steps so far, each with name, label, start and end (symbols of times)."""
        ...

    symbolic: bool

    def value(self, symbol: Symbol) -> int:
        """A symbol's value; in an integer run only."""
        ...

    @property
    def horizon_ns(self) -> int: ...
    @property
    def latest(self) -> Symbol:
        """The time of the latest clock read, or of the step itself."""
        ...

    def ps_of(self, units: Any) -> Any:
        """An instant in ps: exact for a form, rounded up for an int."""
        ...

    def read_ps(self) -> Any: ...
    def spawn(self, name: str, actor: Actor, *, daemon: bool = False) -> None: ...
    def unknown(self, name: str, lo: int, hi: int) -> Any:
        """A value from outside, whole, lo..hi: the same name is the same value."""
        ...

    def clock(self, name: str, rows: Callable[[Form], Iterable[Form]], lo: int, hi: int) -> Any:
        """A reading that only bounds describe (a contract): rows of it, each at most 0."""
        ...

    def new_call(self, within: int | None = None) -> None:
        """The actor whose step this is begins a call: with Bounds.calls its delay is counted anew from this step's end.

        within: this call's own bound, units.
        """
        ...

    def after_step(self, see: Callable[[int], None]) -> None:
        """Calls `see` with the number of each event when its step is over; what it looks at is not recorded."""
        ...
