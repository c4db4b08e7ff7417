"""The commands about verdicts: check, replay, export, corpus."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from guestclock.cli.terminal import console, progress_line

if TYPE_CHECKING:
    pass

VIOLATED_STATUS, UNDECIDED_STATUS = 1, 3


def register(app: typer.Typer) -> None:
    """Enters the commands of this file."""
    for command in (check, replay, export, corpus):
        app.command()(command)


def check(
    what: Annotated[
        str,
        typer.Argument(
            help="A recipe by name or file (NAME, FILE.py), a scenario (NAME, FILE.toml), or a thread whose designs "
            "are compared (threads/2021-suspend).",
            metavar="RECIPE|SCENARIO|THREAD",
        ),
    ],
    kernel: Annotated[
        list[str] | None,
        typer.Option(
            "--kernel",
            help="Whose KVM: a profile like linux-6.12 or linux-6.12+exact5, or a FILE.py of yours. May be repeated.",
            metavar="PROFILE|FILE",
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            help="What the guest's clocks are meant to do: run, freeze or advance, or a FILE.toml with a policy per "
            "clock and tolerances. Without it: what the recipe says.",
            metavar="NAME|FILE",
        ),
    ] = None,
    vcpus: Annotated[int | None, typer.Option("--vcpus", help="How many vCPUs (2).", metavar="N")] = None,
    max_delay: Annotated[
        str | None,
        typer.Option(
            "--max-delay",
            help="Between two calls, at most (5 s). Of this and the next five, one can be a list, as 0.1s,0.5s,2s: a "
            "table; or two: a grid, of the one --property.",
            metavar="T",
        ),
    ] = None,
    save_delay: Annotated[
        str | None,
        typer.Option("--save-delay", help="The same, before the operation's middle only.", metavar="T"),
    ] = None,
    restore_delay: Annotated[
        str | None,
        typer.Option("--restore-delay", help="The same, after the operation's middle only.", metavar="T"),
    ] = None,
    max_section: Annotated[
        str | None,
        typer.Option("--max-section", help="Inside one section of the kernel, at most (10 us).", metavar="T"),
    ] = None,
    life: Annotated[
        str | None, typer.Option("--life", help="The guest has run before, at most (100 s).", metavar="T")
    ] = None,
    away: Annotated[
        str | None, typer.Option("--away", help="The operation's middle takes at most (60 s).", metavar="T")
    ] = None,
    design: Annotated[
        list[str] | None,
        typer.Option("--design", help="Of a thread, this design only. May be repeated.", metavar="NAME"),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option("--case", help="Of a thread's designs, this case only. May be repeated.", metavar="NAME"),
    ] = None,
    property_: Annotated[
        list[str] | None,
        typer.Option("--property", help="Only this property. May be repeated.", metavar="NAME"),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Search no longer than this; what is open then is undecided.", metavar="T"),
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", help="Processes to search with (1).", metavar="N")] = None,
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="A Dask scheduler to search with instead.", metavar="ADDRESS")
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            help="A file that a check which was interrupted, or whose budget ended, has left: the search goes on.",
            metavar="FILE",
        ),
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on",
            help="Play the calls of each violation on a real kernel as well: kvm, lab:KERNEL. May be repeated.",
            metavar="WHERE",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Where replay files go: a directory.", metavar="DIR")] = Path(
        "out"
    ),
) -> None:
    """Ask of every order and every delay: does each guest clock do what it should?

    Prints a verdict per property, the bounds they rest on, and for each violation the shortest story and a replay file.
    Exits 0 where everything holds, 1 where something is violated, 3 where something is undecided, 2 for bad input.
    """
    import sys

    from guestclock.checks.target import axes, duration, how, known_names, targets

    options = (
        ("--max-delay", max_delay), ("--save-delay", save_delay), ("--restore-delay", restore_delay),
        ("--max-section", max_section), ("--life", life), ("--away", away),
    )  # fmt: skip
    from guestclock.checks import protocol

    if protocol.is_thread(what):
        from guestclock.report.protocol import no_option

        given: list[tuple[str, object]] = [
            ("--kernel", kernel), ("--policy", policy), ("--vcpus", vcpus), *options, ("--resume", resume),
            ("--on", on), ("--cluster", cluster),
        ]  # fmt: skip
        no_option(what, given)
        _check_thread(what, design or (), case or (), property_ or (), budget, jobs, out, json=json)
    protocol.mistyped(what, known_names())
    if design or case:
        raise typer.BadParameter(f"--design, --case: are a thread's ({', '.join(protocol.THREADS)}), not {what}'s")
    single, lists = axes(options)
    found = targets(what, kernel or (), policy, vcpus, property_ or (), single)
    budget_s = None if budget is None else duration("--budget", budget) / 1e9
    from guestclock.report import check_search
    from guestclock.report.check import check_out, exit_status, show

    check_out(out)
    search = how(budget_s=budget_s, jobs=jobs, cluster=cluster)
    if lists:
        from guestclock.report import check_sweep

        if resume is not None:
            raise typer.BadParameter(f"--resume {resume}: is one search's, but a list of values makes several")
        if on:
            raise typer.BadParameter("--on: plays single violations, but a list of values makes a table")
        with progress_line() as progress:
            swept = check_sweep.run(found, lists, progress, search)
        if json:
            check_sweep.write(swept, sys.stdout)
        else:
            check_sweep.show(console(), swept)
        raise typer.Exit(check_sweep.exit_status(swept))
    with progress_line() as progress:
        done, remarks = check_search.run(found, out, progress, resume, search)
        if on:
            from guestclock.report import check_on

            check_on.ask(done, on, progress)
    for line in remarks:
        print(f"guestclock: {line}", file=sys.stderr)
    if json:
        from guestclock.report.check_json import write

        write(done, sys.stdout)
    else:
        show(console(), done)
    raise typer.Exit(exit_status(done))


def _check_thread(
    name: str,
    designs: Sequence[str],
    cases: Sequence[str],
    properties: Sequence[str],
    budget: str | None,
    jobs: int | None,
    out: Path,
    *,
    json: bool,
) -> NoReturn:
    """A thread's designs, each in all its cases."""
    import sys

    from guestclock.checks.protocol import exit_status, thread
    from guestclock.checks.target import duration, how
    from guestclock.report import protocol
    from guestclock.report.check import check_out

    of = thread(name)
    what = protocol.chosen(of, designs, cases)
    budget_s = None if budget is None else duration("--budget", budget) / 1e9
    search = how(budget_s=budget_s, jobs=jobs, cluster=None)
    check_out(out)
    with progress_line() as progress:
        done, paths = protocol.run(of, what, properties, out, progress, **search)
    if json:
        protocol.write(of, done, paths, sys.stdout)
    else:
        protocol.show(console(), of, done, paths)
    raise typer.Exit(exit_status(done))


