"""Random programs on a kernel in the lab and on the model, and what became of each.

for compared in Session("6.12").run(range(300)): ...
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from guestclock.compare.aligned import Aligned, Circumstances, HostCounter
from guestclock.compare.author import Limits
from guestclock.compare.judge import aligned, judge
from guestclock.compare.programs import random_program
from guestclock.compare.shrink import shortest
from guestclock.compare.tally import Tally
from guestclock.compare.verdict import Verdict
from guestclock.errors import UserError
from guestclock.kvm.model import lookup
from guestclock.lab import Lab, LabError
from guestclock.runs.real import from_lines
from guestclock.sim import Trace

Program = dict[str, Any]
Lines = list[dict[str, Any]]

CHUNK = 24
"""Programs handed to the lab at once: so often is there something to tell."""

LAB_TSC_HZ = 10**9
"""In virtual time an x86 lab's TSC counts nanoseconds, whatever its kernel was told."""

RECORDING_VERSION = 1


@dataclass(frozen=True)
class Compared:
    """One program. lines: the real kernel's trace, as it was written; shortest: the shortest program with the same kind
    of difference, and what it shows, where there is a difference and it was looked for.
    """

    seed: int
    program: Program
    lines: Lines
    verdict: Verdict
    shortest: tuple[Program, Verdict] | None = None


@dataclass
class Session:
    """A kernel in the lab against a profile of the model.

    kernel: "6.12". arch, cpu: of the lab, as Lab takes them. profile: the model's; empty: the kernel's own. limits:
    what programs may do; None: all that this lab can. shrink_runs: how many runs may go into making a difference short.
    """

    kernel: str
    arch: str = "x86_64"
    cpu: str = ""
    profile: str = ""
    limits: Limits | None = None
    shrink_runs: int = 200
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        if not self.profile:
            self.profile = f"linux-{self.kernel}" + ("-arm64" if self.arch == "arm64" else "")
        profile = lookup(self.profile)
        if profile.arch != self.arch:
            raise UserError(f"--profile {self.profile}: is {profile.arch}'s, the lab's kernel is {self.arch}'s")
        if self.limits is None:
            self.limits = limits_of(self.arch, profile)

    @property
    def where(self) -> str:
        """The lab, in a word."""
        return f"lab:{self.kernel}" + (f":{self.cpu}" if self.cpu else "")

    def run(self, seeds: Sequence[int], progress: Callable[[str], None] = lambda line: None) -> Iterator[Compared]:
        """Each seed's program, in order. Raises UserError where the lab is not there, LabError where it fails."""
        assert self.limits is not None
        for start in range(0, len(seeds), CHUNK):
            chunk = seeds[start : start + CHUNK]
            done = f"{len(self.tally.seeds)} of {len(seeds)}, {self.tally.different} differ"
            progress(f"{self.where}: {done}")
            programs = [random_program(seed, self.limits) for seed in chunk]
            for seed, program, lines in zip(chunk, programs, self.real(programs), strict=True):
                if isinstance(lines, Exception):
                    raise lines
                yield self.compared(seed, program, lines, progress)

    def program(self, program: Program) -> Compared:
        """One program of the user's."""
        (lines,) = self.real([program])
        if isinstance(lines, Exception):
            raise lines
        return self.compared(-1, program, lines)

    def recorded(self, recording: Path) -> Iterator[Compared]:
        """What `record` kept, judged anew; no lab is needed."""
        for entry in _read(recording, self.arch, self.kernel):
            verdict = self.judged(entry["program"], from_lines(entry["lines"]))
            self.tally.add(entry["seed"], verdict)
            yield Compared(entry["seed"], entry["program"], entry["lines"], verdict)

    def compared(
        self, seed: int, program: Program, lines: Lines, progress: Callable[[str], None] = lambda line: None
    ) -> Compared:
        """A program's real trace against the model; a difference is made short."""
        verdict = self.judged(program, from_lines(lines))
        self.tally.add(seed, verdict)
        if not verdict.differences or not self.shrink_runs:
            return Compared(seed, program, lines, verdict)
        progress(f"{self.where}: seed {seed} differs; looking for the shortest program that does")
        return Compared(seed, program, lines, verdict, shortest(program, verdict, self._judge_all, self.shrink_runs))

    def judged(self, program: Program, real: Trace) -> Verdict:
        """One real trace against the model at its instants."""
        return judge(real, program, self.profile, self.circumstances)

    def modelled(self, program: Program, real: Trace) -> Trace:
        """The model's trace at the instants of the real one, in time as the real host's kernel reckons it."""
        return self.played(program, real).trace

    def played(self, program: Program, real: Trace, *, own_answers: bool = False) -> Aligned:
        """As `modelled`, and what else is known of the model's run. own_answers: see Circumstances."""
        played = aligned(real, program, self.profile, replace(self.circumstances, own_answers=own_answers))
        played.trace = _by_the_hosts_counter(played.run(), real, played.counter)
        return played

    @property
    def circumstances(self) -> Circumstances:
        """What the lab's trace does not say of the machine."""
        true_hz = LAB_TSC_HZ if self.arch == "x86_64" else None
        return Circumstances(true_hz=true_hz, vhe=self.cpu in ("", "neoverse-n1"))

    def real(self, programs: Sequence[Program]) -> list[Lines | UserError | LabError]:
        """Their traces, each on a machine of its own."""
        lab = Lab(self.kernel, arch=self.arch, cpu=self.cpu)
        return lab.outcomes([{**program, "options": {"host_ops_allowed": True}} for program in programs])

    def _judge_all(self, programs: Sequence[Program]) -> list[Verdict | None]:
        outcomes = self.real(programs)
        return [
            None if isinstance(lines, Exception) else self.judged(program, from_lines(lines))
            for program, lines in zip(programs, outcomes, strict=True)
        ]


