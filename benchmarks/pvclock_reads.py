"""kvmclock reads: the reader that guestclock's guests use, against the same arithmetic written out in a bare loop."""

from __future__ import annotations

from benchmarks.measure import rate, side_by_side
from guestclock.arith import pvclock_scale_delta, u64

READS = 100_000
SYSTEM_TIME, TIMESTAMP, MUL, SHIFT = 10**15, 2**52, 0xC5379CA5, -1
M64 = 2**64 - 1


def through_arith() -> int:
    total = 0
    for tsc in range(TIMESTAMP, TIMESTAMP + READS * 2596, 2596):
        total += SYSTEM_TIME + pvclock_scale_delta(u64(tsc - TIMESTAMP), MUL, SHIFT)
    return total


def bare() -> int:
    total = 0
    for tsc in range(TIMESTAMP, TIMESTAMP + READS * 2596, 2596):
        total += SYSTEM_TIME + (((((tsc - TIMESTAMP) & M64) >> 1) * MUL >> 32) & M64)
    return total


def main() -> None:
    assert through_arith() == bare()
    bare_s, ours_s = side_by_side(bare, through_arith)
    print(f"pvclock reads    bare expression {rate(READS, bare_s)}   guestclock.arith {rate(READS, ours_s)}   "
          f"{bare_s / ours_s:.2f} of the bare rate (it converts any argument as C would)")  # fmt: skip


if __name__ == "__main__":
    main()
