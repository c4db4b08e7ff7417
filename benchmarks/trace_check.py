"""`guestclock trace check`: readings per second, against reading the same CSV with the csv module and making ints."""

from __future__ import annotations

import csv
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import rate, side_by_side
from guestclock.arith import clocks_calc_mult_shift
from guestclock.check.recorded import HOLDS, judge_files

READINGS = 300_000
KHZ = 2_596_122
VCPUS = 4
ROUND = ("MONOTONIC", "BOOTTIME", "REALTIME", "MONOTONIC_RAW", "MONOTONIC")
OFFSETS = {"BOOTTIME": 5 * 10**9, "REALTIME": 1_790_000_000 * 10**9}


def lines(count: int) -> Iterator[str]:
    """A clean trace: vCPUs in turn, a round of clocks each, every 10 µs or so."""
    mult, shift = clocks_calc_mult_shift(KHZ)
    yield f"# tsc_khz: {KHZ}\n# clocksource: tsc\n# counters: common\n# freq_ppm: 0\nvcpu,c0,c1,clock,value\n"
    draw, c = random.Random(1), 10**12
    for number in range(count):
        name = ROUND[number % len(ROUND)]
        before, after = draw.randrange(40, 90), draw.randrange(40, 90)
        value = ((c + before) * mult >> shift) + OFFSETS.get(name, 0)
        yield f"{number // len(ROUND) % VCPUS},{c},{c + before + after},{name},{value}\n"
        c += before + after + draw.randrange(100, 50_000)


def plain(path: Path) -> int:
    """What a script would do before it has looked at anything: rows, and ints of four of their fields."""
    total = 0
    with path.open() as file:
        for row in csv.reader(line for line in file if line[0] not in "#v"):
            vcpu, c0, c1, _, value = row
            total += int(vcpu) + int(c0) + int(c1) + int(value)
    return total


def checked(path: Path) -> None:
    assert judge_files([str(path)]).status == HOLDS


def cpu_seconds(work: Callable[[], object]) -> float:
    """One thread's work, whoever else uses the machine."""
    began = time.process_time()
    work()
    return time.process_time() - began


def main(count: int = READINGS, once: bool = False) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "trace.csv"
        with path.open("w") as out:
            out.writelines(lines(count))
        works = partial(checked, path), partial(plain, path)
        checked_s, plain_s = map(cpu_seconds, works) if once else side_by_side(*works, rounds=5)
    print(f"trace check      {count / 1e6:g} M readings: {rate(count, checked_s)}   csv and int alone "
          f"{rate(count, plain_s)}   {checked_s / plain_s:.2f} times their time")  # fmt: skip


if __name__ == "__main__":
    # python -m benchmarks.trace_check 10000000: once, of so many, in seconds of CPU
    main(*([int(sys.argv[1]), True] if len(sys.argv) > 1 else []))
