"""The program's end of the lab: runs inside, with the standard library and a few of our packages only.

    python3 -S -E -m guestclock.lab.inside /program.json > /dev/ttyS1

Every result is one JSON line; the last line says how many there were and how it ended. They are written when the
program has ended: a serial port is slow, and its interrupts would come between the steps of a measurement. What goes
to stderr is on the console, which the host side quotes when something failed.
"""

from __future__ import annotations

import fcntl
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

END = "#end"
"""First word of the last line: `#end <number of lines> ok|failed`."""

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


def main(arguments: list[str]) -> int:
    """Run the program of a file; 0 when it came to its end."""
    lines: list[str] = []

    def emit(result: dict[str, Any]) -> None:
        lines.append(json.dumps(result))

    try:
        with open(arguments[0], encoding="utf-8") as file:
            run(json.load(file), emit)
        ending = "ok"
    except Exception:
        traceback.print_exc()
        ending = "failed"
    for line in lines:
        print(line)
    print(END, len(lines), ending, flush=True)
    return 0 if ending == "ok" else 1


def run(program: dict[str, Any], emit: Emit) -> None:
    """Programs are told apart by their "program" field."""
    name = program.get("program")
    if name == "probe":
        probe(emit)
    elif name == "steps":
        steps(program, emit)
    else:
        raise ValueError(f"lab: unknown program {name!r} (known: probe, steps)")


def steps(program: dict[str, Any], emit: Emit) -> None:
    """A recipe over real ioctls: `guestclock.kvm.device` does it, here as on any host."""
    try:
        device = importlib.import_module("guestclock.kvm.device")
    except ModuleNotFoundError as missing:
        raise RuntimeError(f"lab: {missing.name} is not inside") from missing
    device.run_program(program, emit)


def probe(emit: Emit) -> None:
    """What this kernel is: facts a scenario rests on, one line each."""
    emit({"fact": "uname", **dict(zip(("system", "node", "release", "version", "machine"), os.uname(), strict=True))})
    emit({"fact": "cpus", "online": os.cpu_count()})
    emit({"fact": "dmesg", "lines": dmesg(r"tsc:|clocksource:|kvm|unstable")})
    emit({"fact": "clocksource", "current": _read("current"), "available": _read("available").split()})
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
    sys.exit(main(sys.argv[1:]))
