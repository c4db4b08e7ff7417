"""A VMM inside the lab: QEMU, on the lab's own KVM, runs a Linux guest and is watched: it stops, saves and loads it, or
the lab goes to sleep under it.

What is watched are QEMU's calls of KVM about time, each between two values of the lab's TSC, and KVM's own tracepoints.
Standard library only. It is put inside where it is asked for, see `linux_guest`.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from guestclock.abi import ioctl as abi
from guestclock.kvm.device.host import sleep_s3
from guestclock.kvm.device.x86.tracing import X86Tracing
from guestclock.lab.guest_init import RECORD_BYTES
from guestclock.lab.process import Process, tail
from guestclock.lab.qmp import Refused

Emit = Callable[[dict[str, Any]], None]

TOLD, DISK = "/tmp/clocks", "/tmp/disk.qcow2"
"""What the guest says, and where QEMU keeps its snapshot. QEMU's words name them."""

CALLS = {
    abi.KVM_GET_CLOCK: "KVM_GET_CLOCK",
    abi.KVM_SET_CLOCK: "KVM_SET_CLOCK",
    abi.KVM_GET_MSRS: "KVM_GET_MSRS",
    abi.KVM_SET_MSRS: "KVM_SET_MSRS",
    abi.KVM_KVMCLOCK_CTRL: "KVM_KVMCLOCK_CTRL",
    abi.KVM_SET_TSC_KHZ: "KVM_SET_TSC_KHZ",
}

TRACEFS, INSTANCE = "/sys/kernel/tracing", "/sys/kernel/tracing/instances/linux-guest"
# struct pt_regs of x86-64: rsi at 104, rdx at 96. What the argument points to is read as far as an MSR list's first.
PROBE = (
    "p:linux_guest/kvm_call __x64_sys_ioctl cmd=+104(%di):x32 "
    "first=+u0(+96(%di)):x64 second=+u8(+96(%di)):x64 third=+u16(+96(%di)):x64"
)
ASLEEP, AWAKE = "asleep", "awake"
"""Marks in the trace, before the lab goes to sleep and after it."""
BUFFER_KB = 4096
BOOT_S, WAIT_S = 60.0, 60.0
"""By the lab's clock."""
LOOK_S = 0.005
LATER_S = 0.0073
"""Of an attempt against the one before: nothing that ticks is in the same phase then."""


def run(program: dict[str, Any], emit: Emit) -> None:
    """Boots the guest, then: stop, cont; savevm; loadvm; or the lab sleeps. Between any two the guest tells its clocks.

    program: "command": how QEMU is started; "disk": an empty qcow2 image, in hexadecimal; "records": how many at least
    the guest tells each time; "away_ns": how long it is stopped, and how long it runs from being saved to being loaded;
    "sleeps": the lab sleeps instead, "away_ns" in S3; "attempt": which one this is, from 0, each a little later than
    the one before. Emits "host", "trace", "console" and "told", each once.
    """
    emit({"host": {"release": os.uname().release, "tsc_khz": _tsc_khz(), "clocksource": _clocksource()}})
    with open(DISK, "wb") as disk:
        disk.write(bytes.fromhex(program["disk"]))
    records = program["records"]
    trace = _Trace()
    time.sleep(program["attempt"] * LATER_S)
    with Process(program["command"], fds=(), timeout_s=program["timeout_s"]) as qemu:
        _await(records, qemu, BOOT_S)
        if program["sleeps"]:
            trace.mark(ASLEEP)
            sleep_s3(program["away_ns"])
            trace.mark(AWAKE)
        else:
            _stopped_saved_loaded(records, program["away_ns"] / 1e9, qemu, trace)
        _await(records, qemu)
        emit({"console": qemu.console()})
    emit({"trace": trace.lines()})
    with open(TOLD, "rb") as told:
        emit({"told": told.read().hex()})


def _stopped_saved_loaded(records: int, away_s: float, qemu: Process, trace: _Trace) -> None:
    with trace.calls():
        qemu.command("stop")
        time.sleep(away_s)
        qemu.command("cont")
    _await(records, qemu)
    with trace.calls():
        _monitor(qemu, "savevm guest")
    _await(records, qemu)
    time.sleep(away_s)
    with trace.calls():
        _monitor(qemu, "loadvm guest")


def _await(records: int, qemu: Process, at_most_s: float = WAIT_S) -> None:
    """Until the guest has told so many records more."""
    begun, size = time.monotonic(), _size()
    while _size() < size + records * RECORD_BYTES:
        if time.monotonic() - begun > at_most_s:
            raise RuntimeError(f"the guest has told nothing for {at_most_s:g} s\n{tail(qemu.console())}")
        time.sleep(LOOK_S)


def _size() -> int:
    return os.path.getsize(TOLD) if os.path.exists(TOLD) else 0


def _monitor(qemu: Process, command: str) -> None:
    """A command of QEMU's human monitor, which says nothing where all is well."""
    arguments: dict[str, Any] = {"command-line": command}
    said = qemu.command("human-monitor-command", **arguments)
    if said:
        raise Refused(f"{command}: {said.strip()}")


def _tsc_khz() -> int:
    """What KVM gives a new vCPU."""
    opened = [os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)]
    try:
        opened.append(fcntl.ioctl(opened[0], abi.KVM_CREATE_VM, 0))
        opened.append(fcntl.ioctl(opened[1], abi.KVM_CREATE_VCPU, 0))
        return fcntl.ioctl(opened[2], abi.KVM_GET_TSC_KHZ, 0)
    finally:
        for fd in reversed(opened):
            os.close(fd)


def _clocksource() -> str:
    path = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
    with open(path, encoding="ascii") as file:
        return file.read().strip()


class _Trace:
    """KVM's tracepoints about time, from now on; and the calls, where they are asked for."""

    def __init__(self) -> None:
        _write(f"{TRACEFS}/kprobe_events", PROBE)
        os.mkdir(INSTANCE)
        self._set("trace_clock", X86Tracing.clock)
        self._set("buffer_size_kb", str(BUFFER_KB))
        self._set("events/linux_guest/kvm_call/filter", "||".join(f"cmd=={call:#x}" for call in CALLS))
        for event in X86Tracing.events:
            self._set(f"events/kvm/{event}/enable", "1")

    @contextmanager
    def calls(self) -> Iterator[None]:
        """Within, every one of CALLS is recorded, and the return from every ioctl."""
        events = ("events/linux_guest/kvm_call/enable", "events/syscalls/sys_exit_ioctl/enable")
        for event in events:
            self._set(event, "1")
        try:
            yield
        finally:
            for event in events:
                self._set(event, "0")

    def mark(self, text: str) -> None:
        """A line of our own."""
        self._set("trace_marker", text)

    def lines(self) -> list[str]:
        with open(f"{INSTANCE}/trace", encoding="utf-8") as file:
            return [line.rstrip("\n") for line in file if not line.startswith("#")]

    def _set(self, name: str, text: str) -> None:
        _write(f"{INSTANCE}/{name}", text)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
