"""What the designs of the 2017 thread are asked: who moves where, who reads, what fails, who is inside whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from guestclock.checks.freeze import clocks, faults, handed_down, nested, nested_clocks, restores
from guestclock.checks.freeze import unaware as unaware_l2
from guestclock.checks.freeze.clock_questions import CLOCK_QUESTIONS
from guestclock.checks.freeze.clock_states import SECOND, Move
from guestclock.checks.freeze.fault_questions import FAULT_QUESTIONS
from guestclock.checks.freeze.fault_states import BOUNDS, MESSAGES, Faults
from guestclock.checks.freeze.handed_down import Handing
from guestclock.checks.freeze.nested import Family
from guestclock.checks.freeze.nested_clocks import Nesting
from guestclock.checks.freeze.protocol import WAITS, Protocol
from guestclock.checks.freeze.restores import RESTORE_QUESTIONS, Restores
from guestclock.checks.freeze.unaware import TRAPPED, Placing, Unaware
from guestclock.checks.protocol import Case
from guestclock.guest.freeze import AS_WRITTEN, AT_STOP, RUN, SAME_HOST, STOP
from guestclock.guest.freeze import CORRECTED as CORRECTED_GUEST

WRITTEN = Protocol(
    rules=AS_WRITTEN, drains=False, v0_first=False, stop_of_all=False, times_out=False, token=False, fences=False,
    answers_late=False, idempotent=False, drops_deadlines=False, takes_over=False, forced_nmi=WAITS,
)  # fmt: skip
WRITTEN_V0_FIRST = replace(WRITTEN, v0_first=True)
GATE = Protocol()
GOING_ON = replace(GATE, rules=replace(CORRECTED_GUEST, rebase=AT_STOP))
HALTED = Protocol(gates=False, drains=False, halts_fast=True, blocks_vdso=True)

PAIRS = (
    (2_400_000, 1_920_000), (2_400_000, 2_100_000), (2_596_122, 2_336_507), (2_596_122, 2_596_122),
    (2_999_999, 3_299_998), (2_400_000, 2_900_000), (2_000_003, 2_500_001), (1_000_000, 1_250_000),
    (1_844_602, 2_014_376), (807_444, 999_253),
)  # fmt: skip
"""Frequencies in kHz, before and after: 0.8 to 1.25, odd ones among them; with the clocksource's shift or another."""

READERS = (
    ("vdso", "syscall"), ("syscall", "vdso"), ("fast", "vdso"), ("vdso", "fast"), ("nmi", "vdso"), ("vdso", "nmi"),
    ("nmi", "fast"),
)  # fmt: skip
"""Who reads first, who then; ("vdso", "vdso") is asked with every pair of frequencies."""

SINGLE_FAULTS = {
    "nothing-fails": Faults(),
    "interrupt-twice": Faults(twice=True),
    "target-dies": Faults(target_dies=True),
    "v0-hangs": Faults(hangs=True),
    "nmi-never-ends": Faults(nmi_stays=True),
    "v1-never-stops": Faults(v1_stays=True),
    "frequency-refused": Faults(unfit=True),
    "source-dies": Faults(source_dies=True),
    "source-suspected": Faults(suspected=True),
    "nmi-needed": Faults(nmi_needed=True),
    **{f"{message}-lost": Faults(lost=(message,)) for message in MESSAGES},
    **{f"{message}-always-lost": Faults(gone=(message,)) for message in MESSAGES},
}
FAULTS = SINGLE_FAULTS | {
    "exit-lost-target-dies": Faults(lost=("exit",), target_dies=True),
    "commit-lost-target-dies": Faults(lost=("commit",), target_dies=True),
    "running-lost-target-dies": Faults(lost=("running",), target_dies=True),
    "refused-target-dies": Faults(unfit=True, target_dies=True),
    "interrupt-twice-loaded-lost": Faults(twice=True, lost=("loaded",)),
    "both-die": Faults(source_dies=True, target_dies=True),
    **{f"{message}-lost-source-dies": Faults(lost=(message,), source_dies=True) for message in MESSAGES[1:]},
    "commit-lost-source-suspected": Faults(lost=("commit",), suspected=True),
    "nmi-needed-v0-hangs": Faults(nmi_needed=True, hangs=True),
    "nmi-needed-target-dies": Faults(nmi_needed=True, target_dies=True),
    "nmi-needed-commit-always-lost": Faults(nmi_needed=True, gone=("commit",)),
}
MUST = {
    "nothing-fails": ("moved", "cancelled", "late exit", "not loaded", "restarted"),
    "interrupt-twice": ("nothing to do", "moved"),
    "target-dies": ("the target died", "restarted", "moved"),
    "v0-hangs": ("V0 hung", "declared dead"),
    "nmi-never-ends": ("given up",),
    "v1-never-stops": ("V1 did not stop", "goes on here"),
    "frequency-refused": ("scaled", "moved"),
    "commit-always-lost": ("restarted", "goes on here"),
    "interrupt-lost": ("interrupt lost", "moved"),
    "exit-always-lost": ("exit lost", "cancelled"),
    "source-dies": ("the source died", "taken over", "nothing to take over", "moved", "goes on here"),
    "source-suspected": ("taken over", "nothing to take over", "moved", "goes on here"),
    "both-die": ("the source died", "the target died", "taken over"),
    "commit-lost-source-dies": ("commit lost", "taken over"),
    "nmi-needed": ("an NMI is taken", "called off for an NMI", "cancelled", "moved"),
    "nmi-needed-v0-hangs": ("an NMI is taken", "V0 hung", "declared dead"),
    "nmi-needed-commit-always-lost": ("an NMI is taken", "restarted"),
}
"""Of a design with time-outs: branches that the search must have been through."""


