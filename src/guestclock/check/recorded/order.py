"""I2: what was read later is not less, whoever reads it: by tokens between vCPUs, and by one timeline of all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guestclock.check.recorded.block import Block, Ints
from guestclock.check.recorded.checking import Check, Finding
from guestclock.check.recorded.columns import BOOTTIME, CLOCKS, COUNTER, FAST, KVMCLOCK, MONOTONIC, MONOTONIC_RAW, Event
from guestclock.check.recorded.header import Header
from guestclock.errors import UserError

KEPT = 1 << 13
ORDERED = (MONOTONIC, BOOTTIME, MONOTONIC_RAW, KVMCLOCK)


@dataclass
class Stairs:
    """Of readings that ended by a given time, the greatest: where each ended, that maximum, and whose it is.

    After a while old steps are thinned: what is asked of them then finds a smaller maximum, never a false one.
    """

    ends: Ints
    greatest: Ints
    who: Ints  # vcpu, file, line: a row each

    @classmethod
    def empty(cls) -> Stairs:
        none = np.zeros(0, np.int64)
        return cls(none, none, np.zeros((0, 3), np.int64))

    def with_(self, ends: Ints, values: Ints, who: Ints) -> Stairs:
        ends, values = np.concatenate((self.ends, ends)), np.concatenate((self.greatest, values))
        who = np.concatenate((self.who, who))
        order = np.argsort(ends, kind="stable")
        values = values[order]
        greatest = np.maximum.accumulate(values)
        owner = np.maximum.accumulate(np.where(values == greatest, np.arange(len(values)), 0))
        return Stairs(ends[order], greatest, who[order][owner])

    def thinned(self, whole: slice) -> Stairs:
        """whole: which steps are to stay as they are, KEPT at one end."""
        count = len(self.ends)
        if count <= 2 * KEPT:
            return self
        some = np.linspace(0, count - 1, KEPT).astype(np.int64)
        kept = np.union1d(some, np.arange(count)[whole])
        return Stairs(self.ends[kept], self.greatest[kept], self.who[kept])


class Order(Check):
    number, name = 2, "order"
    about = "a reading that follows another, on whatever vCPU, is not less (the counter: with counters: common)"
    needs = "two vCPUs, and h0 and h1, or c0 and c1 with counters: common, or send and recv"
    tolerance = "none: one reading had ended before the other began"
    blind = "readings whose sandwiches overlap; a step back that is shorter than what passes in between"

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.vcpus: set[int] = set()
        self.names: list[str] = []
        self.clocks = (*ORDERED, COUNTER) if header.counters == "common" else ORDERED
        self._begin()

    def _begin(self) -> None:
        self.later = {clock: Stairs.empty() for clock in self.clocks}
        self.earlier = {clock: Stairs.empty() for clock in self.clocks}
        self.tokens: dict[str, dict[int, tuple[int, str]]] = {}
        self.known: dict[int, dict[int, tuple[int, str]]] = {}
        self.waiting: dict[tuple[int, int], tuple[int, str]] = {}
        self.last: dict[tuple[int, int], tuple[int, str]] = {}

    def readings(self, block: Block) -> None:
        self.names = list(block.names)
        if len(self.vcpus) < 2:
            self.vcpus.update(vcpu for vcpu, _ in block.by_vcpu)
        self._by_tokens(block)
        by_host = bool(block.has_h.any())
        if by_host or self.header.counters == "common":
            told = (block.has_h if by_host else block.has_c) & (block.path != FAST)
            starts, ends = (block.h0, block.h1) if by_host else (block.c0, block.c1)
            for clock in self.clocks if by_host else ORDERED:
                rows = np.flatnonzero(told & (block.clock == clock))
                if len(rows):
                    self._by_time(block, rows, starts[rows], ends[rows], clock)

    # ---- one timeline

    def _by_time(self, block: Block, rows: Ints, starts: Ints, ends: Ints, clock: int) -> None:
        values = block.value[rows]
        who = np.stack((block.vcpu[rows], block.file[rows], block.line[rows]), axis=1)
        stairs = self.later[clock].with_(ends, values, who)
        self._ask(block, rows, stairs, starts, values, clock, 1)
        self.later[clock] = stairs.thinned(slice(-KEPT, None))
        # The same seen from the end, for readings that stand later in the trace than what they precede.
        before = self.earlier[clock]
        if len(before.ends) and -before.ends[0] > ends.min():
            self._ask(block, rows, before, -ends, -values, clock, -1)
        self.earlier[clock] = before.with_(-starts, -values, who).thinned(slice(KEPT))

    def _ask(self, block: Block, rows: Ints, stairs: Stairs, starts: Ints, values: Ints, clock: int, way: int) -> None:
        found = np.searchsorted(stairs.ends, starts, "left") - 1
        asked = found >= 0
        self.compare(int(asked.sum()))
        if not asked.any():
            return
        short = np.where(asked, stairs.greatest[found] - values, 0)
        if short.max() <= 0:
            return
        wrong = (short > 0) & (stairs.who[found, 0] != block.vcpu[rows])
        if wrong.any():
            i = int(np.argmax(np.where(wrong, short, 0)))
            vcpu, file, line = map(int, stairs.who[found[i]])
            other = (vcpu, int(stairs.greatest[found[i]]) * way, f"{self.names[file]}: line {line}")
            own = (int(block.vcpu[rows[i]]), int(values[i]) * way, block.at(int(rows[i])))
            first, second = (other, own) if way > 0 else (own, other)
            self._found(clock, first, second, int(wrong.sum()))

    def _found(self, clock: int, first: tuple[int, int, str], second: tuple[int, int, str], count: int = 1) -> None:
        said = f"vcpu{second[0]} reads {CLOCKS[clock]} later than vcpu{first[0]} did, and less"
        about = {"vcpu": second[0], "than": first[0], "clock": CLOCKS[clock], "before": first[1], "after": second[1]}
        self.violate(Finding(said, (first[2], second[2]), first[1] - second[1], unit(clock), about), count)

    # ---- tokens

    def _by_tokens(self, block: Block) -> None:
        places = {(vcpu, clock): rows for vcpu, clock, rows in block.groups if clock in self.clocks}
        for key, rows in places.items():
            waiting = self.waiting.pop(key, None)
            if waiting is not None:
                self._held(key, waiting, block, int(rows[0]))
        for position, event in block.events:
            if event.kind == "send":
                self.tokens[event.word("id")] = self._known_to(event.vcpu, position, block, places)
            elif event.kind == "recv":
                token = self.tokens.get(event.word("id"))
                if token is None:
                    raise UserError(f"{event.at}: recv of {event.word('id')!r}, which nobody has sent before")
                self._learn(event.vcpu, token, position, block, places)
        for key, rows in places.items():
            self.last[key] = int(block.value[rows[-1]]), block.at(int(rows[-1]))

    def _known_to(
        self, vcpu: int, position: int, block: Block, places: dict[tuple[int, int], Ints]
    ) -> dict[int, tuple[int, str]]:
        found = dict(self.known.get(vcpu, {}))
        for clock in self.clocks:
            rows = places.get((vcpu, clock))
            count = 0 if rows is None else int(np.searchsorted(rows, position))
            if rows is not None and count:
                row = int(rows[count - 1])
                read: tuple[int, str] | None = (int(block.value[row]), block.at(row))
            else:
                read = self.last.get((vcpu, clock))
            if read is not None and (clock not in found or read[0] > found[clock][0]):
                found[clock] = read
        return found

    def _learn(
        self, vcpu: int, token: dict[int, tuple[int, str]], position: int, block: Block,
        places: dict[tuple[int, int], Ints],
    ) -> None:  # fmt: skip
        known = self.known.setdefault(vcpu, {})
        for clock, read in token.items():
            if clock not in known or read[0] > known[clock][0]:
                known[clock] = read
            rows = places.get((vcpu, clock))
            after = 0 if rows is None else int(np.searchsorted(rows, position))
            if rows is not None and after < len(rows):
                self._held((vcpu, clock), read, block, int(rows[after]))
            else:
                self.waiting[vcpu, clock] = max(read, self.waiting.get((vcpu, clock), read))

    def _held(self, key: tuple[int, int], read: tuple[int, str], block: Block, row: int) -> None:
        self.compare()
        value = int(block.value[row])
        if value < read[0]:
            vcpu, clock = key
            said = f"vcpu{vcpu} reads {CLOCKS[clock]} after a token came to it, and less than its sender had read"
            about = {"vcpu": vcpu, "clock": CLOCKS[clock], "before": read[0], "after": value}
            self.violate(Finding(said, (read[1], block.at(row)), read[0] - value, unit(clock), about))

    def end(self) -> None:
        if len(self.vcpus) < 2:
            self.compared = 0  # nobody to compare with

    def on_move(self, event: Event) -> None:
        # Another host's counter, or an older image: neither is later or earlier than what was read before.
        self._begin()


def unit(clock: int) -> str:
    return "cycles" if clock == COUNTER else "ns"
