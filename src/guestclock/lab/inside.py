"""The programs' end of the lab: runs inside, with the standard library and a few of our packages only.

    python3 -S -m guestclock.lab.inside

It imports what programs may need, and stops the machine, to be copied. Every copy runs on from there with a program of
its own, which it finds in the exchange, and stops for good when the program's results are in it. Every result is one
JSON line; a program that failed ends with {"guestclock_lab": "error", ...}. All is written when it has ended: nothing
comes between the steps of a measurement. What goes to stderr is on the console.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import re
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any

from guestclock.errors import UserError
from guestclock.lab.exchange import Exchange

MARK = "guestclock_lab"
"""Key of a line that is the lab's own; its value is ERROR."""

ERROR = "error"
USER_ERROR = "UserError"

WANTED = ("guestclock.vmm.on_device",)
"""What is imported before any program is known, besides what this architecture's own half wants."""

OWN = {"x86_64": "guestclock.lab.inside_x86", "aarch64": "guestclock.lab.inside_arm64"}
"""By what the machine calls itself: WANTED, LOG, probe(emit), after_stop()."""

Emit = Callable[[dict[str, Any]], None]

CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/"

TIMEX_SIZE, TIMEX_FREQUENCY_AT = 208, 16


def main() -> int:
    """Run the program of this copy of the machine."""
    own = _own()
    for name in (*WANTED, *own.WANTED):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    exchange = Exchange()
    exchange.stop()
    own.after_stop()
    exchange.put(results(json.loads(exchange.program())))
    exchange.stop()
    return 1


def results(program: dict[str, Any]) -> bytes:
    """The lines of a program that has come to an end, of whatever kind."""
    lines: list[str] = []

    def emit(result: dict[str, Any]) -> None:
        lines.append(json.dumps(result, separators=(",", ":")))

    try:
        run(program, emit)
    except Exception as error:
        trace = traceback.format_exc()
        print(f"lab: {trace}", file=sys.stderr)
        kind = USER_ERROR if isinstance(error, UserError) else type(error).__name__
        emit({MARK: ERROR, "kind": kind, "message": str(error), "traceback": trace})
    return "\n".join(lines).encode()


def run(program: dict[str, Any], emit: Emit) -> None:
    """Programs are told apart by their "program" field."""
    name = program.get("program")
    if name == "probe":
        probe(emit)
    elif name == "steps":
        # A recipe over real ioctls: `guestclock.vmm.on_device` does it, here as on any host.
        importlib.import_module("guestclock.vmm.on_device").run_program(program, emit)
    elif name == "script":
        importlib.import_module("guestclock.vmm.on_device").run_script(program, emit)
    elif name == "half":
        importlib.import_module("guestclock.vmm.on_device").run_half(program, emit)
    elif name == "classify":
        emit(importlib.import_module("guestclock.inspect").classify().as_json())
    elif name == "bench":
        importlib.import_module("guestclock.kvm.device.bench").run_bench(program, emit)
    elif name == "clocks":
        importlib.import_module("guestclock.lab.inside_clocks").run_clocks(program, emit)
    elif name == "race":
        importlib.import_module("guestclock.lab.inside_race").run_race(program, emit)
    elif name == "linux-guest":
        importlib.import_module("guestclock.lab.inside_guest").run(program, emit)  # there where `linux_guest` put it
    else:
        known = "bench, classify, clocks, half, linux-guest, probe, race, script, steps"
        raise ValueError(f"lab: unknown program {name!r} (known: {known})")


def _own() -> Any:
    """This architecture's half."""
    return importlib.import_module(OWN[os.uname().machine])


def _frequency() -> int:
    """adjtimex's frequency, ppm with 16 fraction bits."""
    timex = ctypes.create_string_buffer(TIMEX_SIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(timex) < 0:
        raise OSError(ctypes.get_errno(), "adjtimex")
    (frequency,) = struct.unpack_from("<q", timex, TIMEX_FREQUENCY_AT)
    return int(frequency)


def probe(emit: Emit) -> None:
    """What this kernel is: facts a scenario rests on, one line each."""
    emit({"fact": "uname", **dict(zip(("system", "node", "release", "version", "machine"), os.uname(), strict=True))})
    emit({"fact": "cpus", "online": os.cpu_count()})
    own = _own()
    emit({"fact": "dmesg", "lines": dmesg(own.LOG)})
    emit({"fact": "clocksource", "current": _read("current"), "available": _read("available").split()})
    emit({"fact": "frequency", "ppm_16": _frequency()})
    own.probe(emit)


def dmesg(pattern: str) -> list[str]:
    """Lines of the kernel's log that match, without their time stamps."""
    found: list[str] = []
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        while True:
            try:
                record = os.read(log, 8192).decode(errors="replace")
            except BlockingIOError:
                return found
            text = record.partition(";")[2].partition("\n")[0]
            if re.search(pattern, text):
                found.append(text)
    finally:
        os.close(log)


def _read(name: str) -> str:
    with open(f"{CLOCKSOURCE}{name}_clocksource", encoding="ascii") as file:
        return file.read().strip()


if __name__ == "__main__":
    sys.exit(main())
