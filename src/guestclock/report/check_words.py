"""Words for verdicts: amounts with what they mean in seconds, bounds, and what is wrong in one phrase."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from guestclock.checks.spec import Spec
from guestclock.checks.verdict import HOLDS, UNDECIDED, VACUOUS, VIOLATED, Result, Verdict
from guestclock.report.numbers import duration, grouped, short_duration
from guestclock.vmm.clocks import COUNTED

SHOWN = {VIOLATED: "VIOLATED", UNDECIDED: "UNDECIDED", HOLDS: "holds", VACUOUS: "not asked"}
ORDER = (VIOLATED, UNDECIDED, HOLDS, VACUOUS)
SENSES = {"back": "back", "lost": "lost", "gained": "gained", "apart": "apart"}
STYLES = {VIOLATED: "bold red", UNDECIDED: "bold yellow", HOLDS: "green", VACUOUS: "dim"}


def in_seconds(value: int, unit: str, khz: int) -> str:
    """The amount to three decimals of the unit it reads best in: 5.000 s, 10.748 µs, 748 ns. Counts have none."""
    if unit != "ns" and unit not in COUNTED:
        return f"{grouped(value)} {unit}"
    ns = value * 1_000_000 // khz if unit in COUNTED else value
    return short_duration(ns).lstrip("+−") if ns else "0 ns"


def amount(value: int, unit: str, khz: int) -> str:
    """12 980 661 922 cycles (5.000 s); 10 748 ns (10.748 µs); 748 ns."""
    told = f"{grouped(value)} {unit}"
    seconds = in_seconds(value, unit, khz)
    return told if seconds == told else f"{told} ({seconds})"


def short_amount(value: int, unit: str, khz: int) -> str:
    """For a table's cell: what a person remembers."""
    return f"{grouped(value)} {unit}" if unit in COUNTED and value < 10_000 else in_seconds(value, unit, khz)


def khz_of(spec: Spec) -> int:
    return spec.khz or spec.sites[0].khz


def who_named(who: str) -> str:
    """vCPU 0 is vcpu0, as everywhere in this program's tables."""
    return who.replace("vCPU ", "vcpu")


def up(bound: Fraction) -> int:
    """The least whole number that is not below."""
    return -(-bound.numerator // bound.denominator)


def told(verdict: Verdict, spec: Spec) -> str:
    """The verdict's line, after its name."""
    khz = khz_of(spec)
    if verdict.status == VIOLATED:
        assert verdict.worst is not None
        return f"up to {amount(verdict.worst, verdict.unit, khz)} {verdict.sense}: {who_named(verdict.who)}"
    if verdict.status == UNDECIDED:
        if verdict.bound is None or verdict.bound <= verdict.tolerance:
            return verdict.why
        most = amount(up(verdict.bound), verdict.unit, khz)
        return f"at most {most} {verdict.sense}, proved; {verdict.why}" if verdict.why else f"at most {most}, proved"
    if verdict.status == VACUOUS:
        return verdict.why
    if verdict.bound is None or verdict.bound <= 0:
        return "exactly"
    most = amount(up(verdict.bound), verdict.unit, khz)
    return f"at most {most} {verdict.sense}; allowed are {grouped(up(verdict.tolerance))} {verdict.unit}"


def cell(verdict: Verdict, spec: Spec) -> str:
    """A verdict in a table of kernels."""
    if verdict.status == VIOLATED and verdict.worst is not None:
        return f"{short_amount(verdict.worst, verdict.unit, khz_of(spec))} {verdict.sense}"
    return SHOWN[verdict.status]


def bounds(result: Result) -> str:
    """What all verdicts rest on, in a line."""
    return bounds_told(result.spec, sorted(result.contracts))


def bounds_told(spec: Spec, contracts: Sequence[str], swept: Sequence[str] = ()) -> str:
    """swept: fields of the spec that are told elsewhere, as they differ from one result to the next."""
    save, restore = spec.save_delay_ns, spec.restore_delay_ns
    told = {
        "delay_ns": f"{span(spec.delay_ns)} between calls",
        "save_delay_ns": f"{span(save)} between calls of the save" if save else "",
        "restore_delay_ns": f"{span(restore)} between calls of the restore" if restore else "",
        "section_ns": f"{span(spec.section_ns)} inside a kernel section",
    }
    if spec.recipe:
        told["life_ns"] = f"life {_from_to(spec.life_min_ns, spec.life_ns)}"
        told["away_ns"] = f"away {_from_to(spec.away_min_ns, spec.away_ns)}"
    parts = [text for name, text in told.items() if text and name not in swept]
    rests = "exact" if not contracts else f"by contract: {'; '.join(contracts)}"
    return f"{', '.join(parts)}; {rests}"


def _from_to(least: int, most: int) -> str:
    return span(most) if least == most else f"{span(least)} to {span(most)}"


def span(ns: int) -> str:
    """A bound as a person writes it: 5 s, 10 µs, 1.5 s."""
    for size, name in ((10**9, "s"), (10**6, "ms"), (10**3, "µs")):
        if ns >= size:
            whole, rest = divmod(ns, size)
            digits = f".{rest:0{len(str(size)) - 1}}".rstrip("0") if rest else ""
            return f"{grouped(whole)}{digits} {name}"
    return f"{ns} ns"


def cost(result: Result) -> str:
    """What it took."""
    tally = result.tally
    told = f"{grouped(tally.orders)} orders, {grouped(result.programs)} linear programs, {result.seconds:.1f} s"
    return told if result.complete else f"{told}; NOT every order"


__all__ = ["amount", "bounds", "cell", "cost", "duration", "told"]
