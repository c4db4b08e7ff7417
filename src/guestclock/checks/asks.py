"""Questions to one order: which instants are compared, and what about them may not exceed the tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple, Protocol, TypeVar

from guestclock.arith.affine import Form, Symbol
from guestclock.checks.outcome import MIDDLE, Call, Outcome
from guestclock.checks.windows import BEFORE, BOOT, surely_before
from guestclock.vmm.clocks import X86_64

Instants = Callable[[Symbol], Any]
"""The time of a symbol, in units: a form while exploring, an int in a replay."""


class Stretch(Protocol):
    """Of time, from one step to another."""

    @property
    def opener(self) -> int: ...
    @property
    def opened(self) -> Symbol: ...
    @property
    def closer(self) -> int | None: ...
    @property
    def closed(self) -> Symbol | None: ...


class Span(Stretch, Protocol):
    """... of one vCPU's: a window, or one of those that others can look into."""

    @property
    def site(self) -> int: ...
    @property
    def vm(self) -> int: ...
    @property
    def vcpu(self) -> int: ...


S = TypeVar("S", bound=Span)


@dataclass(frozen=True, slots=True)
class Instant:
    """A time of the question's own, somewhere in a window (from `after` to `before`)."""

    name: Symbol
    after: tuple[Symbol, ...] = ()
    before: tuple[Symbol, ...] = ()

    @classmethod
    def within(cls, name: Symbol, window: Stretch) -> Instant:
        return cls(name, (window.opened,), () if window.closed is None else (window.closed,))


@dataclass(frozen=True, slots=True)
class Ask:
    """How far can this go wrong?

    sense: in words, with the amount to come before it ("lost", "back"). unit: "ns", "cycles", "ticks" or what is
    counted. who: in words. id: the same in every run of the same order. events: numbers of the steps it hangs on.
    instants: times of its own; ordered: pairs of symbols, the first not after the second; at_most, at_least: (earlier,
    later, units). value: what is to be highest. tolerance: allowed besides what truncation alone makes; and
    with forgiving=False that is not allowed either: where truncation may be what is wrong.
    """

    sense: str
    unit: str
    who: str
    id: str
    events: tuple[int, ...]
    instants: tuple[Instant, ...]
    ordered: tuple[tuple[Symbol, Symbol], ...]
    value: Callable[[Instants], Any]
    at_most: tuple[tuple[Symbol, Symbol, int], ...] = ()
    at_least: tuple[tuple[Symbol, Symbol, int], ...] = ()
    tolerance: int = 0
    forgiving: bool = True


class Asks(Protocol):
    def __call__(self, outcome: Any, /) -> Iterator[Ask]:
        """Of what a world left: `world.Outcome`, or a thread's own."""
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """One property of the checker: a name, one line, where it comes from, what breaks when it does not hold.

    arch: whose guests it can be asked of. default: asked where none is named. running: the vCPUs must run again to
    answer it.
    """

    name: str
    about: str
    source: str
    breaks: str
    asks: Asks
    arch: tuple[str, ...] = (X86_64,)
    default: bool = True
    running: bool = True


QUESTIONS: dict[str, Question] = {}


def question(
    name: str,
    about: str,
    *,
    source: str,
    breaks: str,
    arch: tuple[str, ...] = (X86_64,),
    default: bool = True,
    running: bool = True,
) -> Callable[[Asks], Asks]:
    """Enters the decorated function as the property `name`."""

    def enter(asks: Asks) -> Asks:
        assert name not in QUESTIONS, name
        QUESTIONS[name] = Question(name, about, source, breaks, asks, arch, default, running)
        return asks

    return enter


