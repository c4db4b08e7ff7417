"""What a property found in a trace, as values; the report makes sentences of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from guestclock.check.span import Span
from guestclock.check.story import Story

NOTHING = Span(0, 0)


@dataclass(frozen=True, slots=True)
class Mark:
    """One place in a trace where the property `name` does not hold.

    what: "steps back", "jumps ahead" or "falls behind" (a clock of `vcpus`), "differs" (their clock is `amount` ahead
    of that of `than`), "parts" (it is `amount` further ahead of their other counter than it was), "says stable" (the
    pages of `vcpus` do, though the kvmclock of `than` is `amount` ahead of theirs), "odd" or "unnumbered" (a page of
    theirs). clock: one of `vmm.clocks`, "get-clock" (KVM_GET_CLOCK) or "page". amount: in `unit`, "cycles", "ticks" or
    "ns"; a reading's sandwich makes it a span. ns: the same as time, where it is a counter's. ongoing: it was so at the
    look before, with the same vCPUs.
    """

    name: str
    step: int
    vm: int
    vcpus: tuple[int, ...]
    clock: str
    what: str
    amount: Span = NOTHING
    unit: str = "ns"
    ns: Span | None = None
    than: tuple[int, ...] = ()
    stable: bool = False
    ongoing: bool = False

    @property
    def time_ns(self) -> Span:
        """The amount as nanoseconds."""
        return self.amount if self.ns is None else self.ns

    def as_json(self) -> dict[str, Any]:
        told = asdict(self)
        for name in ("amount", "ns"):
            span = getattr(self, name)
            told[name] = None if span is None else [span.lo, span.hi]
        return told


@dataclass(frozen=True, slots=True)
class Property:
    """Something that should be true of every trace of that architecture. source: what says so.

    judges: whether a trace has anything that could break it. One vCPU agrees with everybody there is, and says nothing.
    """

    arch: str
    name: str
    meaning: str
    source: str
    check: Callable[[Story], Iterator[Mark]]
    judges: Callable[[Story], bool]
