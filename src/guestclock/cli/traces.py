"""The commands about recorded traces: check, record, and what a trace is made of."""

from __future__ import annotations

import sys
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
            metavar="FILE...",
        ),
    ],
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Hold recorded readings to 25 invariants: never back, in order, at their rate, offsets, stops, timers and so on.

    Prints the verdict first, then each violated invariant with its worst case, where it is and both readings, then what
    holds (with how much was compared) and what the trace gave nothing to judge by. Exits 0 where all that was judged
    holds, 1 where something is violated, 3 where nothing could be judged, 2 for what is no trace.
    """
    from guestclock.check.recorded import judge_files
    from guestclock.report import trace_check

    with progress_line() as progress:
        progress("reading")
        judged = judge_files(files)
    if json:
        trace_check.write(judged, sys.stdout)
    else:
        trace_check.show(console(), judged)
    raise typer.Exit(trace_check.STATUS[judged.status])


@trace_app.command()
def columns() -> None:
    """Tell what a trace is made of: columns, clocks, events, header."""
    from guestclock.report.trace_check import show_columns

    show_columns(console())


@trace_app.command()
def invariants() -> None:
    """Tell what each invariant says, what it needs, tolerates and cannot see."""
    from guestclock.report.trace_check import show_invariants

    show_invariants(console())
