"""The commands about real kernels in the lab: setup, compare, agree, migrate, linux-guest, race."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from guestclock.cli.terminal import console, progress_line

DIFFERENT_STATUS, UNDECIDED_STATUS = 1, 3

lab_app = typer.Typer(
    help="Real kernels under QEMU: set up, compare with the model and with check.", rich_markup_mode=None
)


@lab_app.command()
def setup(
    kernel: Annotated[
        list[str] | None,
        typer.Option(
            "--kernel",
            help="A kernel of Debian's, as 6.12. May be repeated. Without it: 6.1 and 6.12.",
            metavar="KERNEL",
        ),
    ] = None,
    arch: Annotated[
        str,
        typer.Option("--arch", help="Whose kernels: x86 (the default) or arm64.", metavar="ARCH"),
    ] = "x86",
    linux_guest: Annotated[
        bool, typer.Option("--linux-guest", help="Have Debian's QEMU there too, to run inside (lab linux-guest).")
    ] = False,
) -> None:
    """Fetch kernels, and QEMU if there is none.

    Debian's packages, by this machine's apt, and as any user: they are unpacked into a cache ($GUESTCLOCK_LAB_CACHE, or
    guestclock/lab in ~/.cache), nothing is installed. What is there already is left alone, so after the first time
    nothing needs the network. A QEMU on PATH is preferred to a fetched one.
    """
    from guestclock.lab.arch import arch_of
    from guestclock.lab.setup import DEFAULT_KERNELS
    from guestclock.lab.setup import setup as set_up

    if linux_guest and arch_of(arch).name != "x86":
        raise typer.BadParameter(f"--linux-guest: is x86's alone, not {arch}'s")
    set_up(kernel or DEFAULT_KERNELS, arch=arch_of(arch), progress=print, linux_guest=linux_guest)


@lab_app.command()
def compare(
    where: Annotated[
        str, typer.Argument(help="A lab's kernel, as 6.12, or with its CPU as 6.12:cortex-a72.", metavar="KERNEL[:CPU]")
    ],
    arch: Annotated[
        str | None, typer.Option("--arch", help="x86 (the default) or arm64; a CPU says it too.", metavar="ARCH")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="The first program's.", metavar="N")] = 0,
    count: Annotated[int, typer.Option("--count", help="How many programs.", metavar="M")] = 100,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            help="What the model is, if not the kernel's own profile: linux-6.12+exact5, or a FILE.py of yours.",
            metavar="PROFILE|FILE",
        ),
    ] = None,
    program: Annotated[
        Path | None, typer.Option("--program", help="One program, as a difference left it, instead.", metavar="FILE")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option("--record", help="Keep programs and real traces there, to be judged again.", metavar="FILE"),
    ] = None,
    recorded: Annotated[
        Path | None,
        typer.Option("--recorded", help="Judge what was recorded; no lab is needed.", metavar="FILE"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Where differing programs go.", metavar="DIR")] = Path("out"),
) -> None:
    """Run random programs on a real kernel and on the model, and compare event by event.

    Each program creates vCPUs, writes their clocks by value and by offset, lets them run, switches what the host lets
    it switch; the model does the same at the very instants. A difference is cut down to the shortest program that shows
    it. Exits 0 where there is none, 1 where there is one, 2 for bad input.
    """
    import sys

    from guestclock.compare.session import Compared, Session
    from guestclock.compare.session import record as write_recording
    from guestclock.report import compare as report
    from guestclock.runs.on import parse_on

    if count < 1:
        raise typer.BadParameter(f"--count {count}: expected at least 1")
    if recorded is not None and (program is not None or record is not None):
        raise typer.BadParameter("--recorded: judges what is there, so neither --program nor --record goes with it")
    on = parse_on(f"lab:{where}")
    asked = report.read_program(program) if program is not None else None
    session = Session(on.lab, _arch_of(arch, on.cpu), on.cpu, profile or "")
    done: list[Compared] = []
    try:
        with progress_line() as progress:
            if recorded is not None:
                done.extend(session.recorded(recorded))
            elif asked is not None:
                done.append(session.program(asked))
            else:
                done.extend(session.run(range(seed, seed + count), progress))
    finally:  # a lab that fails in the end does not cost what was done until then
        if record is not None and done:
            write_recording(session, done, record)
    differing = [compared for compared in done if compared.verdict.differences]
    files = {} if asked is not None else {c.seed: report.keep(c, session, out) for c in differing}
    if json:
        report.write(session, differing, files, sys.stdout)
    else:
        page = console()
        for line in report.lines(session, differing, files):
            page.print(line, markup=False, soft_wrap=True)
    raise typer.Exit(DIFFERENT_STATUS if differing else 0)


@lab_app.command()
def agree(
    where: Annotated[
        str, typer.Argument(help="A lab's kernel, as 6.12, or with its CPU as 6.12:cortex-a72.", metavar="KERNEL[:CPU]")
    ],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Scenarios, by name or FILE; window: that of matching TSC writes. Without any: a choice of them.",
            metavar="[NAME|FILE|window]...",
        ),
    ] = None,
    arch: Annotated[
        str | None, typer.Option("--arch", help="x86 (the default) or arm64; a CPU says it too.", metavar="ARCH")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Ask a real kernel, the model and check the same question: do they agree?

    The kernel plays a scenario; the model plays it at the very same instants, and must tell the same; each property
    must break in both by the same amount, and by no more than check proves possible. Exits 0 where all agree, 1 where
    not, 2 for bad input.
    """
    import sys

    from guestclock.judges import WINDOW, defaults, judge_scenario, judge_window
    from guestclock.report import agree as report
    from guestclock.runs.on import parse_on
    from guestclock.scenario import load

    on = parse_on(f"lab:{where}")
    host = _arch_of(arch, on.cpu)
    asked = names or defaults(host, on.lab)
    scenarios = [load(name) for name in asked if name != WINDOW]
    for scenario in scenarios:
        if scenario.arch != host:
            raise typer.BadParameter(f"{scenario.name}: is {scenario.arch}'s, the lab's kernel is {host}'s")
    if WINDOW in asked and host != "x86_64":
        raise typer.BadParameter(f"{WINDOW}: is x86's, the lab's kernel is {host}'s")
    page = console()
    judged, windows = [], []
    with progress_line() as progress:
        for name in asked:
            if name == WINDOW:
                windows.append(judge_window(on.lab, progress))
                if not json:
                    report.edges_page(page, *windows[-1])
        for scenario in scenarios:
            for one in judge_scenario(scenario, on.lab, on.cpu, progress):
                judged.append(one)
                if not json:
                    report.judged_page(page, one)
    if json:
        report.write(judged, windows, sys.stdout)
    all_agree = all(one.agree for one in judged) and all(agreed for _, agreed in windows)
    raise typer.Exit(0 if all_agree else DIFFERENT_STATUS)


