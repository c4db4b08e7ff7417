"""What an invariant's check is: it is shown the trace once, in order, and keeps count and the worst case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from guestclock.check.recorded.block import Block
from guestclock.check.recorded.columns import KINDS
from guestclock.check.recorded.header import Header

BOUNDARIES = frozenset(kind.name for kind in KINDS if kind.boundary)
HOLDS, VIOLATED, NOT_JUDGED = "holds", "violated", "not judged"


@dataclass(frozen=True, slots=True)
class Finding:
    """One place where an invariant does not hold. amount: how far beyond what is allowed, in `unit` ("" for none).

    at: the places in the file, the later one last. about: `vcpu`, `clock`, and the readings, where there are some.
    """

    said: str
    at: tuple[str, ...]
    amount: int = 0
    unit: str = "ns"
    about: Mapping[str, Any] = field(default_factory=dict)


class Check:
    """One invariant. A subclass sees readings and events in the trace's order, and calls `compare` and `violate`."""

    number: ClassVar[int]
    name: ClassVar[str]
    about: ClassVar[str]
    """What should be so."""
    needs: ClassVar[str]
    """What a trace must have for it to be judged."""
    tolerance: ClassVar[str]
    blind: ClassVar[str]
    """What it cannot see."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.compared = 0
        self.violations = 0
        self.first: Finding | None = None
        self.worst: Finding | None = None
        self.remarks: list[str] = []

    # ---- what it is shown

    def readings(self, block: Block) -> None:
        """Readings with no boundary event between them; the other events among them have been shown before."""

    def end(self) -> None:
        """The trace is over."""

    # on_<kind>(event): for each kind of event that it wants to see

    # ---- what it says

    def compare(self, count: int = 1) -> None:
        self.compared += count

    def violate(self, finding: Finding, count: int = 1) -> None:
        assert count > 0
        self.violations += count
        if self.first is None:
            self.first = finding
        if self.worst is None or finding.amount > self.worst.amount:
            self.worst = finding

    @property
    def status(self) -> str:
        if self.violations:
            return VIOLATED
        return HOLDS if self.compared else NOT_JUDGED

    @property
    def label(self) -> str:
        return f"I{self.number}"


def shown(checks: list[Check]) -> dict[str, list[Any]]:
    """By kind of event, the methods that want it."""
    return {
        kind.name: [method for check in checks if (method := getattr(check, f"on_{kind.name}", None))] for kind in KINDS
    }
