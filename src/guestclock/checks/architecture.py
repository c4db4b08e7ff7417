"""What the checker must know of an architecture: how its KVM is made, what a window is, what calls touch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from guestclock.checks.spec import Site, Spec
from guestclock.checks.windows import Tracker
from guestclock.explore.world import World
from guestclock.kvm.api import Op, Vcpu
from guestclock.kvm.model import ModelKvm
from guestclock.sim import Emit


@dataclass(frozen=True, slots=True)
class Left:
    """Something that two restores, one after the other, should leave the same.

    who: in words. unit: "ns" or a counter's. moved: by how much the second moved it, from the times of a run's symbols.
    """

    who: str
    unit: str
    moved: Callable[[Callable[[str], Any]], Any]


@dataclass(frozen=True, slots=True)
class Architecture:
    """What differs.

    clocks: a guest's. kvm: one host's, on a machine whose times are unknown. tracker: looks at all hosts. boots: what a
    guest's kernel does with a vCPU of its own before anything else. captures, sets: whether a call of the VMM's reads,
    or decides, what that clock (of that vCPU) will be. left: what a restore has left of the clocks, to be the same
    after a second one. state: what a VM's clocks are made of at one moment.
    """

    name: str
    clocks: tuple[str, ...]
    kvm: Callable[[World, Site, Any, Emit | None, Spec], ModelKvm[Any, Any]]
    tracker: Callable[[World, Sequence[Any], list[str]], Tracker]
    boots: Callable[[Vcpu], Awaitable[None]]
    captures: Callable[[str, Op, int], bool]
    sets: Callable[[str, Op, int], bool]
    left: Callable[[Any, tuple[int, int], Any, Any], Iterator[Left]]
    state: Callable[[Any], Any]
