"""A guest's clocks over one sleep of its host: the table that the 2021 series is argued with, computed.

The host sleeps 600 s; 0.2 s of running time lie before it and 0.35 s after it in which the guest does not run. The
host's TSC, kvmclock and sleep are KVM's model; the guest's clocks are its timekeeper, which has both as clocksources.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from tests.kvm.model.x86.bench import Bench, S, vm_with

from guestclock.arith import u64
from guestclock.kvm.api import Host, HostSleep, ReadClocks
from guestclock.linux import Timekeeper, clocksource
from guestclock.machine import HostSpec

KHZ = 2_400_000
SLEPT, BEFORE, AFTER = 600 * S, 200_000_000, 350_000_000
LATE = 100_000
"""The model's steps take a microsecond each; there are fewer than a hundred."""


@dataclass(frozen=True)
class Seen:
    """Guest TSC (cycles) and kvmclock (ns) at the last instruction before and the first one after; the host's gains."""

    tsc: tuple[int, int]
    kvmclock: tuple[int, int]
    host_monotonic: int
    host_boottime: int


def stock(tsc: str) -> Seen:
    bench = Bench(spec=HostSpec(tsc_khz=KHZ, rtc_grain_ns=0))
    seen: list[Seen] = []

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].run()
        await host.wait(100 * S)
        [before] = await vm.vcpus[0].run(ReadClocks())
        clocks = [await host.read_clock(name) for name in ("monotonic", "boottime")]
        await host.wait(BEFORE)
        await HostSleep(SLEPT, tsc)
        await host.wait(AFTER)
        [after] = await vm.vcpus[0].run(ReadClocks())
        gained = [
            await host.read_clock(name) - was for name, was in zip(("monotonic", "boottime"), clocks, strict=True)
        ]
        seen.append(Seen((before.tsc, after.tsc), (before.kvmclock_ns, after.kvmclock_ns), *gained))

    bench.run(recipe)
    return seen[0]


def guest(seen: Seen, source: str, since_tick_ns: int = 0) -> tuple[Timekeeper, int, int]:
    """(A guest whose last tick is so long before its last instruction, its counter there, and at the first one after).

    MONOTONIC and BOOTTIME are 100 s at the last instruction.
    """
    clock = clocksource(source, tsc_khz=KHZ)
    last, first = seen.tsc if source == "tsc" else seen.kvmclock
    per_ms = KHZ if source == "tsc" else 1_000_000
    ticked = last - since_tick_ns * per_ms // 10**6
    tk = Timekeeper.start(clock, ticked, hz=250, monotonic_ns=100 * S - since_tick_ns, realtime_ns=10**18)
    assert tk.monotonic_ns(last) == pytest.approx(100 * S, abs=1)
    return tk, last, first


def shown(tk: Timekeeper, cycles: int) -> tuple[float, float, float]:
    """(MONOTONIC, BOOTTIME, what REALTIME gained), s, to the millisecond; of a guest that had just ticked."""
    told = tk.monotonic_ns(cycles), tk.boottime_ns(cycles), tk.realtime_ns(cycles) - 10**18
    monotonic, boottime, realtime = (round(ns / S, 3) for ns in told)
    return monotonic, boottime, realtime


def test_what_the_host_gains():
    seen = stock("running")
    assert seen.host_monotonic == pytest.approx(BEFORE + AFTER, abs=LATE)
    assert seen.host_boottime == pytest.approx(SLEPT + BEFORE + AFTER, abs=LATE)


@pytest.mark.parametrize(
    ("tsc", "source", "expected"),
    [
        ("running", "tsc", (700.550, 700.550, 600.550)),
        ("running", "kvm-clock", (700.550, 700.550, 600.550)),
        ("reset", "tsc", (100.350, 100.350, 0.350)),
        ("reset", "kvm-clock", (700.550, 700.550, 600.550)),
    ],
)
def test_stock_at_the_first_instruction(tsc, source, expected):
    tk, _, first = guest(stock(tsc), source)
    assert shown(tk, first) == expected


def v3(seen: Seen, counter: int, source: str) -> int:
    """What v3 leaves of a counter after the sleep: it takes away khz * whole ms, or of kvmclock all ns."""
    slept = seen.host_boottime - seen.host_monotonic
    return u64(counter - KHZ * (slept // 10**6)) if source == "tsc" else counter - slept


@pytest.mark.parametrize("source", ["tsc", "kvm-clock"])
def test_v3_with_a_tsc_that_runs_on(source):
    seen = stock("running")
    tk, _, first = guest(seen, source)
    first = v3(seen, first, source)
    assert shown(tk, first) == (100.550, 100.550, 0.550)
    handled = first + (KHZ if source == "tsc" else 10**6)  # a millisecond later
    assert tk.inject_sleeptime64(handled, seen.host_boottime - seen.host_monotonic)
    assert shown(tk, handled) == (100.551, 700.551, 600.551)
    assert tk.offs_boot_ns == pytest.approx(SLEPT, abs=LATE)


@pytest.mark.parametrize("since_tick_ns", [0, 1_000_000, 4_000_000])
def test_v3_with_a_tsc_that_was_reset_steps_back_to_the_last_tick_and_stalls(since_tick_ns):
    seen = stock("reset")
    tk, last, first = guest(seen, "tsc", since_tick_ns)
    before = tk.monotonic_ns(last)
    first = v3(seen, first, "tsc")
    assert before - tk.monotonic_ns(first) == pytest.approx(since_tick_ns, abs=1)
    assert tk.monotonic_ns(first + 100 * KHZ) == tk.monotonic_ns(first), "it stands"
    handled = first + KHZ
    tk.inject_sleeptime64(handled, seen.host_boottime - seen.host_monotonic)
    assert before - tk.monotonic_ns(handled) == pytest.approx(since_tick_ns, abs=1)
    assert tk.boottime_ns(handled) - tk.monotonic_ns(handled) == pytest.approx(SLEPT, abs=LATE)
    assert tk.monotonic_ns(handled + KHZ) - tk.monotonic_ns(handled) == pytest.approx(10**6, abs=1), "it runs again"


def test_a_clocksource_that_hides_the_whole_stop():
    """crosvm's virtio-pvclock: it subtracts the counter's advance over the stop, and injects BOOTTIME's."""
    seen = stock("running")
    tk, last, first = guest(seen, "tsc")
    hidden = first - (first - last)
    assert shown(tk, hidden) == (100.000, 100.000, 0.0)
    tk.inject_sleeptime64(hidden, seen.host_boottime)
    assert shown(tk, hidden) == (100.000, 700.550, 600.550)