def guest_windows(outcome: Outcome) -> list[Any]:
    """The windows of the guest, wherever it ran: on a destination its vCPUs are the same ones.

    Its boot is left out; in a scenario, where vCPUs run only when a step says so, all but the end of it.
    """
    vms = set(outcome.vms)
    windows = outcome.tracker.windows()
    last = {w.who: w.index for w in windows if w.phase == BOOT} if outcome.spec.program else {}
    windows = [w for w in windows if w.phase != BOOT or last.get(w.who) == w.index]
    return [w for w in windows if (w.site, w.vm) in vms] if vms else windows


def of_guest(outcome: Outcome, spans: Sequence[S]) -> list[S]:
    """Those of the guest's own VMs, also of its boot: a page of then may stand for long."""
    vms = set(outcome.vms)
    return [p for p in spans if not vms or (p.site, p.vm) in vms]


def events_of(*windows: Stretch) -> tuple[int, ...]:
    return tuple(dict.fromkeys(n for w in windows for n in (w.opener, w.closer) if n is not None))


def name_of(window: Span) -> str:
    return f"vCPU {window.vcpu}"


def inside(name: Symbol, *windows: Stretch) -> Instant:
    """An instant at which all of them are open."""
    closed = tuple(w.closed for w in windows if w.closed is not None)
    return Instant(name, tuple(w.opened for w in windows), closed)


Value = Callable[[Instants], Any]


def both_ways(value: Value, up: str, down: str) -> tuple[tuple[str, Value], tuple[str, Value]]:
    """A value that may go wrong upwards and downwards: what either is called, and what is then to be highest."""
    return (up, value), (down, lambda t: -value(t))


def scaled(value: Any, num: int, den: int) -> Any:
    """value * num / den, exact: a form with a denominator, or a fraction."""
    if type(value) is Form:
        return Form({s: c * num for s, c in value.terms.items()}, value.const * num, value.den * den)
    return Fraction(value * num, den)


def elapsed_ns(outcome: Outcome, units: Any) -> Any:
    """Units of time as ns of true time, exact."""
    return scaled(units, 1_000_000, outcome.spec.sites[0].khz)


class Section(NamedTuple):
    """The kernel section of a call in which KVM reads its clocks first: the step's number, and its last clock read."""

    number: int
    end: Symbol


def section(outcome: Outcome, call: Call) -> Section:
    """Of a call that reads no clock: its last step, where it begins."""
    events = outcome.world.events
    numbers = {e.name: n for n, e in enumerate(events) if e.name.startswith("VMM.")}
    first, last = _step(call.before) + 1, _step(call.after)
    for n in range(first, last + 1):
        event = events[numbers[f"VMM.{n}"]]
        if event.end != event.start:
            return Section(numbers[f"VMM.{n}"], event.end)
    number = numbers[f"VMM.{last}"]
    return Section(number, events[number].end)


def middle(outcome: Outcome) -> int:
    """The VMM's step after which the operation's second half begins; where there is none: beyond all."""
    steps = (_step(e.name) for e in outcome.world.events if e.label == MIDDLE and e.name.startswith("VMM."))
    return next(steps, 1 << 60)


def after_middle(outcome: Outcome, window: Any) -> bool:
    """Whether a vCPU came into this window because the operation's second half let it."""
    world = outcome.world
    number = next((n for n, e in enumerate(world.events) if e.label == MIDDLE and e.name.startswith("VMM.")), None)
    if number is None:
        return bool(window.phase != BEFORE)
    return surely_before(world, number, window.opener) if world.symbolic else bool(number < window.opener)


def same_half(outcome: Outcome, *windows: Any) -> bool:
    """Whether they lie on one side of the operation's middle. In a replay, where asks are only looked up: yes."""
    return not outcome.world.symbolic or len({after_middle(outcome, w) for w in windows}) == 1


def first_half(outcome: Outcome, call: Call) -> bool:
    """Whether the VMM made this call before the operation's middle."""
    return _step(call.before) < middle(outcome)


def _step(symbol: Symbol) -> int:
    """A step of the VMM's, counted, by a time in it."""
    return int(symbol.partition(":")[0].rpartition(".")[2] or 0)
