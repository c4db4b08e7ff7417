"""All benchmarks, one after the other."""

from __future__ import annotations

from benchmarks import clock_reads, empty_steps, engine_table, explore_pages, pvclock_reads, startup, tsc_writes


def main() -> None:
    for benchmark in (pvclock_reads, clock_reads, empty_steps, tsc_writes, engine_table, explore_pages, startup):
        benchmark.main()


if __name__ == "__main__":
    main()
