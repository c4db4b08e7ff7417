"""I7, I14, I20: a guest's clock against the host's same clock, read at one moment."""

from __future__ import annotations

import numpy as np

from guestclock.check.recorded.block import Block
from guestclock.check.recorded.checking import Check, Finding
from guestclock.check.recorded.columns import CLOCKS, KVMCLOCK, REALTIME, TAI, Event
from guestclock.check.recorded.header import NS_PER_S, Header
from guestclock.check.recorded.monotone import NeverBack

TRUNCATION_NS = 2
NOMINAL_HOST_MULT = 1 << 22
"""The least multiplier that the kernel makes of a counter between 1 and 4 GHz."""


class KvmclockDrift(Check):
    number, name = 7, "kvmclock"
    about = "kvmclock keeps its distance to the host's RAW + offs_boot"
    needs = "readings of KVMCLOCK with host_ns, two of them in one epoch; counter_hz"
    tolerance = "err_ns; per second half a step of host_mult and 1 kHz of the TSC's rate"
    blind = "a distance that was wrong from the first"

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.start: tuple[int, int, int, int, str] | None = None

    def readings(self, block: Block) -> None:
        rows = np.flatnonzero(block.has_host & (block.clock == KVMCLOCK))
        for row in map(int, rows):
            value, host, err, epoch = (int(a[row]) for a in (block.value, block.host_ns, block.err_ns, block.epoch))
            if self.start is None or self.start[3] != epoch:
                self.start = value - host, host, err, epoch, block.at(row)
                continue
            apart, since, first_err, _, at = self.start
            off = abs(value - host - apart) - self._drift_ns(host - since) - err - first_err - TRUNCATION_NS
            self.compare()
            if off > 0:
                about = {"vcpu": int(block.vcpu[row]), "clock": "KVMCLOCK", "host": host, "after": value}
                self.violate(Finding("kvmclock has left the host's clock", (at, block.at(row)), off, "ns", about))
                self.start = None

    def _drift_ns(self, passed_ns: int) -> int:
        per_s = NS_PER_S / 2 / (self.header.host_mult or NOMINAL_HOST_MULT) + 1e12 / (self.header.hz or NS_PER_S)
        return int(passed_ns * per_s / NS_PER_S) + 1

    def on_resume(self, event: Event) -> None:
        self.start = None

    def on_move(self, event: Event) -> None:
        self.start = None


class Causality(Check):
    number, name = 14, "host-pairs"
    about = "a guest's REALTIME or TAI read together with the host's is the host's"
    needs = "readings of REALTIME or TAI with host_ns and err_ns"
    tolerance = "err_ns"
    blind = "an error within it"

    def readings(self, block: Block) -> None:
        rows = np.flatnonzero(block.has_host & np.isin(block.clock, (REALTIME, TAI)))
        if not len(rows):
            return
        self.compare(len(rows))
        off = np.abs(block.value[rows] - block.host_ns[rows]) - block.err_ns[rows] - TRUNCATION_NS
        if off.max() > 0:
            worst = int(np.argmax(off))
            row, clock = int(rows[worst]), CLOCKS[block.clock[rows[worst]]]
            about = {
                "vcpu": int(block.vcpu[row]), "clock": clock, "host": int(block.host_ns[row]),
                "after": int(block.value[row]),
            }  # fmt: skip
            said = f"vcpu{block.vcpu[row]} {clock} is not the host's"
            self.violate(Finding(said, (block.at(row),), int(off[worst]), "ns", about), int((off > 0).sum()))


class WallClock(NeverBack):
    number, name = 20, "realtime"
    about = "REALTIME and TAI never step back unless they were set, and are near the host's after a stop"
    needs = "logs: set, for stepping back; for the host's, REALTIME with host_ns after a stop"
    tolerance = "none for stepping back; real_ns and err_ns after a stop"
    blind = "a step back shorter than what passes between two readings"
    clocks = frozenset((REALTIME, TAI))

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.stopped: Event | None = None
        self.resumed: Event | None = None

    def readings(self, block: Block) -> None:
        if "set" in self.header.logs:
            super().readings(block)
        rows = np.flatnonzero(block.has_host & (block.clock == REALTIME))
        if self.resumed is not None and len(rows):
            row, resumed = int(rows[0]), self.resumed
            self.resumed = None
            self.compare()
            error = int(block.value[row] - block.host_ns[row])
            off = abs(error) - self.header.real_ns - int(block.err_ns[row])
            if off > 0:
                said = f"after a stop REALTIME is {'ahead of' if error > 0 else 'behind'} the host's by too much"
                about = {"vcpu": int(block.vcpu[row]), "clock": "REALTIME", "after": int(block.value[row])}
                self.violate(Finding(said, (resumed.at, block.at(row)), off, "ns", about))

    def on_resume(self, event: Event) -> None:
        self.resumed = event

    def on_set(self, event: Event) -> None:
        self.forget(*([TAI] if event.word("clock") == CLOCKS[TAI] else [REALTIME, TAI]))

    def on_move(self, event: Event) -> None:
        self.forget()
