"""What a recipe may read of the host, and what it may change where the host is its own to change (a lab)."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Mapping
from struct import pack_into

from guestclock.errors import UserError
from guestclock.kvm.device import native

CLOCKSOURCE = "/sys/devices/system/clocksource/clocksource0/"

_CLOCKS = {
    "realtime": time.CLOCK_REALTIME,
    "monotonic": time.CLOCK_MONOTONIC,
    "monotonic_raw": time.CLOCK_MONOTONIC_RAW,
    "boottime": time.CLOCK_BOOTTIME,
}

_TIMEX_SIZE, _ADJ_FREQUENCY = 208, 2


def read_clock(clock: str, registers: Mapping[str, Callable[[], int]]) -> tuple[int, tuple[int, int]]:
    """(ns, or what one of the architecture's own `registers` reads; sandwich)."""
    if clock in registers:
        value = registers[clock]()
        now = native.counter()
        return value, (value, value) if registers[clock] is native.counter else (now, now)
    if clock not in _CLOCKS:
        raise UserError(f"ReadHostClock: unknown clock {clock!r} (known: {', '.join([*registers, *_CLOCKS])})")
    before = native.counter()
    value = time.clock_gettime_ns(_CLOCKS[clock])
    return value, (before, native.counter())


def clocksource() -> str:
    with open(CLOCKSOURCE + "current_clocksource", encoding="ascii") as file:
        return file.read().strip()


def set_clocksource(name: str) -> None:
    with open(CLOCKSOURCE + "available_clocksource", encoding="ascii") as file:
        available = file.read().split()
    if name not in available:
        raise UserError(f"SetClocksource: {name!r} is not available here (available: {', '.join(available)})")
    with open(CLOCKSOURCE + "current_clocksource", "w", encoding="ascii") as file:
        file.write(name)


def step_realtime(ns: int) -> None:
    time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_REALTIME) + ns)


def adjust_frequency(ppb: int) -> None:
    """adjtimex(ADJ_FREQUENCY). The kernel takes ppm with 16 fraction bits: about 0.015 ppb."""
    timex = ctypes.create_string_buffer(_TIMEX_SIZE)
    pack_into("<I", timex, 0, _ADJ_FREQUENCY)
    pack_into("<q", timex, 16, (ppb << 16) // 1000)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(timex) < 0:
        raise UserError(f"AdjustFrequency: adjtimex: {os.strerror(ctypes.get_errno())}")