def _arch_of(arch: str | None, cpu: str) -> str:
    """The lab's architecture, by --arch and by the CPU that was named with the kernel."""
    if arch not in (None, "x86", "arm64") or (arch == "x86" and cpu):
        raise typer.BadParameter(f"--arch {arch}: expected x86 or arm64, and arm64 with a CPU")
    return "arm64" if arch == "arm64" or cpu else "x86_64"


@lab_app.command()
def migrate(
    recipe: Annotated[str, typer.Argument(help="A recipe that saves and restores (NAME, FILE.py).", metavar="RECIPE")],
    source: Annotated[str, typer.Option("--from", help="The kernel it leaves, as 6.1.", metavar="KERNEL[:CPU]")],
    destination: Annotated[str, typer.Option("--to", help="The kernel it comes to, as 6.12.", metavar="KERNEL[:CPU]")],
    skew: Annotated[
        str, typer.Option("--skew", help="The second host's wall clock is ahead by that much (0 s).", metavar="T")
    ] = "0 s",
    away: Annotated[str, typer.Option("--away", help="So long it is away, about (2 s).", metavar="T")] = "2 s",
    life: Annotated[str, typer.Option("--life", help="So long it has run before (100 s).", metavar="T")] = "100 s",
    vcpus: Annotated[int, typer.Option("--vcpus", help="How many vCPUs (2).", metavar="N")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Move a guest from one lab to another, and tell by how many ns its clocks are off: kernel, model and check.

    Both are hosts of one world, whose true time is known: a lab's counter is exact, and its wall clock is set. The
    recipe's own calls save the guest on a real kernel and restore it on another; the model does the same at the same
    instants, and check is asked how far off it can be at most with calls that take as long. Exits 0 where all agree, 1
    where not, 2 for bad input.
    """
    from guestclock.errors import UserError
    from guestclock.judges.migration import halves_of, judge_migration
    from guestclock.report import migration as report
    from guestclock.runs.migrate import migrate as move
    from guestclock.runs.on import On, parse_on
    from guestclock.scenario.quantity import Duration, Step
    from guestclock.vmm.recipe import load

    def lab(option: str, written: str) -> On:
        try:
            return parse_on(f"lab:{written}")
        except UserError as error:
            raise UserError(f"{option} {written}: {str(error).partition(': ')[2]}") from None

    def ns(option: str, written: str, kind: type[Duration] | type[Step] = Duration) -> int:
        try:
            return kind.parse(written, {}).literal
        except ValueError as error:
            raise UserError(f"{option}: {error}") from None

    if vcpus < 1:
        raise UserError(f"--vcpus {vcpus}: expected at least 1")
    labs = lab("--from", source), lab("--to", destination)
    halves_of(load(recipe).arch, *labs)
    with progress_line() as progress:
        done = move(
            recipe,
            *labs,
            skew_ns=ns("--skew", skew, Step),
            away_ns=ns("--away", away),
            life_ns=ns("--life", life),
            vcpus=vcpus,
            progress=progress,
        )
        progress(f"model and check: {recipe}")
        judged = judge_migration(done)
    if json:
        from json import dumps

        print(dumps(report.as_json(judged), indent=2))
    else:
        for line in report.lines(judged):
            print(line)
    raise typer.Exit(0 if judged.agree else DIFFERENT_STATUS)


@lab_app.command("linux-guest")
def linux_guest(
    kernel: Annotated[
        str, typer.Argument(help="The lab's kernel, with the KVM that QEMU runs on, as 6.12.", metavar="KERNEL")
    ] = "6.12",
    guest_kernel: Annotated[
        str, typer.Option("--guest-kernel", help="The guest's own kernel (the lab's).", metavar="KERNEL")
    ] = "",
    clocksource: Annotated[
        list[str] | None,
        typer.Option(
            "--clocksource",
            help="What the guest keeps time by: kvm-clock or tsc. May be repeated. Without it: both.",
            metavar="NAME",
        ),
    ] = None,
    away: Annotated[
        str, typer.Option("--away", help="So long it is stopped, or its host sleeps, about (2 s).", metavar="T")
    ] = "2 s",
    sleep: Annotated[bool, typer.Option("--sleep", help="Instead its host sleeps, in S3, its TSC running on.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """Stop, save and load a Linux guest of Debian's QEMU, or its host sleeps: do its clocks do what the model says?

    In the lab, Debian's QEMU on the kernel's KVM runs Debian's kernel, whose one program reads MONOTONIC, BOOTTIME,
    REALTIME and MONOTONIC_RAW. QEMU is told stop, cont, savevm, loadvm. The model plays QEMU's recipes at the instants
    at which QEMU made its calls; the guest's timekeeper is reckoned from there. With --sleep QEMU is told nothing, and
    the kernel that it runs on goes to sleep under it. Exits 0 where every clock gained what
    was predicted, 1 where one did not, 2 for bad input. Needs 'guestclock lab setup --linux-guest'.
    """
    import sys

    from guestclock.errors import UserError
    from guestclock.judges.linux_guest import judge_linux_guests
    from guestclock.lab.linux_guest import CLOCKSOURCES
    from guestclock.report import linux_guest as report
    from guestclock.scenario.quantity import Duration

    try:
        away_ns = Duration.parse(away, {}).literal
    except ValueError as error:
        raise UserError(f"--away: {error}") from None
    asked = list(dict.fromkeys(clocksource or CLOCKSOURCES))
    with progress_line() as progress:
        judged = judge_linux_guests(kernel, guest_kernel, asked, away_ns=away_ns, sleeps=sleep, progress=progress)
    if json:
        report.write(judged, sys.stdout)
    else:
        shown = console()
        for one in judged:
            report.page(shown, one)
        report.legend(shown)
    raise typer.Exit(0 if all(one.agrees for one in judged) else DIFFERENT_STATUS)


@lab_app.command()
def race(
    where: Annotated[
        str, typer.Argument(help="A lab's kernel, as 6.12, or with its CPU as 6.12:cortex-a72.", metavar="KERNEL[:CPU]")
    ] = "6.12",
    arch: Annotated[
        str | None, typer.Option("--arch", help="x86 (the default) or arm64; a CPU says it too.", metavar="ARCH")
    ] = None,
    vmm: Annotated[
        list[str] | None,
        typer.Option("--vmm", help="asked, looks or told. May be repeated. Without it: all three.", metavar="VMM"),
    ] = None,
    sleeps: Annotated[int, typer.Option("--sleeps", help="How often the host sleeps (40).", metavar="N")] = 40,
    away: Annotated[str, typer.Option("--away", help="Each time so long (10 s).", metavar="T")] = "10 s",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document instead.")] = False,
) -> None:
    """A host sleeps, at any moment, while a vCPU's thread goes in and out of KVM_RUN: does the guest see it?

    Three VMMs take the sleep out of their guest's clocks: one is asked before, one looks before each KVM_RUN, one is
    told afterwards. Where a thread is held is for the kernel's own freezer to say. Exits 0 where the guest of the one
    that is asked never ran before its clocks were right, 1 where it did, 2 for bad input, 3 where nothing was demanded.
    """
    import sys

    from guestclock.errors import UserError
    from guestclock.lab.race import VMMS
    from guestclock.lab.race import race as run_race
    from guestclock.report import race as report
    from guestclock.runs.on import parse_on
    from guestclock.scenario.quantity import Duration

    try:
        away_ns = Duration.parse(away, {}).literal
    except ValueError as error:
        raise UserError(f"--away: {error}") from None
    on = parse_on(f"lab:{where}")
    host = "arm64" if _arch_of(arch, on.cpu) == "arm64" else "x86"
    asked = list(dict.fromkeys(vmm or VMMS))
    with progress_line() as progress:
        raced = run_race(on.lab, arch=host, cpu=on.cpu, vmms=asked, sleeps=sleeps, away_ns=away_ns, progress=progress)
    if json:
        report.write(f"lab:{where}", away_ns, raced, sys.stdout)
    else:
        report.page(console(), f"lab:{where}", away_ns, raced)
    raise typer.Exit({True: 0, False: DIFFERENT_STATUS, None: UNDECIDED_STATUS}[report.keeps(raced)])