def replay(
    file: Annotated[Path, typer.Argument(help="What check has written.", metavar="FILE")],
    on: Annotated[
        str,
        typer.Option(
            "--on",
            help="model (the default): the very run, with integers. kvm, lab:KERNEL: the same calls at the same "
            "distances on a real kernel, where they alone bring it about.",
            metavar="WHERE",
        ),
    ] = "model",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure",
            help="Draw clock minus true time (of a thread's: who did what, in lanes): .png, .svg or .pdf.",
            metavar="FILE",
        ),
    ] = None,
    readings: Annotated[
        Path | None,
        typer.Option(
            "--readings",
            help="Of a thread's run, read all clocks of the guest as densely as can be, and write the trace, for "
            "guestclock trace check: CSV, gzipped if it ends in .gz.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """Run a violation again and show how it comes about.

    Exits 0 where the run shows the recorded value (--on kvm, lab:KERNEL: the violation), 1 where it does not, 2 for bad
    input, and where calls and their distances alone do not bring it about.
    """
    import sys

    from guestclock.checks import protocol_replay, replay_file
    from guestclock.report.save import check_paths

    check_paths(None, figure)
    if protocol_replay.is_one(file):
        from guestclock.report import protocol

        if on != "model":
            raise typer.BadParameter(f"{file}: is a thread's: --on is for recipes and scenarios")
        if figure is not None:
            from guestclock.report import swim_lanes

            swim_lanes.draw_replay(file, figure)
            print(f"figure: {figure}", file=sys.stderr)
        if readings is not None:
            from guestclock.checks.readings import of_replay, save

            save(of_replay(protocol_replay.load(file), str(file)), readings)
            print(f"readings: {readings}", file=sys.stderr)
        raise typer.Exit(0 if protocol.replay(console(), file, json=json) else VIOLATED_STATUS)
    if readings is not None:
        raise typer.BadParameter(f"{file}: is a recipe's or a scenario's: --readings is for threads")
    loaded = replay_file.load(file)
    from guestclock.report import check_replay

    story = check_replay.retold(loaded, str(file))
    if figure is not None:
        from guestclock.report.check_figure import draw

        draw(loaded, story, figure)
        print(f"figure: {figure}", file=sys.stderr)
    if on != "model":
        from guestclock.checks.forced import forced

        with progress_line() as progress:
            run = forced(loaded, story, on, progress)
        check_replay.show_forced(console(), loaded, run, json=json)
        raise typer.Exit(0 if run.violated else VIOLATED_STATUS)
    if json:
        from guestclock.report.check_json import write_replay

        write_replay(loaded, story, sys.stdout)
    else:
        check_replay.show(console(), loaded, story)
    raise typer.Exit(0 if story.value == loaded.value else VIOLATED_STATUS)


def export(
    file: Annotated[Path, typer.Argument(help="A replay file.", metavar="FILE")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="selftest-c: a test for the kernel's tools/testing/selftests/kvm. perfetto: a trace for "
            "ui.perfetto.dev. mail: plain text of 72 columns.",
            metavar="FORMAT",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to write; without it, stdout.", metavar="OUT")
    ] = None,
) -> None:
    """Write a violation in a form that others read."""
    from guestclock.checks import replay_file
    from guestclock.report.exports import exported, writer

    write = writer(to)
    loaded = replay_file.load(file)
    exported(write, loaded, file, output)


def corpus(
    name: Annotated[list[str] | None, typer.Argument(help="Entries; without any, all of them.", metavar="NAME")] = None,
    jobs: Annotated[int, typer.Option("--jobs", help="Processes to search with.", metavar="N")] = 2,
    out: Annotated[
        Path | None, typer.Option("--out", help="Keep a replay file of each violation there.", metavar="DIR")
    ] = None,
) -> None:
    """Find known bugs again, and check their fixes.

    Exits 0 where every entry comes out as it says, 1 where one does not.
    """
    from guestclock.checks.corpus import run
    from guestclock.report.check import check_out
    from guestclock.report.corpus import text

    if jobs < 1:
        raise typer.BadParameter(f"--jobs {jobs}: expected 1 or more")
    if out is not None:
        check_out(out)
    with progress_line() as progress:
        results = run(name, jobs=jobs, out=out, progress=lambda result: progress(result.entry.name))
    page = console()
    for line in text(results, page.width):
        page.print(line, markup=False, soft_wrap=True)
    raise typer.Exit(0 if all(result.as_expected for result in results) else VIOLATED_STATUS)
