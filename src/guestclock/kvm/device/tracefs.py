"""KVM's tracepoints about time, for this process alone, stamped with the host's counter.

Which they are, and what their stamps mean, is an architecture's affair (`Tracing`). A trace instance of our own: the
machine's main trace buffer is not touched, and the instance goes when we go. Where tracefs is not mounted, a mount of
it that has no place in any directory tree serves as well (fsmount, 5.2).
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol

from guestclock.errors import UserError

MOUNTED = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")

_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_FSCONFIG_CMD_CREATE = 6
_CLOEXEC = 1

_LINE = re.compile(
    r"^\s*(?P<task>.*)-(?P<tid>\d+)\s+\[(?P<cpu>\d+)\]\s+\S+\s+(?P<stamp>[\d.]+): (?P<name>\w+): (?P<text>.*)$"
)
_LOST = re.compile(r"^CPU:(\d+) \[LOST (\d+) EVENTS\]")

Fields = dict[str, int | str]


@dataclass(frozen=True, slots=True)
class Point:
    """One line of the trace, between two values of the host's counter (the same twice where the stamp is one).

    data: `text` is the kernel's own; the fields beside it are ints where they read so.
    """

    name: str
    stamps: tuple[int, int]
    vcpu: int | None
    data: dict[str, Any]


class Tracing(Protocol):
    """What an architecture traces.

    events: of kvm's. clock: the trace clock they are stamped with. at_switches: some of them come while a thread loses
    its CPU, when the kernel's filter by process asks already for the thread that gets it.
    """

    events: tuple[str, ...]
    clock: str
    at_switches: bool

    def fields(self, name: str, text: str) -> Fields:
        """The fields of a tracepoint, by the names in the kernel's text; "vcpu_id" or "vcpu" is the vCPU's."""

    def about_to_read(self) -> None:
        """What has been traced until now will be asked for next."""

    def counter(self, stamp: str) -> tuple[int, int]:
        """The host's counter (least, most) when the trace clock showed `stamp`."""


def number(text: str) -> int | str:
    """A field's value: an int where it reads so, 0x in front of hexadecimal."""
    return int(text, 0) if re.fullmatch(r"-?(0x[0-9a-f]+|\d+)", text) else text


def parse_line(
    line: str, tracing: Tracing, threads: dict[int, tuple[int, int]] | None = None, ours: Collection[int] | None = None
) -> Point | None:
    """A line of trace_pipe; None for lines that are no event, or of a thread that is not one of `ours`.

    threads: (vm, vCPU) by thread id.
    """
    lost = _LOST.match(line)
    if lost:
        raise UserError(f"tracepoints: CPU {lost[1]} lost {lost[2]} events: its trace buffer was full")
    match = _LINE.match(line)
    if match is None or (ours is not None and int(match["tid"]) not in ours):
        return None
    fields = tracing.fields(match["name"], match["text"])
    vcpu = fields.get("vcpu_id", fields.get("vcpu"))
    data: dict[str, Any] = {"text": match["text"], **fields, "cpu": int(match["cpu"])}
    owner = (threads or {}).get(int(match["tid"]))
    if owner is not None:
        data["vm"] = owner[0]
        vcpu = owner[1] if vcpu is None else vcpu
    return Point(match["name"], tracing.counter(match["stamp"]), vcpu if isinstance(vcpu, int) else None, data)


class Tracepoints:
    """The tracepoints, on for this process until `close`. Raises UserError saying why there are none.

    whole_machine: this machine is ours: what the kernel's own filter would lose at a switch is kept, and what others
    do is left out here.
    """

    def __init__(self, tracing: Tracing, *, whole_machine: bool = False) -> None:
        self.tracing = tracing
        self._ours: set[int] | None = set() if whole_machine and tracing.at_switches else None
        self.threads: dict[int, tuple[int, int]] = {}
        self._name = f"guestclock-{os.getpid()}"
        self._pipe = -1
        self._partial = b""
        self._root, self._instance = _open_tracefs(), -1
        try:
            instances = os.open("instances", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._root)
            try:
                self._name = _make_instance(instances, self._name)
                self._instance = os.open(self._name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=instances)
            finally:
                os.close(instances)
            self._write("trace_clock", tracing.clock)
            if self._ours is None:
                self._write("options/event-fork", "1")  # threads to come are ours too
                self._write("set_event_pid", " ".join(os.listdir("/proc/self/task")))
            for event in tracing.events:
                self._write(f"events/kvm/{event}/enable", "1")
            self._pipe = os.open("trace_pipe", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._instance)
        except OSError as error:
            self.close()
            raise UserError(f"tracepoints: tracefs: {error.filename}: {error.strerror}") from None

    def drain(self) -> list[Point]:
        """What has come since the last time. Raises UserError if the buffer ran over."""
        while True:
            try:
                got = os.read(self._pipe, 65536)
            except BlockingIOError:
                break
            if not got:
                break
            self._partial += got
        whole, _, self._partial = self._partial.rpartition(b"\n")
        self.tracing.about_to_read()  # also where nothing came: a sleep of the host lies between two readings only
        if not whole:
            return []
        if self._ours is not None:
            self._ours.update(map(int, os.listdir("/proc/self/task")))
        lines = whole.decode(errors="replace").split("\n")
        points = (parse_line(line, self.tracing, self.threads, self._ours) for line in lines)
        return [point for point in points if point is not None]

    def close(self) -> None:
        """Removes the instance. May be called twice."""
        if self._pipe >= 0:
            os.close(self._pipe)
        if self._instance >= 0:
            for event in self.tracing.events:
                self._write(f"events/kvm/{event}/enable", "0")
            os.close(self._instance)
            os.rmdir(f"instances/{self._name}", dir_fd=self._root)
        if self._root >= 0:
            os.close(self._root)
        self._pipe = self._instance = self._root = -1

    def _write(self, name: str, text: str) -> None:
        fd = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, dir_fd=self._instance)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def _make_instance(instances: int, name: str) -> str:
    """One process may trace several devices at a time, and process ids come round again."""
    for attempt in range(100):
        candidate = name if attempt == 0 else f"{name}-{attempt}"
        try:
            os.mkdir(candidate, dir_fd=instances)
        except FileExistsError:
            continue
        return candidate
    raise UserError(f"tracepoints: a hundred trace instances {name}* exist already")


def _open_tracefs() -> int:
    """A descriptor of tracefs' root directory."""
    for path in MOUNTED:
        if os.path.isdir(f"{path}/instances"):
            try:
                return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise UserError(f"tracepoints: {path}: {error.strerror}") from None
    return _mount_tracefs()


def _mount_tracefs() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    context = libc.syscall(_FSOPEN, b"tracefs", _CLOEXEC)
    if context < 0:
        raise UserError(f"tracepoints: tracefs is not mounted, and fsopen says: {os.strerror(ctypes.get_errno())}")
    try:
        if libc.syscall(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0) < 0:
            raise UserError(f"tracepoints: tracefs cannot be mounted: {os.strerror(ctypes.get_errno())}")
        root = libc.syscall(_FSMOUNT, context, _CLOEXEC, 0)
        if root < 0:
            raise UserError(f"tracepoints: tracefs cannot be mounted: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(context)
    return int(root)