def clock_cases(
    protocol: Protocol, *, pairs: Sequence[tuple[int, int]] = PAIRS, continuous: bool = False
) -> list[Case]:
    """The guest moves, and two readings are taken, whenever and by whom: with times."""
    usual = Move(continuous=continuous)
    asked: dict[str, tuple[str, Move]] = {}
    for source, target in pairs:
        about = f"from {source} to {target} kHz, two vDSO readings on V1"
        asked[f"{source}-{target}"] = about, replace(usual, source_khz=source, target_khz=target)
    for readers in READERS:
        about = (
            f"from {usual.source_khz} to {usual.target_khz} kHz, a reading by {readers[0]}, then one by {readers[1]}"
        )
        asked["-then-".join(readers)] = about, replace(usual, readers=readers)
    for name, step in (("a-tick-faster", 700), ("a-tick-slower", -700)) if protocol.rules.closes else ():
        asked[name] = "a tick, at any time, that changes mult by 100 ppm", replace(usual, tick_step=step)
    asked["downtime-runs"] = "MONOTONIC counts the downtime", replace(usual, policy=RUN)
    for policy in (STOP, RUN):
        here = Move(target_khz=usual.source_khz, status=SAME_HOST, policy=policy)
        asked[f"aborted-{policy}"] = f"it stays where it is, policy {policy}", here
    found = [moved(name, about, protocol, move) for name, (about, move) in asked.items()]
    if protocol.v0_first:  # else an arm64 vDSO is behind its cycle_last, which wraps: any value (Line.ns)
        found += [arm64_case(name, protocol, continuous=continuous) for name in ARM64]
    return [*found, *(sched_case(name, protocol, continuous=continuous) for name in SCHED)]


ARM64 = {
    "arm64-62500-25000": Move(arm64=True, source_khz=62_500, target_khz=25_000),
    "arm64-24000-1000000": Move(arm64=True, source_khz=24_000, target_khz=1_000_000, readers=("syscall", "vdso")),
}
"""Counters of QEMU, of many an SoC, of an M1, and of what has FEAT_ECV; kHz."""


def arm64_case(name: str, protocol: Protocol, *, continuous: bool = False, tells_rate: bool = True) -> Case:
    move = replace(ARM64[name], continuous=continuous, tells_rate=tells_rate)
    about = f"an arm64 guest, its counter goes from {move.source_khz} to {move.target_khz} kHz"
    return moved(name, about, protocol, move)


SCHED: dict[str, Move] = {
    "sched-clock": Move(readers=("sched", "sched")),
    "sched-clock-slower": Move(readers=("sched", "sched"), source_khz=2_596_122, target_khz=2_336_507),
    "sched-clock-aborted": Move(readers=("sched", "sched"), target_khz=2_400_000, status=SAME_HOST),
}


