"""Questions to one order: which instants are compared, and what about them may not exceed the tolerance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from guestclock.arith.affine import Symbol
from guestclock.checks.windows import BOOT, Window
from guestclock.checks.world import Outcome

Instants = Callable[[Symbol], Any]
"""The time of a symbol, in units: a form while exploring, an int in a replay."""


@dataclass(frozen=True, slots=True)
class Instant:
    """A time of the question's own, somewhere in a window (from `after` to `before`)."""

    name: Symbol
    after: tuple[Symbol, ...] = ()
    before: tuple[Symbol, ...] = ()

    @classmethod
    def within(cls, name: Symbol, window: Window) -> Instant:
        return cls(name, (window.opened,), () if window.closed is None else (window.closed,))


@dataclass(frozen=True, slots=True)
class Ask:
    """How far can this go wrong?

    sense: in words, with the amount to come before it ("lost", "back"). unit: "ns" or "cycles". who: in words. id: the
    same in every run of the same order. events: numbers of the steps it hangs on. instants: times of its own; ordered:
    pairs of symbols, the first not after the second; at_most: (earlier, later, units). value: what is to be highest.
    tolerance: allowed besides what truncation alone makes.
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
    tolerance: int = 0


class Asks(Protocol):
    def __call__(self, outcome: Outcome, /) -> Iterator[Ask]: ...


@dataclass(frozen=True, slots=True)
class Question:
    """One property of the checker: a name, one line, where it comes from, what breaks when it does not hold."""

    name: str
    about: str
    source: str
    breaks: str
    asks: Asks
    default: bool = True
    needs: Callable[[Outcome], bool] = lambda outcome: True


QUESTIONS: dict[str, Question] = {}


def question(
    name: str, about: str, *, source: str, breaks: str, default: bool = True
) -> Callable[[Asks], Asks]:
    """Enters the decorated function as the property `name`."""

    def enter(asks: Asks) -> Asks:
        assert name not in QUESTIONS, name
        QUESTIONS[name] = Question(name, about, source, breaks, asks, default)
        return asks

    return enter


def guest_windows(outcome: Outcome) -> list[Window]:
    """The windows of the guest, wherever it ran: on a destination its vCPUs are the same ones. Its boot is left out."""
    vms = set(outcome.vms)
    windows = [w for w in outcome.tracker.windows() if w.phase != BOOT]
    return [w for w in windows if (w.site, w.vm) in vms] if vms else windows


def events_of(*windows: Window) -> tuple[int, ...]:
    return tuple(n for w in windows for n in (w.opener, w.closer) if n is not None)


def name_of(window: Window) -> str:
    return f"vCPU {window.vcpu}"