def _by_the_hosts_counter(model: Trace, real: Trace, counter: HostCounter) -> Trace:
    """An aligned trace tells true time; the real one, time as its kernel reckons it from the counter."""

    def ps(true_ps: int) -> int:
        return true_ps * counter.true_hz // counter.hz

    rates = {k: v for k, v in real.meta.items() if k.startswith(("tsc_", "counter_")) or k in ("arch", "clocksource")}
    told = Trace({**model.meta, **rates})
    for event in model.events:
        told.emit(replace(event, start_ps=ps(event.start_ps), end_ps=ps(event.end_ps)))
    return told


def limits_of(arch: str, profile: Any) -> Limits:
    """What random programs may do in the lab with a kernel of this profile."""
    if arch == "arm64":
        return Limits(arch="arm64", counter_offset=profile.counter_offset_ioctl, long_waits=True, sleep=True)
    return Limits(
        edge_ns=30_000, offset_attribute=profile.offset_attribute, clocksource_switch=True, long_waits=True, sleep=True
    )


# ---- recordings


def record(session: Session, compared: Sequence[Compared], path: Path) -> None:
    """Keeps programs and real traces, gzipped JSON lines. UserError where it cannot be written."""
    head = {"guestclock_recording": RECORDING_VERSION, "arch": session.arch, "kernel": session.kernel}
    entries = [{"seed": c.seed, "program": c.program, "lines": c.lines} for c in compared]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8", compresslevel=6) as file:
            for entry in (head, *entries):
                file.write(json.dumps(entry, separators=(",", ":")) + "\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def _read(path: Path, arch: str, kernel: str) -> Iterator[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            head = json.loads(next(file, "null"))
            if not isinstance(head, dict) or head.get("guestclock_recording") != RECORDING_VERSION:
                raise UserError(f"{path}: no recording of 'guestclock lab compare --record'")
            if (head["arch"], head["kernel"]) != (arch, kernel):
                told = f"{head['kernel']} ({head['arch']})"
                raise UserError(f"{path}: is a recording of kernel {told}, asked for is {kernel} ({arch})")
            for line in file:
                entry = json.loads(line)
                yield {key: entry[key] for key in ("seed", "program", "lines")}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except KeyError as missing:
        raise UserError(f"{path}: damaged: {missing} is missing") from None
    except (EOFError, ValueError, TypeError, zlib.error) as error:
        raise UserError(f"{path}: damaged: {error}") from None
