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
WAKE_ALARM = "/sys/class/rtc/rtc0/wakealarm"
IDLE_DRIVER = "/sys/devices/system/cpu/cpuidle/current_driver"
POWER = "/sys/power/"
DAY_S = 24 * 3600

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


def clocksources() -> list[str]:
    """What this kernel can keep time by; a TSC that is unstable is not among them."""
    with open(CLOCKSOURCE + "available_clocksource", encoding="ascii") as file:
        return file.read().split()


def set_clocksource(name: str) -> None:
    available = clocksources()
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


def sleep_s2idle(ns: int) -> None:
    """Suspend-to-idle for so long, by the RTC's alarm: every task is frozen, and timekeeping is suspended.

    Raises UserError where this machine has no such sleep, or where it would be one in name only: without an idle state
    of a CPU, the kernel waits, but its clocks go on.
    """
    if "s2idle" not in _words(POWER + "mem_sleep"):
        raise UserError(f"HostSleep: this kernel has no s2idle ({POWER}mem_sleep)")
    if _words(IDLE_DRIVER) in ([], ["none"]):
        raise UserError(f"HostSleep: no idle state to sleep in ({IDLE_DRIVER}): this host's clocks would go on")
    seconds, rest_ns = divmod(ns, 10**9)
    if rest_ns or seconds < 1:
        raise UserError(f"HostSleep: {ns} ns: expected whole seconds, by which this host's RTC can wake it")
    _sleep(seconds, [(POWER + "state", "freeze")])


def sleep_s3(ns: int) -> None:
    """Suspend-to-RAM until the RTC's alarm so much later: the hardware goes down and comes up again.

    The alarm is when the RTC, which counts seconds, has counted so many, rounded up: the sleep is up to 1 s longer or
    shorter. Raises UserError where this machine has no such sleep.
    """
    if "deep" not in _words(POWER + "mem_sleep"):
        raise UserError(f"HostSleep: this kernel has no S3 ({POWER}mem_sleep)")
    _sleep(-(-ns // 10**9), [(POWER + "mem_sleep", "deep"), (POWER + "state", "mem")])


def _sleep(seconds: int, writes: list[tuple[str, str]]) -> None:
    """Sets the alarm, then writes into files of sysfs, the last of which returns when the machine is awake again."""
    if not 1 <= seconds < DAY_S:
        raise UserError(
            f"HostSleep: {seconds} s: expected at least 1 and less than a day, by which an RTC's alarm goes"
        )
    for path, text in ((WAKE_ALARM, "0"), (WAKE_ALARM, f"+{seconds}"), *writes):
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
        except OSError as error:
            raise UserError(f"HostSleep: {path}: {error.strerror}") from None


def _words(path: str) -> list[str]:
    """Of a file of sysfs, the marks of what is chosen left out; none where there is no such file."""
    try:
        with open(path, encoding="ascii") as file:
            return file.read().replace("[", " ").replace("]", " ").split()
    except FileNotFoundError:
        return []
