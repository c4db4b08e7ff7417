"""threads/2017-freeze: the protocol of Gleixner's mail as it is and corrected, and what the thread was about to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from guestclock.checks.freeze import clocks, faults, nested, nested_clocks, snapshot
from guestclock.checks.freeze.clock_questions import CLOCK_QUESTIONS
from guestclock.checks.freeze.clocks import SECOND, Move
from guestclock.checks.freeze.fault_questions import FAULT_QUESTIONS, NESTED_QUESTIONS
from guestclock.checks.freeze.faults import MESSAGES, Faults
from guestclock.checks.freeze.nested import T_L2, Family
from guestclock.checks.freeze.nested_clocks import Nesting
from guestclock.checks.freeze.protocol import Protocol
from guestclock.checks.protocol import Case, Design, Thread
from guestclock.errors import UserError
from guestclock.guest.freeze import AS_WRITTEN, AT_STOP, NOWHERE, RUN, SAME_HOST, STOP
from guestclock.guest.freeze import CORRECTED as CORRECTED_GUEST

MAIL = "Gleixner, 23 August 2017"

WRITTEN = Protocol(
    rules=AS_WRITTEN, drains=False, v0_first=False, stop_of_all=False, times_out=False, token=False, fences=False,
    answers_late=False, idempotent=False, drops_deadlines=False,
)  # fmt: skip
WRITTEN_V0_FIRST = replace(WRITTEN, v0_first=True)
GATE = Protocol()
GOING_ON = replace(GATE, rules=replace(CORRECTED_GUEST, rebase=AT_STOP))
HALTED = Protocol(gates=False, drains=False, halts_fast=True, blocks_vdso=True)

PAIRS = (
    (2_400_000, 1_920_000), (2_400_000, 2_100_000), (2_596_122, 2_336_507), (2_596_122, 2_596_122),
    (2_999_999, 3_299_998), (2_400_000, 2_900_000), (2_000_003, 2_500_001), (1_000_000, 1_250_000),
)  # fmt: skip
"""Frequencies in kHz, before and after: 0.8 to 1.25, odd ones among them."""

FREQUENCIES_KHZ = range(100_000, 10_000_001)
"""Of a case that somebody names."""

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
    **{f"{message}-lost": Faults(lost=(message,)) for message in MESSAGES},
    **{f"{message}-always-lost": Faults(gone=(message,)) for message in MESSAGES},
}
FAULTS = SINGLE_FAULTS | {
    "exit-lost-target-dies": Faults(lost=("exit",), target_dies=True),
    "commit-lost-target-dies": Faults(lost=("commit",), target_dies=True),
    "running-lost-target-dies": Faults(lost=("running",), target_dies=True),
    "refused-target-dies": Faults(unfit=True, target_dies=True),
    "interrupt-twice-loaded-lost": Faults(twice=True, lost=("loaded",)),
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
    return [_moved(name, about, protocol, move) for name, (about, move) in asked.items()]


def _moved(name: str, about: str, protocol: Protocol, move: Move) -> Case:
    # A vDSO that is open until the stop is no fault where what it says until then is counted.
    closes = protocol.rules.closes and protocol.stop_of_all and not protocol.blocks_vdso
    invariants = tuple(q.name for q in CLOCK_QUESTIONS if not (closes and q.name == "getters-blocked"))
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
INSIDE = ("never-back", "one-epoch", "none-while-moved", "counts-what-ran", "counts-downtime")


def nested_cases(protocol: Protocol = GATE) -> list[Case]:
    """Guests of guests, and hosts that sleep while they have a frozen image."""
    found = [_moved(name, about, protocol, move) for name, (about, move) in {**SLEEPS, **NESTED}.items()]
    found += [l1_with_l2(name, Nesting()) for name in L1_WITH_L2]
    found += [family_case(name, family) for name, family in FAMILIES.items()]
    return found


def l1_with_l2(name: str, nesting: Nesting, *, continuous: bool = False) -> Case:
    about, move = L1_WITH_L2[name]
    move = replace(move, continuous=continuous)
    must = ("vdso in epoch 0", "vdso in epoch 1")
    build = nested_clocks.build(nesting, move)
    return Case(name=name, about=about, build=build, bounds=move.bounds, must=must, invariants=INSIDE)


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
            name=name, about=name.replace("-", " "), build=faults.build(protocol, FAULTS[name]), bounds=faults.BOUNDS,
            must=_must(name, protocol), invariants=tuple(question.name for question in FAULT_QUESTIONS),
        )
        for name in names
    ]  # fmt: skip


def _must(name: str, protocol: Protocol) -> tuple[str, ...]:
    if not protocol.times_out or (name == "nmi-never-ends" and not protocol.drains):
        return ()
    return MUST.get(name, ())


# ---- negative controls: a corrected design with one line broken, in the case that shows it


@dataclass(frozen=True, slots=True)
class _Control:
    name: str
    about: str
    protocol: Protocol | Nesting | Family
    case: str = "2400000-2900000"
    continuous: bool = False

    def cases(self) -> list[Case]:
        if isinstance(self.protocol, Nesting):
            return [l1_with_l2(self.case, self.protocol, continuous=self.continuous)]
        if isinstance(self.protocol, Family):
            return [family_case(self.case, self.protocol)]
        if self.case in FAULTS:
            return fault_cases(self.protocol, [self.case])
        if self.case in SLEEPS:
            about, move = SLEEPS[self.case]
            return [_moved(self.case, about, self.protocol, move)]
        return [c for c in clock_cases(self.protocol, continuous=self.continuous) if c.name == self.case]


def _rules(**changes: bool | str) -> Protocol:
    return replace(GATE, rules=replace(CORRECTED_GUEST, **changes))  # type: ignore[arg-type]


_CONTROLS = (
    _Control("no-closing", "the old epoch ends at freeze()", _rules(closes=False)),
    _Control("own-stop", "it ends where V0 left, not the last vCPU", replace(GATE, stop_of_all=False)),
    _Control("no-drain", "a pending NMI is not waited for", replace(GATE, drains=False), "nmi-then-vdso"),
    _Control("ungated", "NMIs come as they like", replace(GATE, gates=False, drains=False), "nmi-then-vdso"),
    _Control("all-at-once", "step 8 lets all vCPUs run", replace(GATE, v0_first=False), "vdso-then-syscall"),
    _Control(
        "factors-alone", "the factors change, cycle_last stays",
        _rules(rebase=NOWHERE, closes=False, adds_wait=False),
    ),
    _Control("stale-downtime", "the downtime is no pair with the counter", _rules(adds_wait=False)),
    _Control(
        "halted-vdso-open", "fast timekeepers are halted, the vDSO goes on until the stop",
        replace(HALTED, blocks_vdso=False), "vdso-then-nmi",
    ),
    _Control(
        "offsets-apart", "each vCPU's offset is computed when its turn comes", replace(GOING_ON, one_offset=False),
        continuous=True,
    ),
    _Control(
        "no-fence", "the source takes back what it handed over while the target lives", replace(GATE, fences=False),
        "commit-lost",
    ),
    _Control("no-token", "the target runs what it has loaded", replace(GATE, token=False), "loaded-lost"),
    _Control(
        "late-exit-ignored", "an exit after the cancel has no answer", replace(GATE, answers_late=False),
        "image-lost",
    ),
    _Control(
        "freezes-twice", "a second interrupt freezes again", replace(GATE, idempotent=False),
        "interrupt-twice-loaded-lost",
    ),
    _Control("deadlines-move", "timers move with the image", replace(GATE, drops_deadlines=False), "interrupt-lost"),
    _Control("no-time-outs", "everybody waits for ever", replace(GATE, times_out=False), "target-dies"),
    _Control(
        "stops-first", "V1 is stopped before the guest is frozen, and nothing times out",
        replace(GATE, keeps_running=False, times_out=False), "nothing-fails",
    ),
    _Control(
        "downtime-by-monotonic", "hosts take the downtime from a clock that stops while they sleep",
        replace(GATE, counts_sleep=False), "moved-asleep",
    ),
    _Control(
        "reset-unadmitted", "a host whose TSC was reset says SAME_HOST", replace(GATE, admits_reset=False),
        "aborted-reset-run",
    ),
    _Control("outer-first", "L1 is frozen while L2 runs", Family(l2s=1, inner_first=False), "one-l2"),
    _Control(
        "outer-first-clocks", "the same, with times", Nesting(inner_first=False), "l1-with-l2", continuous=True
    ),
    _Control("l0-downtime", "L2 is told L1's downtime", Nesting(by_l1=False), "l1-with-l2"),
    _Control(
        "two-looks", "L1 reads L2's counter and its own BOOTTIME one after the other", Nesting(one_look=False),
        "l1-with-l2",
    ),
    _Control(
        "frozen-forgotten", "one L2 declines, the others stay frozen", Family(l2s=3, declines=(1,), lets_go=False),
        "one-of-three-declines",
    ),
    _Control("impatient", "L0 waits for L1 as long as L1 for its L2s", Family(t_l1_ms=T_L2), "three-l2s"),
)  # fmt: skip


def _design(
    name: str, about: str, source: str, *cases: Callable[[], Sequence[Case]], moves: Protocol, continuous: bool = False
) -> Design:
    """moves: what a case is of that is named by its two frequencies."""

    def named(case: str) -> Case | None:
        pair = re.fullmatch(r"([0-9]+)-([0-9]+)", case)
        if pair is None:
            return None
        source_khz, target_khz = int(pair[1]), int(pair[2])
        for khz in (source_khz, target_khz):
            if khz not in FREQUENCIES_KHZ:
                raise UserError(
                    f"--case {case}: {khz} kHz: expected {FREQUENCIES_KHZ.start} to {FREQUENCIES_KHZ.stop - 1} kHz"
                )
        return clock_cases(moves, pairs=[(source_khz, target_khz)], continuous=continuous)[0]

    return Design(name, about, source, lambda: [case for made in cases for case in made()], named=named)


FEW = PAIRS[::5]

THREAD = Thread(
    "threads/2017-freeze",
    "A guest moves to a host whose TSC has another frequency, and its clocks must go on. Freeze, reconfigure, unfreeze "
    "its timekeeper, or hand it a snapshot of a clock?",
    (
        _design(
            "as-written", "the mail's eleven steps, word for word", MAIL,
            lambda: clock_cases(WRITTEN, pairs=FEW), lambda: fault_cases(WRITTEN, tuple(SINGLE_FAULTS)),
            moves=WRITTEN,
        ),
        _design(
            "as-written-v0-first", "the same, but the handler's vCPU runs alone at first (failures: as-written)", MAIL,
            lambda: clock_cases(WRITTEN_V0_FIRST, pairs=FEW), moves=WRITTEN_V0_FIRST,
        ),
        _design(
            "corrected-gate", "NMIs are held back and drained, the old epoch is closed at the stop, V0 runs first",
            "analysis of the mail", lambda: clock_cases(GATE), lambda: fault_cases(GATE), nested_cases, moves=GATE,
        ),
        _design(
            "corrected-going-on", "the same where the host makes the counter go on (failures: corrected-gate)",
            "analysis of the mail", lambda: clock_cases(GOING_ON, continuous=True),
            moves=GOING_ON, continuous=True,
        ),
        _design(
            "corrected-halted", "no gate: fast timekeepers are halted, the vDSO is blocked (failures: corrected-gate)",
            "analysis of the mail", lambda: clock_cases(HALTED),
            lambda: fault_cases(HALTED, ("nothing-fails", "nmi-never-ends")), moves=HALTED,
        ),
        Design(
            "clock-snapshot", "L2's page is made from a snapshot of L1's clock, a linear transformation of the TSC",
            "Plotnikov and Bonzini, August 2017", snapshot.cases,
        ),
        *(Design(c.name, c.about, "a negative control", c.cases, broken=True) for c in _CONTROLS),
    ),
    (*CLOCK_QUESTIONS, *FAULT_QUESTIONS, *NESTED_QUESTIONS),
    "clocks: 1 ms between the VMM's steps, 10 us between the handler's, 2 s away, any TSC on the target; failures: 1 s "
    f"between steps, time-outs of {faults.T_NMI} to {faults.T_LOAD} ms",
    own="two frequencies in kHz, as 2893437-3100004",
)  # fmt: skip
