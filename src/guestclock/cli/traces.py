"""The commands about recorded traces: check, record, and what a trace is made of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from guestclock.cli.terminal import console, progress_line

trace_app = typer.Typer(
    help="Clock readings recorded from a real guest, or from any machine: checked, and recorded.",
    rich_markup_mode=None,
)


@trace_app.command()
def check(
    files: Annotated[
        list[str],
        typer.Argument(
            help="CSV or JSON lines, plain or gzipped; - for stdin. Several are one trace, put in order by its times.",
            metavar="FILE",
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Hold recorded readings to 25 invariants.

    Never back, in order on all vCPUs, at their rate, offsets, stops, timers, pages, owners and so on. Prints the
    verdict first, then each violated invariant with its worst case, where it is and both readings, then what holds
    (with how much was compared) and what the trace gave nothing to judge by. Exits 0 where all that was judged
    holds, 1 where something is violated, 3 where nothing could be judged, 2 for what is no trace.
    """
    from guestclock.check.recorded import judge_files
    from guestclock.report import trace_check

    with progress_line() as progress:
        judged = judge_files(files, lambda count: progress(f"{count:,} readings".replace(",", " ")))
    if json:
        trace_check.write(judged, sys.stdout)
    else:
        trace_check.show(console(), judged)
    raise typer.Exit(trace_check.STATUS[judged.status])


@trace_app.command()
def columns() -> None:
    """Tell what a trace is made of: columns, events, header."""
    from guestclock.report.trace_check import show_columns

    show_columns(console())


@trace_app.command()
def invariants() -> None:
    """Tell what each invariant needs, tolerates, cannot see."""
    from guestclock.report.trace_check import show_invariants

    show_invariants(console())


@trace_app.command()
def record(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write; gzipped if it ends in .gz.", metavar="FILE")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="For how long.", metavar="S")] = 10.0,
    interval_ms: Annotated[
        float, typer.Option("--interval-ms", help="Between two rounds of readings on a CPU.", metavar="MS")
    ] = 10.0,
    tsc_khz: Annotated[
        int | None, typer.Option("--tsc-khz", help="The TSC's rate, if not what the kernel's log says.", metavar="KHZ")
    ] = None,
    source: Annotated[
        bool, typer.Option("--source", help="Print the recorder in C instead, to be built where it shall run.")
    ] = False,
) -> None:
    """Record this machine's clocks, on all CPUs.

    Every reading stands between two reads of the counter. Needs a C compiler. For a guest without Python: guestclock
    trace record --source > recorder.c, then cc -O2 -pthread -static recorder.c -o recorder there or here, and
    ./recorder SECONDS INTERVAL_MS TSC_KHZ in it.
    """
    from guestclock.check.recorded import recorder

    if source:
        sys.stdout.write(recorder.SOURCE.read_text())
        return
    if output is None:
        raise typer.BadParameter("-o: missing, expected a file for the trace")
    if not 0 < seconds <= 1e8:
        raise typer.BadParameter(f"--seconds {seconds:g}: expected more than 0 and at most 1e8")
    if not 0 < interval_ms <= 1e7:
        raise typer.BadParameter(f"--interval-ms {interval_ms:g}: expected more than 0 and at most 1e7")
    with progress_line() as progress:
        progress(f"recording for {seconds:g} s")
        remarks = recorder.record(output, seconds, interval_ms, tsc_khz)
    for line in remarks:
        print(f"guestclock: {line}", file=sys.stderr)
    print(output)
