"""The commands about what reading a clock costs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from guestclock.cli.terminal import console, progress_line

bench_app = typer.Typer(help="Measure what a guest's clocks cost to read.", rich_markup_mode=None)


@bench_app.callback()
def _bench() -> None:
    pass


@bench_app.command()
def counter(
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            help="kvm, this host's /dev/kvm (the default), in ns; lab:KERNEL (x86) or lab:KERNEL:CPU (arm64: "
            "neoverse-n1, neoverse-n1-nvhe, cortex-a72), in instructions. May be repeated.",
            metavar="WHERE",
        ),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option("--iterations", help="How many reads of each (10 000).", metavar="N")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead, samples included.")] = False,
) -> None:
    """Time a guest's read of its counter: native against trapped, one conversion against two.

    arm64: CNTPCT_EL0 without an offset, and with one (KVM_ARM_SET_COUNTER_OFFSET), by which it traps. x86: RDTSC, and
    RDMSR of IA32_TSC where KVM has it exit; a TSC clocksource, and kvm-clock. Average, standard deviation and 95th
    percentile, as in the thread of 2021, whose own figures stand below.
    """
    from guestclock.report import bench_counter
    from guestclock.runs.bench import DEFAULT_ITERATIONS, bench

    with progress_line() as progress:
        wanted = DEFAULT_ITERATIONS if iterations is None else iterations
        machines = bench(on or ["kvm"], iterations=wanted, progress=progress)
    if json:
        bench_counter.write(machines, sys.stdout)
    else:
        bench_counter.show(console(), machines)
