"""What a run of a check's world leaves for the questions: the VMM's calls, windows, values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from guestclock.checks.architecture import Architecture
from guestclock.checks.host import Explored
from guestclock.checks.spec import Spec
from guestclock.explore.world import World
from guestclock.kvm.api import Op
from guestclock.kvm.model import ModelKvm

MIDDLE = "time has passed"
"""The note between an operation's two halves."""


@dataclass(slots=True)
class Call:
    """One call of the VMM's. before, after: symbols of the times around it. error: the errno's name, or empty."""

    op: Op
    site: int
    phase: str
    number: int
    before: str
    after: str
    answer: Any = None
    error: str = ""


@dataclass(slots=True)
class Outcome:
    """What a run of the world leaves for the questions; the same object whether times were forms or ints.

    vms: (site, id) of the guest's VM, on the first site and on the last. calls: the VMM's, in order.
    """

    spec: Spec
    world: World
    kvms: list[ModelKvm[Any, Any]]
    tracker: Any
    architecture: Architecture
    calls: list[Call] = field(default_factory=list)
    vms: list[tuple[int, int]] = field(default_factory=list)
    finished: bool = False
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def contracts(self) -> set[str]:
        return set().union(*(k.host.machine.contracts for k in self.kvms if isinstance(k.host.machine, Explored)))
