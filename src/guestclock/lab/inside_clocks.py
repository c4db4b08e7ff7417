"""A kernel's own clocks, read and set inside the lab: every reading and every change between two of its counter.

The program's "steps" are played one after the other: {"do": "read"} reads every clock once by the vDSO and once by the
system call; {"do": "sleep", "ns": ...}; {"do": "adjtimex", ...fields of struct timex by name}; {"do": "settime",
"by_ns": ...} sets REALTIME to what it is and so much more. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import re
import struct
import time
from collections.abc import Callable
from typing import Any

from guestclock.errors import UserError
from guestclock.kvm.device import native

Emit = Callable[[dict[str, Any]], None]

CLOCKS = {
    "realtime": 0, "monotonic": 1, "monotonic_raw": 4, "boottime": 7, "tai": 11, "realtime_coarse": 5,
    "monotonic_coarse": 6,
}  # fmt: skip
SYSCALL = {"x86_64": 228, "aarch64": 113}  # clock_gettime
NSEC_PER_SEC = 1_000_000_000
ADJ_NANO, ADJ_SETOFFSET = 0x2000, 0x0100

TIMEX = struct.Struct("<I4xqqqqi4xqqqqqq64xi44x")
TIMEX_FIELDS = (
    "modes", "offset", "freq", "maxerror", "esterror", "status", "constant", "precision", "tolerance", "tv_sec",
    "tv_usec", "tick", "tai",
)  # fmt: skip

TIMER_LIST = "/proc/timer_list"


def run_clocks(program: dict[str, Any], emit: Emit) -> None:
    """Plays the steps. The first line says when the next tick is due, by CLOCK_MONOTONIC."""
    emit({"tick_due_ns": tick_due_ns()})
    for step in program["steps"]:
        kind = step["do"]
        if kind == "read":
            for name in CLOCKS:
                for by in ("vdso", "syscall"):
                    emit({"read": name, "by": by, **reading(name, by)})
        elif kind == "sleep":
            time.sleep(step["ns"] / NSEC_PER_SEC)
        elif kind == "adjtimex":
            emit({"adjtimex": {k: v for k, v in step.items() if k != "do"}, **adjtimex(step)})
        elif kind == "settime":
            emit({"settime": step["by_ns"], **settime(step["by_ns"])})
        else:
            raise ValueError(f"clocks: unknown step {kind!r} (known: adjtimex, read, settime, sleep)")


def reading(name: str, by: str) -> dict[str, int]:
    """One reading: ns, and the counter before and after."""
    timespec = (ctypes.c_int64 * 2)()
    arguments = (CLOCKS[name], ctypes.addressof(timespec))
    if by == "vdso":
        failed, before, after = native.call("clock_gettime", *arguments)
    else:
        failed, before, after = native.call("syscall", SYSCALL[os.uname().machine], *arguments)
    if failed:
        raise UserError(f"clocks: {name}: this kernel does not know it")
    return {"ns": timespec[0] * NSEC_PER_SEC + timespec[1], "before": before, "after": after}


def adjtimex(asked: dict[str, int]) -> dict[str, Any]:
    """adjtimex() of the given fields; with "time_ns", what ADJ_SETOFFSET adds."""
    fields = dict.fromkeys(TIMEX_FIELDS, 0) | {k: v for k, v in asked.items() if k in TIMEX_FIELDS}
    if fields["modes"] & ADJ_SETOFFSET:
        unit = 1 if fields["modes"] & ADJ_NANO else 1000
        fields["tv_sec"], rest = divmod(asked["time_ns"], NSEC_PER_SEC)
        fields["tv_usec"] = rest // unit
    timex = ctypes.create_string_buffer(TIMEX.pack(*fields.values()), TIMEX.size)
    result, before, after = native.call("adjtimex", ctypes.addressof(timex))
    answer = dict(zip(TIMEX_FIELDS, TIMEX.unpack(timex.raw), strict=True))
    return {"result": ctypes.c_int32(result).value, "answer": answer, "before": before, "after": after}


def settime(by_ns: int) -> dict[str, int]:
    """clock_settime(CLOCK_REALTIME): to what ns, and the counter before and after."""
    to = time.clock_gettime_ns(time.CLOCK_REALTIME) + by_ns
    timespec = (ctypes.c_int64 * 2)(*divmod(to, NSEC_PER_SEC))
    failed, before, after = native.call("clock_settime", CLOCKS["realtime"], ctypes.addressof(timespec))
    if ctypes.c_int32(failed).value:
        raise UserError("clocks: clock_settime: refused")
    return {"to_ns": to, "before": before, "after": after}


def tick_due_ns() -> int:
    """When CPU 0's next periodic tick is due, ns of CLOCK_MONOTONIC, by the kernel's own list of timers."""
    with open(TIMER_LIST, encoding="ascii", errors="replace") as file:
        found = re.search(r"tick_(?:nohz_handler|sched_timer).*\n.*?expires at (\d+)-", file.read())
    if found is None:
        raise UserError(f"clocks: {TIMER_LIST}: no tick is in it: this kernel has no high-resolution timers")
    return int(found[1])
