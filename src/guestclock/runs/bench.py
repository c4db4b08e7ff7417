"""The counter benchmark on the machines asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import gcd
from typing import Any

from guestclock.errors import UserError
from guestclock.kvm.device.bench import MAX_ITERATIONS, run_bench
from guestclock.lab.qemu import ICOUNT_SHIFT
from guestclock.runs.on import On, parse_on
from guestclock.runs.timed import Timed

DEFAULT_ITERATIONS = 10_000

Progress = Callable[[str], None]

NS, INSTRUCTIONS = "ns", "instructions"

BASES = {
    "rdtsc": "empty", "tsc-clocksource": "empty", "kvm-clock": "empty",
    "rdmsr-tsc": "empty-ring0", "rdmsr-tsc-adjust": "empty-ring0",
    "cntvct": "empty", "cntpct": "empty", "cntpct-offset": "empty",
}  # fmt: skip
"""By read, the one that measures nothing: what the measuring alone costs there."""

TRAPS_FROM = Fraction(3, 2)
"""A trap costs more than so many native reads, measuring included: 2.7 on Altra, 60 in the lab; without one it is 1."""


@dataclass(frozen=True, slots=True)
class Benched:
    """One machine's results.

    unit: NS on a host, by its counter; INSTRUCTIONS in a lab, whose virtual time goes by them. per_tick: units in a
    tick of the counter. meta: the machine's, as in a trace. reads: by name, in the order they were taken in.
    """

    on: On
    unit: str
    per_tick: Fraction
    meta: Mapping[str, Any]
    reads: Mapping[str, Timed]

    @property
    def arch(self) -> str:
        arch: str = self.meta.get("arch", "x86_64")
        return arch

    @property
    def grain(self) -> int:
        """By how many ticks the counter goes forward at a time: all samples are multiples. 26 on some of AMD's."""
        return gcd(*(ticks for timed in self.reads.values() for ticks, _ in timed.counts)) or 1

    def undisturbed(self, name: str) -> Fraction:
        """A read's average without outliers, in units."""
        return self.reads[name].undisturbed(self.grain) * self.per_tick

    def itself(self, name: str) -> Fraction | None:
        """What a read costs without the measuring and without outliers, in units. None: it is the measuring."""
        return self.undisturbed(name) - self.undisturbed(BASES[name]) if name in BASES else None


def bench(
    on: Sequence[str], *, iterations: int = DEFAULT_ITERATIONS, progress: Progress = lambda line: None
) -> list[Benched]:
    """Every read so many times on each machine, in the order asked for.

    on: "kvm", "lab:6.12" (x86) and "lab:6.12:CPU" (arm64). progress: is told what runs now. Raises UserError where a
    machine is missing or has nothing to compare.
    """
    if not 1 <= iterations <= MAX_ITERATIONS:
        raise UserError(f"--iterations {iterations}: expected 1..{MAX_ITERATIONS}")
    for text in on:
        if text != "kvm" and not text.startswith("lab:"):
            raise UserError(f"--on {text}: expected kvm, lab:KERNEL (x86) or lab:KERNEL:CPU (arm64)")
    machines = [parse_on(text) for text in dict.fromkeys(on)]
    for machine in machines:
        _ask(machine)
    found = []
    for machine in machines:
        progress(f"{machine}: {iterations} reads of each")
        found.append(_benched(machine, _lines(machine, {"iterations": iterations}, progress)))
    return found


def _arch(on: On) -> str:
    """A lab's architecture: arm64 where a CPU is named."""
    return "arm64" if on.cpu else "x86"


def _ask(on: On) -> None:
    """Raises UserError where the lab is not set up: before another machine is made to work."""
    if on.kind == "lab":
        from guestclock.lab.arch import arch_of
        from guestclock.lab.boot import ready

        ready(on.lab, arch_of(_arch(on)))


def _lines(on: On, program: dict[str, Any], progress: Progress) -> list[dict[str, Any]]:
    if on.kind == "kvm":
        lines: list[dict[str, Any]] = []
        run_bench(program, lines.append)
        return lines
    from guestclock.lab import Lab

    lab = Lab(on.lab, arch=_arch(on), cpu=on.cpu, progress=progress)
    return lab.run({"program": "bench", **program})


def _benched(on: On, lines: list[dict[str, Any]]) -> Benched:
    meta, *rest = lines
    reads = {line["read"]: Timed.from_json(line) for line in rest}
    per_tick, unit = Fraction(10**9, meta["counter_hz"]), NS
    if on.kind == "lab":
        # whatever rate the kernels were told, QEMU's TSC counts ns, and the ticks of its arm64 counter are whole ones
        tick_ns = 10**9 // meta["counter_hz"] if on.cpu else 1
        per_tick, unit = Fraction(tick_ns, 1 << ICOUNT_SHIFT), INSTRUCTIONS
    done = Benched(on, unit, per_tick, meta, reads)
    _check_traps(done)
    return done


def _check_traps(done: Benched) -> None:
    """arm64: no statistic of KVM's counts a CNTPCT_EL0 that its fast path emulates; what it costs tells."""
    if "cntpct-offset" not in done.reads:
        return
    native, offset = done.undisturbed("cntpct"), done.undisturbed("cntpct-offset")
    if offset <= TRAPS_FROM * native:
        raise UserError(
            f"bench counter: {done.on}: nothing traps: CNTPCT_EL0 takes {float(offset):.1f} {done.unit} with an "
            f"offset, {float(native):.1f} without: CNTPOFF_EL2 makes the offset on a CPU with FEAT_ECV"
        )
