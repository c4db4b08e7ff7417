"""Sentences for what a trace's marks say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from guestclock.check import Mark, Span
from guestclock.report.numbers import duration, grouped, short_duration, spread
from guestclock.vmm.clocks import CLOCKS

FIRST_OF = {"kvmclock": "tsc", "cntpct": "cntvct"}
"""With which clock another is told where both moved the same way."""


MOVES = ("steps back", "jumps ahead", "falls behind")


@dataclass(frozen=True, slots=True)
class Told:
    """A mark as a sentence. weight: 2 a guest can be hurt by it, 1 worth knowing, 0 it was so before."""

    step: int
    weight: int
    sentence: str
    mark: Mark


def vcpus_named(vcpus: Sequence[int]) -> str:
    """vcpu0, vcpu0,2, vcpu0-3."""
    runs: list[list[int]] = []
    for index in sorted(vcpus):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return "vcpu" + ",".join(_run_named(run) for run in runs)


def _run_named(run: list[int]) -> str:
    if len(run) == 1:
        return str(run[0])
    return f"{run[0]}{'-' if len(run) > 2 else ','}{run[-1]}"


def told(marks: Iterable[Mark]) -> list[Told]:
    """By step, each thing once: the same on several vCPUs, or what follows from another line that is there."""
    found = _merged(list(marks))
    return [
        Told(mark.step, _weight(mark), sentence(mark, _with_it(mark, found)), mark)
        for mark in found
        if not any(_says(other, mark) for other in found if other.step == mark.step and other is not mark)
    ]


def _says(other: Mark, mark: Mark) -> bool:
    """Whether a reader of `other` knows `mark` already."""
    if (mark.what, other.what) == ("falls behind", "steps back"):  # all of it, and what a guest sees of it
        return mark.clock == other.clock and set(mark.vcpus) <= set(other.vcpus)
    match mark.name:
        case "kvmclock-agrees":
            return other.what == "says stable"
        case _ if mark.what in MOVES:
            return _same_move(other, mark)
        case "get-clock-agrees" if other.name == "kvmclock-agrees":
            # KVM answers for the first group's clock, and the others differ from that one by so much anyway.
            return set(mark.than) <= set(other.vcpus)
    return False


def _same_move(first: Mark, second: Mark) -> bool:
    """A kvmclock that moved because its TSC did, or CNTPCT with CNTVCT, the same way."""
    return first.clock == FIRST_OF.get(second.clock) and (first.what, first.vcpus) == (second.what, second.vcpus)


def _with_it(mark: Mark, found: list[Mark]) -> Mark | None:
    """The other clock's part of a TSC's or a CNTVCT's move."""
    return next((m for m in found if m.step == mark.step and m.what in MOVES and _same_move(mark, m)), None)


def _merged(marks: list[Mark]) -> list[Mark]:
    """Marks that differ in their vCPUs alone (KVM_GET_CLOCK: in whom it differs from) become one."""
    merged: dict[Mark, list[Mark]] = {}
    for mark in marks:
        alike = replace(mark, vcpus=(), than=() if mark.clock == "get-clock" else mark.than)
        merged.setdefault(alike, []).append(mark)
    return [
        replace(
            alike,
            vcpus=tuple(v for m in group for v in m.vcpus),
            than=tuple(v for m in group for v in m.than) if alike.clock == "get-clock" else alike.than,
        )
        for alike, group in merged.items()
    ]


def _weight(mark: Mark) -> int:
    if mark.ongoing:
        return 0
    return 2 if mark.what in ("steps back", "says stable", "odd", "unnumbered") else 1


