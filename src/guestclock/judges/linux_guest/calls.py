"""What QEMU asked of KVM about a guest's time, what KVM said of it, and when the lab slept: out of the lab's trace."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.arith import u64
from guestclock.guest.pvclock import kvmclock_ns
from guestclock.kvm.device.x86.tracing import parse_fields
from guestclock.lab import LabError
from guestclock.lab.inside_guest import ASLEEP, AWAKE, CALLS

CALL, RETURN, MARK = "kvm_call", "sys_ioctl", "tracing_mark_write"

LINE = re.compile(r"^.*-(?P<tid>\d+)\s+\[\d+\]\s+\S+\s+(?P<stamp>\d+): (?P<name>\w+)(?:: | -> )(?P<text>.*)$")
"""A line of the trace; of a system call's return, "name -> result"."""

OPERATIONS = {"KVM_GET_CLOCK": "GetClock", "KVM_SET_CLOCK": "SetClock", "KVM_KVMCLOCK_CTRL": "KvmclockCtrl"}
"""Calls that are one operation of `kvm.api`, whatever they are given."""

PAGE_FIELDS = ("version", "tsc_timestamp", "system_time", "tsc_to_system_mul", "tsc_shift", "flags")


@dataclass(frozen=True, slots=True)
class Call:
    """A call of QEMU's that is an operation on a clock, by its name in `kvm.api`.

    first, last: the lab's TSC before and after what it does; the same twice where only one is known.
    """

    name: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Line:
    """A guest's counters while nothing is done to them: its TSC's offset, and the page that makes kvmclock of it."""

    offset: int
    page: PvclockVcpuTimeInfo

    def tsc(self, host: int) -> int:
        """The guest's TSC where the lab's is `host`."""
        return u64(host + self.offset)

    def kvmclock_ns(self, host: int) -> int:
        ns: int = kvmclock_ns(self.page, self.tsc(host))
        return ns


@dataclass(frozen=True, slots=True)
class Segment:
    """The guest ran from `first` to `last`, by the lab's TSC; last: None, where it still does.

    line: by KVM's own tracepoints, and the page that it wrote last.
    """

    first: int
    last: int | None
    line: Line

    def host(self, tsc: int) -> int:
        """The lab's TSC where the guest's was `tsc`."""
        return u64(tsc - self.line.offset)


@dataclass(slots=True)
class Watched:
    """calls: in order; Kick and Start stand for the guest's coming out of KVM_RUN and going in again, HostSleep for a
    sleep of the lab's.

    segments: in which the guest ran, one more than it was stopped. revealed: values of the lab's TSC at which KVM is
    known to have read it, ascending. left_out: calls that could be about time and are no operations of a recipe's.
    """

    calls: list[Call] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    revealed: list[int] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def slept(self) -> bool:
        return any(call.name == "HostSleep" for call in self.calls)


def watched(lines: Iterable[str]) -> Watched:
    """Raises LabError for a trace that does not begin with a page and a running guest."""
    reader = _Reader()
    for line in lines:
        match = LINE.match(line)
        if match is not None:
            reader.event(match["name"], int(match["tid"]), int(match["stamp"]), match["text"])
    return reader.done()


class _Reader:
    """One pass over the trace."""

    def __init__(self) -> None:
        self.found = Watched()
        self.revealed: set[int] = set()
        self.offset = 0
        self.page: PvclockVcpuTimeInfo | None = None
        self.running_since: int | None = 0
        self.under_way: dict[int, tuple[int, dict[str, int]]] = {}
        self.offset_written: tuple[int, int] | None = None

    def event(self, name: str, thread: int, stamp: int, text: str) -> None:
        if name == CALL:
            words = {key: int(value, 16) for key, _, value in (word.partition("=") for word in text.split()[1:])}
            self.under_way[thread] = stamp, words
        elif name == RETURN and thread in self.under_way:
            first, words = self.under_way.pop(thread)
            self.returns(CALLS[words["cmd"]], words, first, stamp)
        elif name == MARK and text.strip() == ASLEEP:
            self.found.calls.append(Call("Kick", stamp, stamp))
            self.ends(stamp)
        elif name == MARK and text.strip() == AWAKE:
            asleep = self.found.calls[-1].last
            self.found.calls += [Call("HostSleep", asleep, stamp), Call("Start", stamp, stamp)]
            self.running_since = stamp
        elif name == "kvm_write_tsc_offset":
            self.offset = int(parse_fields(name, text)["next"])
            self.offset_written = stamp, self.offset
        elif name == "kvm_pvclock_update":
            fields: dict[str, Any] = parse_fields(name, text)
            self.page = PvclockVcpuTimeInfo(**{key: fields[key] for key in PAGE_FIELDS})
            self.revealed.add(u64(self.page.tsc_timestamp - self.offset))
            self.goes_on(stamp)

    def goes_on(self, stamp: int) -> None:
        """QEMU has told the guest that it was stopped; it goes in again when its page has been written."""
        calls = self.found.calls
        if calls and calls[-1].name == "KvmclockCtrl":
            calls.append(Call("Start", calls[-1].last, stamp))
            self.running_since = stamp

    def returns(self, name: str, words: dict[str, int], first: int, last: int) -> None:
        operation = OPERATIONS.get(name)
        if name == "KVM_GET_MSRS" and (words["first"] & 0xFFFFFFFF, words["second"]) == (1, MSR_IA32_TSC):
            operation = "GetMsr"
        elif name == "KVM_SET_MSRS" and self.offset_written is not None and first < self.offset_written[0] < last:
            operation, last = "SetMsr", self.offset_written[0]  # the TSC is read before that is told
        elif name == "KVM_SET_TSC_KHZ":
            self.found.left_out.append(name)
        if operation is None:
            return
        if self.running_since is not None:
            self.found.calls.append(Call("Kick", first, first))
            self.ends(first)
        self.found.calls.append(Call(operation, first, last))

    def ends(self, stamp: int | None) -> None:
        """The guest has run until then, on the page that was written last."""
        if self.page is None or self.running_since is None:
            raise LabError("lab: KVM wrote no page for the guest: it does not use kvmclock")
        self.found.segments.append(Segment(self.running_since, stamp, Line(self.offset, self.page)))
        self.running_since = None

    def done(self) -> Watched:
        self.ends(None)
        self.found.revealed = sorted(self.revealed)
        return self.found