def sched_case(name: str, protocol: Protocol, *, continuous: bool = False) -> Case:
    move = replace(SCHED[name], continuous=continuous)
    about = f"from {move.source_khz} to {move.target_khz} kHz, {move.status}, two readings of sched_clock on V1"
    must = ("sched at site 0",) if move.status == SAME_HOST else ("sched at site 0", "sched at site 1")
    build = clocks.build(protocol, move)
    return Case(name=name, about=about, build=build, bounds=move.bounds, must=must, invariants=("sched-clock",))


def moved(name: str, about: str, protocol: Protocol, move: Move) -> Case:
    # A vDSO that is open until the stop is no fault where what it says until then is counted.
    closes = protocol.rules.closes and protocol.stop_of_all and not protocol.blocks_vdso
    left = {"sched-clock"} | ({"getters-blocked"} if closes else set())
    invariants = tuple(q.name for q in CLOCK_QUESTIONS if q.name not in left)
    if move.tick_step:  # what is to be gained is not known by the nominal factors then
        invariants = ("never-back", "one-epoch", "none-while-moved")
    return Case(
        name=name, about=about, build=clocks.build(protocol, move), bounds=move.bounds, invariants=invariants,
        must=(f"{move.readers[0]} in epoch 0", f"{move.readers[1]} in epoch 1"),
    )  # fmt: skip


HOUR_NS = 3600 * SECOND
SCALED_DOWN, SCALED_UP = (2_000_000 << 48) // 2_400_000, (3_000_000 << 48) // 2_596_122
TO_L1 = Move(source_ratio=SCALED_DOWN, target_khz=2_596_122, target_ratio=SCALED_UP)
TO_HOST = Move(source_ratio=SCALED_DOWN, target_khz=2_596_122)
SAME = Move(target_khz=2_400_000, status=SAME_HOST)
SLEEPS: dict[str, tuple[str, Move]] = {
    "moved-asleep": ("the host with the image sleeps an hour on the way", Move(sleep_ns=HOUR_NS)),
    "aborted-asleep": (
        "it sleeps with the frozen guest, its TSC counts on",
        replace(SAME, sleep_ns=HOUR_NS, policy=RUN),
    ),
    "aborted-reset-stop": ("... its TSC comes back with any value", replace(SAME, sleep_ns=HOUR_NS, reset=True)),
    "aborted-reset-run": ("... and MONOTONIC is to count", replace(SAME, sleep_ns=HOUR_NS, reset=True, policy=RUN)),
}
NESTED: dict[str, tuple[str, Move]] = {
    "l2-to-another-l1": ("L2 moves from a 2.0 GHz L1 to a 3.0 GHz L1, both scaled", TO_L1),
    "l2-to-another-l1-asleep": ("the same, the host with the image sleeps an hour", replace(TO_L1, sleep_ns=HOUR_NS)),
    "l2-to-a-host": ("L2 moves from a scaled L1 to a physical host", TO_HOST),
    "l2-to-a-host-asleep": ("the same, the host with the image sleeps an hour", replace(TO_HOST, sleep_ns=HOUR_NS)),
}
STAYS_SILENT = Move(policy=RUN)
L1_WITH_L2: dict[str, tuple[str, Move]] = {
    "l1-with-l2": ("L1 moves with L2 inside, and hands the frequency down", Move()),
    "l1-with-l2-slower": ("the same, to a slower host", Move(target_khz=1_920_000)),
    "l1-with-l2-asleep": ("the same, L1's host sleeps an hour with the image", Move(sleep_ns=HOUR_NS)),
}
FAMILIES = {
    "one-l2": Family(l2s=1),
    "three-l2s": Family(l2s=3),
    "one-of-three-declines": Family(l2s=3, declines=(1,)),
    "one-of-two-is-silent": Family(silent=(1,)),
    "l2s-and-the-move-fails": Family(target_dies=True),
}
ORDERS = ("last-in-first-out", "patient", "goes-on")
UNAWARE: dict[str, tuple[str, Unaware, Move]] = {
    "l2-unaware": ("L1 moves, and keeps its L2's old frequency by scaling", Unaware(), STAYS_SILENT),
    "l2-unaware-32-bits": ("the same with ratios of 32 bits", Unaware(frac_bits=32), STAYS_SILENT),
    "l2-unaware-slower": ("to a slower host", Unaware(), replace(STAYS_SILENT, target_khz=1_920_000)),
    "l2-unaware-asleep": ("L1's host sleeps an hour on the way", Unaware(), replace(STAYS_SILENT, sleep_ns=HOUR_NS)),
    "l2-unaware-trapped": ("L1 answers its L2's RDTSC", Unaware(how=TRAPPED), STAYS_SILENT),
}
INSIDE = ("never-back", "one-epoch", "none-while-moved", "counts-what-ran", "counts-downtime")


