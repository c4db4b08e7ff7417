"""Readings that lie on one TSC line tell each other where it is: on a real host, the difference between µs and ns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_ADJUST
from guestclock.check.span import Span
from guestclock.check.story import Reading

HARMLESS = ("ReadClocks", "Rdmsr", "ClearGuestStopped")
"""What a guest can do without moving its TSC."""

Vcpu = tuple[int, int | None]
"""(VM, vCPU); all of the VM's for None."""


class UnbrokenLines:
    """Every reading says within which bounds its vCPU's TSC offset lies; those of one line share the narrowest.

    One line: nothing was done that moves that TSC, and one offset explains what was read. Limit: a TSC that moved by
    itself, and by less than its sandwiches, is taken for one that did not; to be asked only where the kernel itself
    takes the TSC for its clock. TSCs that are scaled, or brought forward by KVM, are left as they were read.
    """

    def __init__(self) -> None:
        self._moves: defaultdict[Vcpu, int] = defaultdict(int)
        self._moves_of_all = 0
        self._at_khz: set[Vcpu] = set()
        self._readings: list[tuple[Reading, int]] = []

    def on_op(self, name: str, asked: dict[str, Any]) -> None:
        """An operation after which a vCPU's TSC, or everybody's, may be on another line, also if it was refused."""
        whose: Vcpu = asked.get("vm", -1), asked.get("vcpu")
        match name:
            case "SetMsr" if asked["index"] in (MSR_IA32_TSC, MSR_IA32_TSC_ADJUST):
                self._moves[whose] += 1
            case "SetTscOffset" | "MoveToCpu":
                self._moves[whose] += 1
            case "Run" if any(a["action"] not in HARMLESS for a in asked["actions"]):
                self._moves[whose] += 1
            case "SetTscKhz":
                self._at_khz.add(whose)
            case "HostSleep" | "MarkTscUnstable" | "SetClocksource" | "StopAllTscs" | "StartAllTscs":
                self._moves_of_all += 1

    def moves(self, vm: int, vcpu: int) -> int:
        """How many of the operations so far may have put that vCPU's TSC on another line."""
        return self._moves[vm, vcpu] + self._moves_of_all

    def add(self, reading: Reading) -> None:
        """The next reading, after the operations so far."""
        self._readings.append((reading, reading.moves))

    def narrowed(self) -> Iterator[tuple[Reading, Span]]:
        """The readings that can be narrowed, with the host TSC (cycles) at which each must have been taken."""
        for line, offset in self._lines():
            for reading in line:
                yield reading, -offset + reading.tsc

    def _lines(self) -> Iterator[tuple[list[Reading], Span]]:
        lines: dict[tuple[int, int, int, int], tuple[list[Reading], Span]] = {}
        for reading, moves in self._readings:
            host = reading.when.host_tsc
            if (
                host is None
                or reading.rate.frac_bits
                or {(reading.vm, reading.vcpu), (reading.vm, None)} & self._at_khz
            ):
                continue
            key = reading.vm, reading.vcpu, reading.when.line, moves
            offset = -host + reading.tsc
            line, known = lines.get(key, ([], offset))
            both = known.common(offset)
            if both is None:
                yield line, known
                line, both = [], offset
            line.append(reading)
            lines[key] = line, both
        yield from lines.values()
