"""A stretch of a recorded trace in memory: readings as arrays, events between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from guestclock.check.recorded.columns import Event

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
NOBODY = -1
"""`epoch` of a reading that tells none."""

ARRAYS = (
    "file", "line", "vcpu", "clock", "value", "context", "path", "epoch", "c0", "c1", "has_c", "h0", "h1", "has_h",
    "host_ns", "err_ns", "has_host",
)  # fmt: skip


@dataclass
class Block:
    """Readings in the order in which they happened, as far as the trace says; all arrays are of one length.

    Counters are u64 seen as i64: differences are right as long as they are below 2^63. events: (how many readings come
    before it, event). names: of the files that `file` numbers.
    """

    names: Sequence[str]
    file: Ints
    line: Ints
    vcpu: Ints
    clock: Ints
    value: Ints
    context: Ints
    path: Ints
    epoch: Ints
    c0: Ints
    c1: Ints
    has_c: Bools
    h0: Ints
    h1: Ints
    has_h: Bools
    host_ns: Ints
    err_ns: Ints
    has_host: Bools
    events: list[tuple[int, Event]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.value)

    def take(self, rows: Ints | slice, events: list[tuple[int, Event]] | None = None) -> Block:
        return replace(self, events=events or [], **{name: getattr(self, name)[rows] for name in ARRAYS})

    def at(self, row: int) -> str:
        """Where a reading stands, as it is told."""
        return f"{self.names[self.file[row]]}: line {self.line[row]}"

    def pieces(self, boundaries: frozenset[str]) -> Iterator[Block | Event]:
        """The readings between boundary events, each with the other events among them, and those events in between."""
        start, inside = 0, []
        for position, event in self.events:
            if event.kind not in boundaries:
                inside.append((position - start, event))
                continue
            if position > start or inside:
                yield self.take(slice(start, position), inside)
            yield event
            start, inside = position, []
        if len(self) > start or inside:
            yield self.take(slice(start, None), inside)

    @cached_property
    def groups(self) -> list[tuple[int, int, Ints]]:
        """(vcpu, clock, its readings' rows in order), for each that there is."""
        return [(key >> 8, key & 0xFF, rows) for key, rows in grouped(self.vcpu << 8 | self.clock)]

    @cached_property
    def by_vcpu(self) -> list[tuple[int, Ints]]:
        return grouped(self.vcpu)


def grouped(keys: Ints) -> list[tuple[int, Ints]]:
    """(key, the rows that have it, in order), keys rising."""
    if len(keys) == 0:
        return []
    if keys[0] == keys[-1] and (keys == keys[0]).all():
        return [(int(keys[0]), np.arange(len(keys)))]
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    cuts = np.flatnonzero(np.diff(ranked)) + 1
    return [(int(keys[rows[0]]), rows) for rows in np.split(order, cuts)]


def joined(blocks: Sequence[Block], keys: Sequence[tuple[Ints, Ints]]) -> Block:
    """One block of several, by time. keys: of each block's readings and of its events, not falling."""
    names = blocks[0].names
    arrays = {name: np.concatenate([getattr(block, name) for block in blocks]) for name in ARRAYS}
    events = [event for block in blocks for _, event in block.events]
    row_keys = np.concatenate([rows for rows, _ in keys] + [ours for _, ours in keys])
    # An event comes before the readings that follow it in its own file, whatever shares its key.
    places = [np.arange(len(b)) * 2 + 1 for b in blocks] + [np.array([p * 2 for p, _ in b.events], int) for b in blocks]
    sources = [np.full(len(b), i) for i, b in enumerate(blocks)] + [
        np.full(len(b.events), i) for i, b in enumerate(blocks)
    ]
    order = np.lexsort((np.concatenate(places), np.concatenate(sources), row_keys))
    total = len(row_keys) - len(events)
    is_reading = order < total
    before = np.cumsum(is_reading)
    placed = [(int(before[i]), events[order[i] - total]) for i in np.flatnonzero(~is_reading)]
    rows = order[is_reading]
    return Block(names, events=placed, **{name: array[rows] for name, array in arrays.items()})
