"""I4, I5, I13: BOOTTIME, REALTIME and TAI are MONOTONIC and an offset, which moves by what was injected or set.

Of a reading between two of MONOTONIC on its vCPU the offset lies between its distances to them, whatever the rates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from guestclock.check.recorded.block import Block, Bools, Ints, grouped, joined
from guestclock.check.recorded.checking import Check, Finding
from guestclock.check.recorded.columns import BOOTTIME, CLOCKS, FAST, MONOTONIC, REALTIME, TAI, Event
from guestclock.check.recorded.header import NS_PER_S, Header

I64 = np.iinfo(np.int64)
KEPT = 1 << 12
LOOK_AHEAD = 1 << 8
"""Readings looked at together after an offset has moved; more and more as long as it does not."""


@dataclass
class Bracketed:
    """Readings of one clock on one vCPU between two of MONOTONIC: the offset is in low..high. before: the first."""

    block: Block
    vcpu: int
    clock: int
    rows: Ints
    low: Ints
    high: Ints
    before: Ints


class Brackets:
    """Finds them, also across the ends of blocks."""

    def __init__(self) -> None:
        self.tails: dict[tuple[int, int], Block] = {}

    def of(self, block: Block) -> Iterator[Bracketed]:
        for (vcpu, context), whole in self._with_tails(block):
            slow = np.flatnonzero(whole.path != FAST)
            marks = slow[whole.clock[slow] == MONOTONIC]
            if not len(marks):
                continue
            for clock in (BOOTTIME, REALTIME, TAI):
                rows = slow[whole.clock[slow] == clock]
                after = np.searchsorted(marks, rows)
                inside = (after > 0) & (after < len(marks))
                if inside.any():
                    rows, after = rows[inside], after[inside]
                    before = whole.value[marks[after - 1]]
                    value = whole.value[rows]
                    yield Bracketed(whole, vcpu, clock, rows, value - whole.value[marks[after]], value - before, before)
            self.tails[vcpu, context] = whole.take(slice(max(int(marks[-1]), len(whole) - KEPT), None))

    def _with_tails(self, block: Block) -> Iterator[tuple[tuple[int, int], Block]]:
        for key, rows in grouped(block.vcpu * 4 + block.context):
            ours = block.take(rows)
            place = (key // 4, key % 4)
            tail = self.tails.pop(place, None)
            if tail is not None:
                keys = [(np.full(len(b), i), np.zeros(0, np.int64)) for i, b in enumerate((tail, ours))]
                ours = joined([tail, ours], keys)
            self.tails[place] = ours.take(slice(max(0, len(ours) - KEPT), None))
            yield place, ours

    def forget(self) -> None:
        self.tails.clear()


@dataclass
class Steps:
    """An offset's history: the sums it may have, and where its start lies, as far as all readings together tell."""

    sums: list[int] = field(default_factory=lambda: [0])
    low: int = int(I64.min)
    high: int = int(I64.max)
    place: dict[int, int] = field(default_factory=dict)
    """By vCPU: how many steps it has shown."""
    unlogged: int = 0

    @property
    def known(self) -> bool:
        """Whether a reading has told where the offset lies."""
        return self.high < I64.max

    def begin(self) -> None:
        """The next reading may show any offset."""
        self.sums, self.low, self.high = [0], int(I64.min), int(I64.max)
        self.place.clear()

    def rebase(self, low: int, high: int, vcpu: int) -> None:
        """What was found is taken for right from here on: one wrong step is one finding."""
        self.place = dict.fromkeys(self.place, len(self.sums) - 1)
        self.place[vcpu] = len(self.sums) - 1
        self.low, self.high = low - self.sums[-1], high - self.sums[-1]


