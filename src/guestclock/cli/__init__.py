"""The command: parses, calls, prints. Whatever is heavy is imported by the command that needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from guestclock import __version__
from guestclock.cli import checking
from guestclock.cli.bench import bench_app
from guestclock.cli.labs import lab_app
from guestclock.cli.terminal import console, progress_line
from guestclock.cli.traces import trace_app
from guestclock.errors import Failure, UserError

FAILED, BAD_INPUT, INTERNAL, INTERRUPTED = 1, 2, 70, 130
DEBUG = "GUESTCLOCK_DEBUG"

app = typer.Typer(
    name="guestclock",
    help="What will the guest's clocks show? KVM guest time, executable and exact.",
    epilog="Begin with: guestclock run threads/2023-masterclock",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(lab_app, name="lab")
app.add_typer(bench_app, name="bench")
app.add_typer(trace_app, name="trace")
checking.register(app)


def main() -> None:
    """Exits 0 when it ran (check: when everything holds), 2 with one line for bad input or a missing thing, 1 where a
    lab failed or nobody reads on (check: violated), 3 undecided, 70 for a mistake of its own, 130 when interrupted.
    """
    # What typer calls ClickException, wherever it keeps it: the base of UsageError, the base of BadParameter.
    usage_error: Any = typer.BadParameter.__mro__[2]
    try:
        status = app(standalone_mode=False)
        sys.stdout.flush()
    except UserError as error:
        status = _told(str(error))
    except usage_error as error:
        status = _told(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:
        # Whoever read has seen enough. Nothing may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = FAILED
    except Failure as failure:
        print(f"guestclock: {failure}", file=sys.stderr)
        status = FAILED
    except Exception as mistake:
        if os.environ.get(DEBUG):
            raise
        told = " ".join(f"{type(mistake).__name__}: {mistake}".split())
        advice = f"please report it; set {DEBUG}=1 for the traceback"
        print(f"guestclock: internal error: {told}; {advice}", file=sys.stderr)
        status = INTERNAL
    sys.exit(status if isinstance(status, int) else 0)


def _told(message: str) -> int:
    print(f"guestclock: {message[:1].lower()}{message[1:]}", file=sys.stderr)
    return BAD_INPUT


@app.callback(invoke_without_command=True)
def _guestclock(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Say the version and end.")] = False,
) -> None:
    if version:
        print(f"guestclock {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def run(
    scenario: Annotated[str, typer.Argument(help="A built-in scenario's name, or a TOML file.", metavar="NAME|FILE")],
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            help="Where to run: model (the default); kvm, this host's /dev/kvm; lab:KERNEL, as lab:6.12, or "
            "lab:6.12:cortex-a72 for an arm64 kernel on another CPU (see 'guestclock lab setup'); all, whatever of the "
            "scenario's own list is here. May be repeated.",
            metavar="WHERE",
        ),
    ] = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option(
            "--kernel",
            help="Whose KVM the model is, as linux-6.12 or linux-6.12+exact5 (see 'guestclock list kernels'). "
            "May be repeated.",
            metavar="PROFILE",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Draw the model's delays at random; the same N is the same run.", metavar="N"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")] = False,
    save_trace: Annotated[
        Path | None,
        typer.Option(
            "--save-trace",
            help="Keep everything that happened, as JSON lines; several runs get a numbered file each.",
            metavar="FILE",
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option("--figure", help="Draw clock minus true time: .png, .svg or .pdf.", metavar="FILE"),
    ] = None,
) -> None:
    """Play a scenario and show what every clock reads after every step.

    Exits 0 when it ran, whatever the clocks did; 2 for bad input or a missing thing, with one line that says which.
    """
    from guestclock.report import save

    save.check_paths(save_trace, figure)
    from guestclock.checks.protocol import is_thread, mistyped
    from guestclock.errors import UserError
    from guestclock.report.show import columns, show
    from guestclock.runs import run as run_scenario
    from guestclock.scenario import load
    from guestclock.scenario.catalogue import names

    def remark(line: str) -> None:
        print(f"guestclock: {line}", file=sys.stderr)

    if is_thread(scenario):
        raise UserError(f"{scenario}: is asked, not run: guestclock check {scenario}")
    mistyped(scenario, names())
    loaded = load(scenario)
    with progress_line() as progress:
        traces = run_scenario(
            loaded, on=on or ["model"], kernels=kernel or [], seed=seed, progress=progress, remark=remark
        )
        runs = columns(traces)
        notes = save.save(runs, save_trace, figure)
    if json:
        from guestclock.report.json_ import write

        write(runs, sys.stdout)
    else:
        show(console(), runs)
    for line in notes:
        print(line, file=sys.stderr)


@app.command("list")
def list_(
    what: Annotated[
        str,
        typer.Argument(
            help="scenarios; kernels (profiles, and overlays to lay over them with +); recipes (what VMMs do, for "
            "check); threads (protocols with several designs, for check); steps (of which a scenario is made, with "
            "their keys); properties (what is looked for in every run, and what check asks).",
            metavar="WHAT",
        ),
    ],
) -> None:
    """List scenarios, kernels, recipes, threads, steps or properties."""
    from guestclock.report.lists import entries, show_entries

    show_entries(console(), entries(what))


@app.command()
def host(json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False) -> None:
    """Tell what kind of KVM host this is.

    By what it does, not by what it says: small VMs are made on /dev/kvm, their TSCs and clocks are written, and what
    became of it is read back. Ends with what follows for a VMM. Needs permission for /dev/kvm, takes a few seconds,
    and changes nothing outside those VMs.
    """
    from guestclock.inspect import classify

    with progress_line() as progress:
        progress("asking this host's KVM")
        report = classify()
    if json:
        from json import dumps

        print(dumps(report.as_json(), indent=2))
    else:
        for line in report.lines():
            print(line)
