"""The command: parses, calls, prints. Whatever is heavy is imported by the command that needs it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guestclock import __version__
from guestclock.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

BAD_INPUT, INTERRUPTED = 2, 130

app = typer.Typer(
    name="guestclock",
    help="What will the guest's clocks show? KVM guest time, executable and exact.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
lab_app = typer.Typer(help="Real kernels under QEMU, in virtual time.", rich_markup_mode=None)
app.add_typer(lab_app, name="lab")


def main() -> None:
    """Exits 0 when it ran, 2 with one line for bad input or a missing thing, 130 when interrupted."""
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
        status = 1
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
        typer.Option("--on", help="Where: model (default), kvm (this host's), lab:KERNEL, all. May be repeated."),
    ] = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option("--kernel", help="Profile for the model, as linux-6.12. May be repeated.", metavar="PROFILE"),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Draw the model's durations; replays the run.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")] = False,
    save_trace: Annotated[
        Path | None, typer.Option("--save-trace", help="Keep the trace (of several runs: one file each).")
    ] = None,
    figure: Annotated[Path | None, typer.Option("--figure", help="Draw the clocks: .png, .svg or .pdf.")] = None,
) -> None:
    """Play a scenario and show what every clock reads after every step."""
    from guestclock.report import save

    save.check_paths(save_trace, figure)
    from guestclock.report.show import columns, show
    from guestclock.runs import run as run_scenario
    from guestclock.scenario import load

    def remark(line: str) -> None:
        print(f"guestclock: {line}", file=sys.stderr)

    loaded = load(scenario)
    with _progress() as progress:
        traces = run_scenario(
            loaded, on=on or ["model"], kernels=kernel or [], seed=seed, progress=progress, remark=remark
        )
        runs = columns(traces)
        notes = save.save(runs, save_trace, figure)
    if json:
        from guestclock.report.json_ import write

        write(runs, sys.stdout)
    else:
        show(_console(), runs)
    for line in notes:
        print(line, file=sys.stderr)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="scenarios, kernels, recipes or properties", metavar="WHAT")],
) -> None:
    """What there is: scenarios, kernels, recipes, properties."""
    from guestclock.report.lists import entries, show_entries

    show_entries(_console(), entries(what))


@app.command()
def host(json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False) -> None:
    """What kind of KVM host this is, by what it does, and what follows for a VMM."""
    from guestclock.inspect import classify

    with _progress() as progress:
        progress("asking this host's KVM")
        report = classify()
    if json:
        from json import dumps

        print(dumps(report.as_json(), indent=2))
    else:
        for line in report.lines():
            print(line)


@lab_app.command("setup")
def lab_setup(
    kernel: Annotated[
        list[str] | None, typer.Option("--kernel", help="6.1, 6.12, ... May be repeated.", metavar="KERNEL")
    ] = None,
) -> None:
    """Fetch Debian's kernels and make the lab's images. Once; after that nothing needs the network."""
    from guestclock.lab.setup import DEFAULT_KERNELS, setup

    setup(kernel or DEFAULT_KERNELS, progress=print)


def _console() -> Console:
    from rich.console import Console

    from guestclock.report.show import PLAIN_WIDTH

    console = Console(highlight=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, width=PLAIN_WIDTH)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What runs now, on a terminal's stderr, and gone when it is over."""
    if not sys.stderr.isatty():
        yield lambda line: None
        return
    from rich.console import Console

    with Console(stderr=True, highlight=False).status("") as status:
        yield lambda line: status.update(line)
