"""All benchmarks, one after the other."""

from __future__ import annotations

from benchmarks import (
    clock_reads,
    empty_steps,
    engine_table,
    explore_pages,
    freeze_orders,
    pvclock_reads,
    startup,
    suspend_orders,
    trace_check,
    tsc_writes,
)

ALL = (
    pvclock_reads, clock_reads, empty_steps, tsc_writes, engine_table, explore_pages, freeze_orders, suspend_orders,
    trace_check, startup,
)  # fmt: skip


def main() -> None:
    for benchmark in ALL:
        benchmark.main()


if __name__ == "__main__":
    main()
