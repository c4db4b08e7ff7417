"""No clock steps back on its vCPU: I1, and what I8, I17 and I20 have of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guestclock.check.recorded.block import Block, Bools, Ints, grouped
from guestclock.check.recorded.checking import Check, Finding
from guestclock.check.recorded.columns import (
    BOOTTIME,
    CLOCKS,
    COUNTER,
    FAST,
    KVMCLOCK,
    MONOTONIC,
    MONOTONIC_RAW,
    REALTIME,
    TAI,
    Event,
)
from guestclock.check.recorded.header import Header

SLEWED = (MONOTONIC, BOOTTIME, REALTIME, TAI)
"""What the latched readers (ktime_get_mono_fast_ns and its like) may show a little early."""


@dataclass(slots=True)
class Last:
    """The reading before a block's first one."""

    value: int
    c1: int
    has_c: bool
    context: int
    path: int
    at: str

    @classmethod
    def of(cls, block: Block, row: int) -> Last:
        return cls(
            int(block.value[row]), int(block.c1[row]), bool(block.has_c[row]), int(block.context[row]),
            int(block.path[row]), block.at(row),
        )  # fmt: skip


class NeverBack(Check):
    """A check that some clocks never step back in program order."""

    clocks: frozenset[int]

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.last: dict[tuple[int, ...], Last] = {}
        self.others: dict[tuple[int, ...], Last] = {}

    def readings(self, block: Block) -> None:
        plain = not block.context.any()
        fast = bool((block.path == FAST).any())
        for vcpu, clock, rows in block.groups:
            if clock not in self.clocks:
                continue
            contexts = [(0, rows)] if plain else [(c, rows[own]) for c, own in grouped(block.context[rows])]
            for context, own in contexts:
                self._in_order(block, own, self.last, (vcpu, clock, context), None)
                if fast and clock in SLEWED:
                    # What is not read fast has no excuse among its like, whatever was read fast in between.
                    slow = own[block.path[own] != FAST]
                    if len(slow):
                        self._in_order(block, slow, self.last, (vcpu, clock, -1 - context), None)
            if not plain or (vcpu, clock) in self.others:
                self._across_contexts(block, vcpu, clock, rows)

    def _across_contexts(self, block: Block, vcpu: int, clock: int, rows: Ints) -> None:
        """An interrupt's reading against the task's: in order only where the sandwiches show it."""
        before = self.others.get((vcpu, clock))
        ordered = np.zeros(len(rows), bool)
        ordered[1:] = (block.context[rows[1:]] != block.context[rows[:-1]]) & (
            block.has_c[rows[1:]] & block.has_c[rows[:-1]] & (block.c0[rows[1:]] - block.c1[rows[:-1]] >= 0)
        )
        if before is not None:
            ordered[0] = bool(
                before.context != block.context[rows[0]]
                and before.has_c
                and block.has_c[rows[0]]
                and block.c0[rows[0]] - before.c1 >= 0
            )
        self._in_order(block, rows, self.others, (vcpu, clock), ordered)

    def _in_order(
        self, block: Block, rows: Ints, lasts: dict[tuple[int, ...], Last], key: tuple[int, ...], only: Bools | None
    ) -> None:
        before = lasts.get(key)
        values = block.value[rows]
        steps = np.empty(len(values), np.int64)
        steps[1:] = values[1:] - values[:-1]
        steps[0] = 0 if before is None else values[0] - before.value
        lasts[key] = Last.of(block, int(rows[-1]))
        if only is None:
            self.compare(len(rows) - (before is None))
        else:
            self.compare(int(only.sum()))
            steps = np.where(only, steps, 0)
        if steps.min() < 0:
            clock = key[1]
            wrong = steps < -self._slack(block, rows, before, clock)
            if wrong.any():
                worst = int(np.argmin(np.where(wrong, steps, 0)))
                was = before if worst == 0 else Last.of(block, int(rows[worst - 1]))
                assert was is not None
                self._found(block, int(rows[worst]), was, int(wrong.sum()))

    def _slack(self, block: Block, rows: Ints, before: Last | None, clock: int) -> Ints:
        fast = block.path[rows] == FAST
        either = fast.copy()
        either[1:] |= fast[:-1]
        either[0] |= before is not None and before.path == FAST
        return np.where(either & (clock in SLEWED), self.header.backstep_ns, 0)

    def _found(self, block: Block, row: int, was: Last, count: int) -> None:
        clock, value, vcpu = int(block.clock[row]), int(block.value[row]), int(block.vcpu[row])
        unit = "cycles" if clock == COUNTER else "ns"
        about = {"vcpu": vcpu, "clock": CLOCKS[clock], "before": was.value, "after": value}
        said = f"vcpu{vcpu} {CLOCKS[clock]} steps back"
        self.violate(Finding(said, (was.at, block.at(row)), was.value - value, unit, about), count)

    def forget(self, *clocks: int) -> None:
        """Something happened after which these may stand anywhere."""
        for lasts in (self.last, self.others):
            for key in [key for key in lasts if not clocks or key[1] in clocks]:
                del lasts[key]


class Monotone(NeverBack):
    number, name = 1, "never-back"
    about = "MONOTONIC, BOOTTIME, MONOTONIC_RAW and kvmclock never step back on a vCPU"
    needs = "two readings of one of them on one vCPU"
    tolerance = "none; fast readers of MONOTONIC and BOOTTIME: backstep_ns"
    blind = "a step back that is shorter than what passes between two readings"
    clocks = frozenset((MONOTONIC, BOOTTIME, MONOTONIC_RAW, KVMCLOCK))

    def on_move(self, event: Event) -> None:
        if event.word("text") == "restore":
            self.forget()  # back to an older image: what was read since then never happened
