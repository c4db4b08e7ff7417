"""Several files as one trace: by the time that their rows tell, each file's own order kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from guestclock.check.recorded.block import Block, Ints, joined
from guestclock.check.recorded.columns import Event
from guestclock.check.recorded.source import Source
from guestclock.errors import UserError

BEFORE_ALL = np.iinfo(np.int64).min


class _Stream:
    """A file that is read as far as needed. last: the greatest time that it has told."""

    def __init__(self, source: Source) -> None:
        self.name, self.blocks = source.name, source.blocks()
        self.last = int(BEFORE_ALL)
        self.block: Block | None = None
        self.keys: tuple[Ints, Ints] = (np.zeros(0, np.int64), np.zeros(0, np.int64))

    def fill(self, by_host: bool) -> None:
        if self.block is None:
            self.block = next(self.blocks, None)
            if self.block is not None:
                self.keys = self._keys(self.block, by_host)

    def _keys(self, block: Block, by_host: bool) -> tuple[Ints, Ints]:
        told = block.has_h if by_host else block.has_c
        if not told.all():
            row, name = int(np.argmin(told)), "h0" if by_host else "c0"
            raise UserError(f"{block.at(row)}: {name}: nothing, but several files are put in order by it")
        count, events = len(block), block.events
        keys = np.full(count + len(events), BEFORE_ALL, np.int64)
        places = np.array([p for p, _ in events], int) + np.arange(len(events))
        reading = np.ones(count + len(events), bool)
        reading[places] = False
        keys[reading] = block.h0 if by_host else block.c0
        times = (_time(event, by_host) for _, event in events)
        keys[places] = np.fromiter((int(BEFORE_ALL) if t is None else t for t in times), np.int64, len(events))
        # A row that is earlier than one before it in its file, or tells no time, goes with that one.
        keys = np.maximum.accumulate(np.maximum(keys, self.last))
        self.last = int(keys[-1])
        return keys[reading], keys[places]

    def until(self, limit: int | None) -> tuple[Block, tuple[Ints, Ints]]:
        """The rows that are not later, taken away."""
        block, (rows, events) = self.block, self.keys
        assert block is not None
        if limit is None or self.last <= limit:
            self.block = None
            return block, self.keys
        count, marks = int(np.searchsorted(rows, limit, "right")), int(np.searchsorted(events, limit, "right"))
        self.block = block.take(slice(count, None), [(max(p - count, 0), e) for p, e in block.events[marks:]])
        self.keys = rows[count:], events[marks:]
        return block.take(slice(None, count), block.events[:marks]), (rows[:count], events[:marks])


def _time(event: Event, by_host: bool) -> int | None:
    told = event.h0 if by_host else event.c0
    return None if told is None else told - 2**64 if told >= 2**63 else told


def merged(sources: Sequence[Source], by_host: bool) -> Iterator[Block]:
    """All rows of all files. by_host: by h0, else by c0, which is then one timeline for all.

    Raises UserError for a reading that does not tell its time.
    """
    if len(sources) == 1:
        yield from sources[0].blocks()
        return
    streams = [_Stream(source) for source in sources]
    while True:
        for stream in streams:
            stream.fill(by_host)
        open_ = [stream for stream in streams if stream.block is not None]
        if not open_:
            return
        limit = min(stream.last for stream in open_)
        taken = [stream.until(limit) for stream in open_]
        yield joined([block for block, _ in taken], [keys for _, keys in taken])