class Offsets(Check):
    number, name = 4, "offsets"
    about = "BOOTTIME − MONOTONIC and REALTIME − MONOTONIC move only by what was injected or set, and by exactly that"
    needs = "readings of BOOTTIME or REALTIME between two of MONOTONIC on one vCPU"
    tolerance = "none: the two readings of MONOTONIC around it"
    blind = "an error smaller than what passes between these two; a step that the trace does not log, unless `logs` "\
        "says that it logs all (BOOTTIME − MONOTONIC may then only rise)"  # fmt: skip

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.brackets = Brackets()
        self.steps = {BOOTTIME: Steps(), REALTIME: Steps()}
        self.logged = {BOOTTIME: "inject" in header.logs, REALTIME: {"set", "inject"} <= set(header.logs)}
        self.old: list[tuple[int, int, str]] = []
        """For I13: what readings still lacked the last injection: (vCPU, MONOTONIC before it, place)."""

    def readings(self, block: Block) -> None:
        self.old.clear()
        for found in self.brackets.of(block):
            if found.clock in self.steps:
                self._follow(found, self.steps[found.clock])

    def _follow(self, found: Bracketed, steps: Steps) -> None:
        vcpu, start, ahead = found.vcpu, 0, LOOK_AHEAD
        if self.logged[found.clock] or found.clock == BOOTTIME:
            self.compare(len(found.rows))
        steps.place.setdefault(vcpu, 0)
        while start < len(found.rows):
            place = steps.place[vcpu]
            total = steps.sums[place]
            part = slice(start, start + ahead)
            low = np.maximum.accumulate(found.low[part] - total)
            high = np.minimum.accumulate(found.high[part] - total)
            fits = (np.maximum(low, steps.low) <= np.minimum(high, steps.high)) & (low <= high)
            count = len(fits) if fits.all() else int(np.argmin(fits))
            if count:
                steps.low = max(steps.low, int(low[count - 1]))
                steps.high = min(steps.high, int(high[count - 1]))
                if found.clock == BOOTTIME and place < len(steps.sums) - 1:
                    row = start + count - 1
                    self.old.append((vcpu, int(found.before[row]), found.block.at(int(found.rows[row]))))
            start += count
            ahead = ahead * 2 if count == len(fits) else LOOK_AHEAD
            if count < len(fits):
                start += self._stepped(found, steps, start)

    def _stepped(self, found: Bracketed, steps: Steps, row: int) -> int:
        """A reading that shows another offset than the one before; how many rows are settled by that."""
        vcpu, low, high = found.vcpu, int(found.low[row]), int(found.high[row])
        for place in range(steps.place[vcpu] + 1, len(steps.sums)):
            total = steps.sums[place]
            if max(low - total, steps.low) <= min(high - total, steps.high):
                steps.place[vcpu] = place
                return 0
        total = steps.sums[steps.place[vcpu]]
        moved = low - total - steps.high if low - total > steps.high else high - total - steps.low
        off = min((self._off(low - s, high - s, steps) for s in steps.sums[steps.place[vcpu] :]), key=abs)
        if self.logged[found.clock] or (found.clock == BOOTTIME and moved < 0):
            name, at = CLOCKS[found.clock], found.block.at(int(found.rows[row]))
            value = int(found.block.value[found.rows[row]])
            about = {"vcpu": vcpu, "clock": name, "before": int(found.before[row]), "after": value}
            known = len(steps.sums) - 1
            why = f"it is none of the {known} sums of what was logged" if known else "nothing moved it"
            said = f"vcpu{vcpu} {name} − MONOTONIC is off ({why}), by at least"
            self.violate(Finding(said, (at,), abs(off), "ns", about))
        else:
            steps.unlogged += 1
        steps.rebase(low, high, vcpu)
        return 1

    @staticmethod
    def _off(low: int, high: int, steps: Steps) -> int:
        return low - steps.high if low > steps.high else high - steps.low if high < steps.low else 0

    def on_inject(self, event: Event) -> None:
        self._moved(BOOTTIME, event.number("ns"))
        self._moved(REALTIME, event.number("ns"))
        self.logged[BOOTTIME] = True

    def on_set(self, event: Event) -> None:
        if event.word("clock") == CLOCKS[REALTIME]:
            self._moved(REALTIME, event.number("ns"))

    def _moved(self, clock: int, ns: int) -> None:
        steps = self.steps[clock]
        if steps.known:  # else the first reading will show it, as all that was before
            steps.sums.append(steps.sums[-1] + ns)

    def end(self) -> None:
        for clock, steps in self.steps.items():
            if steps.unlogged:
                times = "once" if steps.unlogged == 1 else f"{steps.unlogged} times"
                self.remarks.append(
                    f"{CLOCKS[clock]} − MONOTONIC moved {times}; whether rightly, the trace does not log"
                )

    def on_move(self, event: Event) -> None:
        self.brackets.forget()
        for steps in self.steps.values():
            steps.begin()