def nested_cases(protocol: Protocol = GATE) -> list[Case]:
    """Guests of guests, and hosts that sleep while they have a frozen image."""
    found = [moved(name, about, protocol, move) for name, (about, move) in {**SLEEPS, **NESTED}.items()]
    found += [l1_with_l2(name, Nesting()) for name in L1_WITH_L2]
    found += [handed_down_case(Handing()), *(unaware_case(name) for name in UNAWARE)]
    found += [family_case(name, family) for name, family in FAMILIES.items()]
    return found


def l1_with_l2(name: str, nesting: Nesting, *, continuous: bool = False) -> Case:
    about, move = L1_WITH_L2[name]
    move = replace(move, continuous=continuous)
    must = ("vdso in epoch 0", "vdso in epoch 1")
    build = nested_clocks.build(nesting, move)
    return Case(name=name, about=about, build=build, bounds=move.bounds, must=must, invariants=INSIDE)


def unaware_case(name: str, unaware: Unaware | None = None) -> Case:
    about, usual, move = UNAWARE[name]
    return Case(
        name=name, about=about, build=unaware_l2.build(unaware or usual, move), bounds=move.bounds,
        must=("vdso at site 0", "vdso at site 1"),
        invariants=("never-back", "one-epoch", "none-while-moved", "counts-downtime"),
    )  # fmt: skip


def handed_down_case(handing: Handing) -> Case:
    """The thread's first: nothing is to be done."""
    move = Move(source_ratio=SCALED_DOWN, target_ratio=SCALED_DOWN, policy=RUN, sleep_ns=HOUR_NS)
    return Case(
        name="l2-handed-down-asleep", about="L2's frequency is its L1's, which is scaled; their host sleeps an hour",
        build=handed_down.build(handing, move), bounds=move.bounds,
        must=("reading 0 before the sleep", "reading 1 after the sleep"),
        invariants=("never-back", "one-epoch", "counts-downtime", "handed-down"),
    )  # fmt: skip


def misplaced_case(placing: Placing) -> Case:
    about = f"L1 is scaled as well, and places its L2's counter by its own: ratios of {placing.frac_bits} bits"
    return Case(
        name="l2-unaware-l1-scaled", about=about, runs=lambda: unaware_l2.misplaced(placing),
        invariants=("never-back", "counts-downtime"),
    )  # fmt: skip


def family_case(name: str, family: Family) -> Case:
    healthy = not family.declines and not family.silent
    must = ("moved", "declined") if healthy else ("declined",)
    about = name.replace("-", " ")
    return Case(
        name=name, about=about, build=nested.build(family), bounds=family.bounds, must=must, invariants=ORDERS
    )  # fmt: skip


def fault_cases(protocol: Protocol, names: Sequence[str] = tuple(FAULTS)) -> list[Case]:
    """What fails, at any moment: order alone."""
    return [
        Case(
            name=name, about=name.replace("-", " "), build=faults.build(protocol, FAULTS[name]), bounds=BOUNDS,
            must=must_of(name, protocol), invariants=tuple(question.name for question in FAULT_QUESTIONS),
        )
        for name in names
    ]  # fmt: skip


RESTORES = {
    "restored-twice": Restores(),
    "restored-twice-one-dies": Restores(dies=True),
}


def restore_cases() -> list[Case]:
    """A frozen image is restored twice, and its original goes on: order alone."""
    return [restore_case(name, what) for name, what in RESTORES.items()]


def restore_case(name: str, what: Restores) -> Case:
    must = tuple(f"VM {n} runs" for n in range(what.copies + 1)) + (("restored once more",) if what.dies else ())
    return Case(
        name=name, about=name.replace("-", " "), build=restores.build(what), bounds=restores.BOUNDS, must=must,
        invariants=tuple(question.name for question in RESTORE_QUESTIONS),
    )  # fmt: skip


def must_of(name: str, protocol: Protocol) -> tuple[str, ...]:
    if not protocol.times_out or (name == "nmi-never-ends" and not protocol.drains):
        return ()
    return MUST.get(name, ())
