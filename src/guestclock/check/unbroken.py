"""Readings on one line of a counter tell each other where it is: on a real host, the difference between µs and ns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from guestclock.check.span import Span
from guestclock.check.story import Reading

Vcpu = tuple[int, int | None]
"""(VM, vCPU); all of the VM's for None."""


class UnbrokenLines:
    """Every reading says within which bounds its vCPU's offset lies; those of one line share the narrowest.

    One line: nothing was done that moves that counter, and one offset explains what was read. Limit: a counter that
    moved by itself, and by less than its sandwiches, is taken for one that did not; to be asked only where the kernel
    itself takes the counter for its clock. TSCs that are scaled, or brought forward by KVM, are left as they were read.
    """

    def __init__(self) -> None:
        self._moves: defaultdict[Vcpu, int] = defaultdict(int)
        self._moves_of_all = 0
        self._left_out: set[Vcpu] = set()
        self._readings: list[Reading] = []

    def moved(self, vm: int, vcpu: int | None) -> None:
        """Something was done after which that vCPU's counters (None: all of the VM's) may be on another line."""
        self._moves[vm, vcpu] += 1

    def all_moved(self) -> None:
        """The same of everybody's."""
        self._moves_of_all += 1

    def leave_out(self, vm: int, vcpu: int | None) -> None:
        """That vCPU's counter (None: all of the VM's) is on no line that could be followed."""
        self._left_out.add((vm, vcpu))

    def moves(self, vm: int, vcpu: int) -> int:
        """How many of the operations so far may have put that vCPU's counters on another line."""
        return self._moves[vm, vcpu] + self._moves[vm, None] + self._moves_of_all

    def add(self, reading: Reading) -> None:
        """The next reading, after the operations so far."""
        self._readings.append(reading)

    def narrowed(self) -> Iterator[tuple[Reading, str, Span]]:
        """The readings that can be narrowed: of which counter, and the host's at which it must have been taken."""
        for clock in dict.fromkeys(clock for reading in self._readings for clock in reading.counts):
            for line, offset in self._lines(clock):
                for reading in line:
                    yield reading, clock, -offset + reading.counts[clock].value

    def _lines(self, clock: str) -> Iterator[tuple[list[Reading], Span]]:
        lines: dict[tuple[int, int, int, int], tuple[list[Reading], Span]] = {}
        for reading in self._readings:
            if clock not in reading.counts:
                continue
            count = reading.counts[clock]
            host = count.when.counter
            if (
                host is None
                or reading.rate.frac_bits
                or {(reading.vm, reading.vcpu), (reading.vm, None)} & self._left_out
            ):
                continue
            key = reading.vm, reading.vcpu, count.when.line, reading.moves
            offset = -host + count.value
            line, known = lines.get(key, ([], offset))
            both = known.common(offset)
            if both is None:
                yield line, known
                line, both = [], offset
            line.append(reading)
            lines[key] = line, both
        yield from lines.values()

    def apart(self) -> Iterator[tuple[Reading, Span]]:
        """The readings of two counters, and how far apart these are as all readings of one stretch know it."""
        stretches: dict[tuple[int, int, int], tuple[list[Reading], Span]] = {}
        done: list[tuple[list[Reading], Span]] = []
        for reading in self._readings:
            if reading.apart is None:
                continue
            key = reading.vm, reading.vcpu, reading.moves
            stretch, known = stretches.get(key, ([], reading.apart))
            both = known.common(reading.apart)
            if both is None:
                done.append((stretch, known))
                stretch, both = [], reading.apart
            stretch.append(reading)
            stretches[key] = stretch, both
        for stretch, known in (*done, *stretches.values()):
            for reading in stretch:
                yield reading, known
