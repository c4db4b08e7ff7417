"""The programs' end of the lab: runs inside, with the standard library and a few of our packages only.

    python3 -S -E -m guestclock.lab.inside

It imports what programs may need, and stops the machine, to be copied. Every copy runs on from there with a program of
its own, which it finds in the exchange, and stops for good when the program's results are in it. Every result is one
JSON line; a program that failed ends with {"guestclock_lab": "error", ...}. All is written when it has ended: nothing
comes between the steps of a measurement. What goes to stderr is on the console.
"""

from __future__ import annotations

import ctypes
import fcntl
import gc
import importlib
import json
import os
import re
import struct
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from guestclock.errors import UserError
from guestclock.lab.exchange import Exchange

MARK = "guestclock_lab"
"""Key of a line that is the lab's own; its value is ERROR."""

ERROR = "error"
USER_ERROR = "UserError"

WANTED = ("guestclock.vmm.on_device", "guestclock.inspect")
"""What is imported before any program is known."""

Emit = Callable[[dict[str, Any]], None]

KVM_CREATE_VM = 0xAE01
KVM_CHECK_EXTENSION = 0xAE03
KVM_CREATE_VCPU = 0xAE41
KVM_SET_CLOCK = 0x4030AE7B
KVM_GET_CLOCK = 0x8030AE7C
KVM_GET_TSC_KHZ = 0xAEA3
CAPABILITIES = {
    "ADJUST_CLOCK": 39,
    "TSC_CONTROL": 60,
    "GET_TSC_KHZ": 61,
    "KVMCLOCK_CTRL": 76,
    "VCPU_ATTRIBUTES": 127,
    "IMMEDIATE_EXIT": 136,
    "VM_TSC_CONTROL": 214,
}
CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/"
KVM_CLOCK_DATA = struct.Struct("<QIIQQ16x")

TIMEX_SIZE, TIMEX_FREQUENCY_AT = 208, 16


def main() -> int:
    """Run the program of this copy of the machine."""
    for name in WANTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    exchange = Exchange()
    exchange.stop()
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
    elif name == "classify":
        emit(importlib.import_module("guestclock.inspect").classify().as_json())
    elif name == "bench":
        importlib.import_module("guestclock.kvm.device.bench").run_bench(program, emit)
    else:
        raise ValueError(f"lab: unknown program {name!r} (known: bench, classify, probe, steps)")


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
    emit({"fact": "dmesg", "lines": dmesg(r"tsc:|clocksource:|kvm|unstable")})
    emit({"fact": "clocksource", "current": _read("current"), "available": _read("available").split()})
    emit({"fact": "frequency", "ppm_16": _frequency()})
    raw_ns = [time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) for _ in range(5)]
    emit({"fact": "monotonic_raw", "readings_ns": raw_ns})
    kvm = os.open("/dev/kvm", os.O_RDWR)
    emit({"fact": "capabilities", **{k: fcntl.ioctl(kvm, KVM_CHECK_EXTENSION, v) for k, v in CAPABILITIES.items()}})
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    emit({"fact": "tsc_khz", "kvm": fcntl.ioctl(vcpu, KVM_GET_TSC_KHZ, 0)})
    # flags stay 0 until a masterclock update ran; SET_CLOCK makes one without any KVM_RUN (kvm-x86.md section 5.2)
    fcntl.ioctl(vm, KVM_SET_CLOCK, KVM_CLOCK_DATA.pack(1_000_000_000, 0, 0, 0, 0))
    answer = fcntl.ioctl(vm, KVM_GET_CLOCK, bytes(KVM_CLOCK_DATA.size))
    clock, flags, _, realtime, host_tsc = KVM_CLOCK_DATA.unpack(answer)
    emit({"fact": "get_clock", "clock_ns": clock, "flags": flags, "realtime_ns": realtime, "host_tsc": host_tsc})


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