def sentence(mark: Mark, second: Mark | None = None) -> str:
    """What happened, in one line; amounts exact, or with what the reading leaves open. second: what moved with it."""
    who = vcpus_named(mark.vcpus) if mark.vcpus else ""
    match mark.what:
        case "steps back" | "jumps ahead" | "falls behind":
            also = "" if second is None else f", its {_also(second, mark)}"
            return f"{who} {CLOCKS[mark.clock].shown} {mark.what} {amount_named(mark)}{_flag(mark)}{also}"
        case "parts":
            other = CLOCKS[FIRST_OF[mark.clock]].shown
            return f"{who} {CLOCKS[mark.clock].shown} moves {amount_named(mark)} {_side(mark.amount)} {other}"
        case "differs" if mark.clock == "get-clock":
            than = vcpus_named(mark.than)
            text = f"KVM_GET_CLOCK is {amount_named(mark)} {_side(mark.amount)} {than}'s kvmclock"
        case "differs":
            whose = f"{vcpus_named(mark.than)}'s"
            text = f"{who} {CLOCKS[mark.clock].shown} is {amount_named(mark)} {_side(mark.amount)} {whose}"
        case "says stable":
            say = "says" if len(mark.vcpus) == 1 else "say"
            others = f"{vcpus_named(mark.than)}'s kvmclock"
            text = f"{who} {say} STABLE, but {others} is {amount_named(mark)} {_side(mark.amount, 'ahead')}"
        case "odd":
            return f"{who} kvmclock page has an odd version: its guest waits for ever"
        case _:
            return f"{who} kvmclock page has new contents under its old version"
    return text + (" (still)" if mark.ongoing else "")


def amount_named(mark: Mark) -> str:
    """Its size without a sign: 12 980 662 000 cycles (5.000 s), 4 987 ns, with what the reading leaves open."""
    time = f"{duration(abs(mark.time_ns.middle))}{spread(mark.time_ns)}"
    if mark.unit == "ns":
        return time
    return f"{grouped(abs(mark.amount.middle))} {mark.unit} ({time})"


def _also(second: Mark, first: Mark) -> str:
    name = CLOCKS[second.clock].shown
    if second.amount == first.amount and second.unit == first.unit:
        return f"{name} with it"
    return f"{name} {amount_named(second)}{_flag(second)}"


def _side(amount: Span, ahead: str = "ahead of") -> str:
    return "behind" if amount.hi < 0 else ahead


def _flag(mark: Mark) -> str:
    if mark.clock != "kvmclock" or mark.what != "steps back":
        return ""
    return ", STABLE set" if mark.stable else " (not STABLE: the guest's last_value hides it)"


def machine_named(meta: dict[str, Any]) -> str:
    """A trace's machine as a heading: "linux-6.7" on the model, "lab:6.12 (6.12.48-…)", "kvm (6.18.44)"."""
    on, kernel = str(meta.get("on", "?")), str(meta.get("kernel", ""))
    if on == "model":
        return f"model {kernel}".strip()
    return f"{on} ({kernel})" if kernel else on


def brief(mark: Mark) -> str:
    """A mark for a narrow column."""
    who = vcpus_named(mark.vcpus) if mark.vcpus else ""
    amount = short_duration(mark.time_ns.middle)
    match mark.what:
        case "steps back" | "jumps ahead" | "falls behind":
            return f"{who} {CLOCKS[mark.clock].shown} {mark.what} {amount[1:]}"
        case "parts":
            return f"{who} {CLOCKS[mark.clock].shown} {amount} from {CLOCKS[FIRST_OF[mark.clock]].shown}"
        case "differs" if mark.clock == "get-clock":
            return f"GET_CLOCK {amount} vs {vcpus_named(mark.than)}"
        case "differs":
            return f"{who} {CLOCKS[mark.clock].shown} {amount} vs {vcpus_named(mark.than)}"
        case "says stable":
            return f"{who} STABLE, but {vcpus_named(mark.than)} {amount}"
        case _:
            return f"{who} page {mark.what}"


def flags_named(flags: int | None) -> str:
    """pvclock flags in words, as short as they can be."""
    if flags is None:
        return "no page"
    return ", ".join([n for bit, n in ((1, "STABLE"), (2, "STOPPED")) if flags & bit]) or "not STABLE"