class TaiOffset(Check):
    number, name = 5, "tai"
    about = "TAI − REALTIME is a whole number of seconds, the same until one is set"
    needs = "readings of TAI and REALTIME between two of MONOTONIC on one vCPU"
    tolerance = "none: the readings of MONOTONIC around them"
    blind = "an error smaller than that"

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.brackets = Brackets()
        self.real: dict[int, tuple[int, int]] = {}
        self.seconds: int | None = None
        self.changed = 0
        self.any = False

    def readings(self, block: Block) -> None:
        self.any = self.any or bool((block.clock == TAI).any())
        if not self.any:
            return
        real: Bracketed | None = None
        for found in self.brackets.of(block):
            if found.clock == REALTIME:
                real = found
            elif found.clock == TAI:
                self._with_real(found, real if real is not None and real.block is found.block else None)

    def _with_real(self, found: Bracketed, real: Bracketed | None) -> None:
        """Each TAI with the REALTIME read before it on its vCPU."""
        low, high = np.full(len(found.rows), I64.min), np.full(len(found.rows), I64.max)
        known = np.zeros(len(found.rows), bool)
        if found.vcpu in self.real:
            low[:], high[:] = self.real[found.vcpu]
            known[:] = True
        if real is not None:
            place = np.searchsorted(real.rows, found.rows) - 1
            here = place >= 0
            low[here], high[here], known[here] = real.low[place[here]], real.high[place[here]], True
            self.real[found.vcpu] = int(real.low[-1]), int(real.high[-1])
        if known.any():
            self._whole(found, known, found.low[known] - high[known], found.high[known] - low[known])

    def _whole(self, found: Bracketed, known: Bools, low: Ints, high: Ints) -> None:
        """The difference is within low..high: is there the whole number of seconds?

        It is told only where one alone lies in there: readings may be seconds apart.
        """
        self.compare(len(low))
        seconds = -(-low // NS_PER_S)
        whole = seconds * NS_PER_S <= high
        alone = whole & (high // NS_PER_S == seconds)
        if alone.any() and (self.seconds is None or "set" not in self.header.logs):
            told = seconds[alone]
            # Another whole number is a leap second or ADJ_TAI, if the trace does not log these.
            self.changed += int(
                np.count_nonzero(np.diff(told, prepend=told[0] if self.seconds is None else self.seconds))
            )
            self.seconds = int(told[-1])
        wanted = int(seconds[0]) if self.seconds is None else self.seconds
        off = np.maximum(np.maximum(low - wanted * NS_PER_S, wanted * NS_PER_S - high), 0)
        wrong = ~whole if self.seconds is None or "set" not in self.header.logs else off > 0
        if wrong.any():
            worst = int(np.argmax(np.where(wrong, off, -1)))
            row, vcpu = int(found.rows[known][worst]), found.vcpu
            about = {"vcpu": vcpu, "clock": "TAI", "after": int(found.block.value[row])}
            said = f"vcpu{vcpu} TAI − REALTIME is not the {wanted} s that it was"
            self.violate(Finding(said, (found.block.at(row),), int(off[worst]), "ns", about), int(wrong.sum()))

    def end(self) -> None:
        if self.changed:
            self.remarks.append(f"TAI − REALTIME is now {self.seconds} s; whether rightly, the trace does not log")

    def on_set(self, event: Event) -> None:
        self.real.clear()
        self.brackets.forget()
        if event.word("clock") == CLOCKS[TAI]:
            self.seconds = None

    def on_inject(self, event: Event) -> None:
        self.real.clear()
        self.brackets.forget()

    def on_move(self, event: Event) -> None:
        self.real.clear()
        self.brackets.forget()


class Staleness(Check):
    number, name = 13, "stale"
    about = "BOOTTIME shows the last sleep soon after the guest runs again"
    needs = "what I4 needs, and inject rows (with resume rows before or after them)"
    tolerance = "stale_ns, on MONOTONIC"
    blind = "how much longer than seen it lasted: readings are needed to see it"

    def __init__(self, header: Header, offsets: Offsets) -> None:
        super().__init__(header)
        self.offsets = offsets
        self.began: tuple[int, str] | None = None
        self.waiting = False
        self.last: tuple[int, str] | None = None

    def readings(self, block: Block) -> None:
        rows = np.flatnonzero((block.clock == MONOTONIC) & (block.path != FAST))
        if len(rows):
            if self.waiting:
                self.began = int(block.value[rows[0]]), block.at(int(rows[0]))
                self.waiting = False
            self.last = int(block.value[rows].max()), block.at(int(rows[-1]))
        for vcpu, before, at in self.offsets.old:
            if self.began is not None:
                self._stale(before - self.began[0], (self.began[1], at), vcpu)

    def _stale(self, ns: int, at: tuple[str, ...], vcpu: int | None) -> None:
        if ns > self.header.stale_ns:
            who = "" if vcpu is None else f"vcpu{vcpu} "
            said = f"{who}BOOTTIME still lacks what was slept"
            self.violate(Finding(said, at, ns, "ns", {} if vcpu is None else {"vcpu": vcpu, "clock": "BOOTTIME"}))
            self.began = None

    def on_stop(self, event: Event) -> None:
        self.began, self.waiting = None, False

    def on_resume(self, event: Event) -> None:
        self.began, self.waiting = None, True

    def on_inject(self, event: Event) -> None:
        self.compare()
        if self.began is None:
            self.waiting = True
        elif self.last is not None:
            self._stale(self.last[0] - self.began[0], (self.began[1], event.at), None)
