"""What a step did: which cells it read and wrote, what it came after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from guestclock.arith.affine import Form, Symbol

Cell = tuple[str, str]
"""A field of an object: (its name in this search, the field's)."""

Footprint = tuple[frozenset[Cell], frozenset[Cell]]
"""Cells a step read, cells it changed. A write of what is there already is a read."""


@dataclass(slots=True)
class Event:
    """One step of one actor. past, before: bit sets of event numbers, all and the direct ones."""

    actor: str
    n: int
    number: int
    label: str
    start: Symbol
    end: Symbol
    guarded: bool
    before: int = 0
    past: int = 0
    reads: set[Cell] = field(default_factory=set)
    writes: set[Cell] = field(default_factory=set)
    branches: list[Form] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    lessons: list[tuple[Any, ...]] = field(default_factory=list)
    disabled: list[str] = field(default_factory=list)
    signature: int = -1
    times: list[Symbol] = field(default_factory=list)
    after_last_of: tuple[tuple[Symbol, ...], int] = ((), 0)  # it begins so long after the last of these at the latest

    @property
    def name(self) -> str:
        return f"{self.actor}.{self.n}"

    @property
    def footprint(self) -> Footprint:
        return frozenset(self.reads), frozenset(self.writes)


@dataclass(slots=True)
class Refusal:
    """A guard that did not let its actor carry out step n.

    asked: after which event; again: which event made it be asked anew, if any.

    before: bit set of what it depends on: the writers of the cells that it read, and its actor's last event.
    """

    actor: str
    n: int
    cells: frozenset[Cell]
    asked: int
    before: int
    again: int | None = None


def bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low
