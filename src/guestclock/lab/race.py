"""The race of a VMM whose host sleeps, on a real kernel: how often is a vCPU in its guest before its clocks are right?

The kernel's own freezer decides where the vCPU's thread is held; see `inside_race`, which runs in the lab.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from guestclock.errors import UserError
from guestclock.lab.boot import Lab
from guestclock.lab.inside_race import VMMS, WINDOW
from guestclock.lab.tools import LabError

TSC_KHZ = 1_000_000
"""x86: what its TSC counts in virtual time; so a second that its RTC counts is a second of its kernel's."""

TIMEOUT_S = 1800.0
MOST_SLEEPS, MOST_AWAY_S = 1000, 24 * 3600


@dataclass(frozen=True, slots=True)
class Night:
    """One sleep. frozen: where the vCPU's thread was held, see `inside_race`. before: entries into the guest before its
    clocks were put right. saw, back, went_on: by clock, ns, rounded down.
    """

    frozen: str
    before: int
    saw_ns: dict[str, int]
    back_ns: dict[str, int]
    went_on_ns: dict[str, int]


@dataclass(frozen=True, slots=True)
class Raced:
    """One VMM. round_ns, window_ns: how long a round of its vCPU's thread takes, and how long of it the window is."""

    vmm: str
    nights: list[Night]
    rounds: int
    round_ns: int
    window_ns: int

    @property
    def hits(self) -> list[Night]:
        return [night for night in self.nights if night.before]


def race(
    kernel: str,
    *,
    arch: str,
    cpu: str = "",
    vmms: Sequence[str] = VMMS,
    sleeps: int,
    away_ns: int,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Raced]:
    """Each VMM in a lab of its own, whose host sleeps so often and so long.

    Raises UserError for bad input, LabError where a sleep was too short to be told from being awake.
    """
    for vmm in vmms:
        if vmm not in VMMS:
            raise UserError(f"--vmm {vmm!r}: expected {', '.join(sorted(VMMS))}")
    if not 1 <= sleeps <= MOST_SLEEPS:
        raise UserError(f"--sleeps {sleeps}: expected 1 to {MOST_SLEEPS}")
    if away_ns % 10**9 or not 1 <= away_ns // 10**9 < MOST_AWAY_S:
        raise UserError(
            f"--away {away_ns} ns: expected whole seconds, at least one and less than a day: an RTC wakes it"
        )
    lab = Lab(kernel, arch=arch, cpu=cpu, tsc_khz=TSC_KHZ, progress=progress)
    progress(f"lab:{kernel}: its host sleeps {sleeps} times, with {len(vmms)} VMMs")
    asked = [{"program": "race", "vmm": vmm, "nights": sleeps, "away_ns": away_ns, "sleeps": True} for vmm in vmms]
    ran = lab.run_many(asked, timeout_s=TIMEOUT_S)
    done = [raced(vmm, lines) for vmm, lines in zip(vmms, ran, strict=True)]
    for one in done:
        if len(one.nights) != sleeps:  # or nobody would have seen a sleep that nobody could
            raise LabError(
                f"lab: {one.vmm}: {len(one.nights)} of {sleeps} sleeps were long enough to be told: --away more"
            )
    return done


def raced(vmm: str, lines: Sequence[dict[str, Any]]) -> Raced:
    """From what was emitted inside."""
    [hz] = [line["rates"]["counter_hz"] for line in lines if "rates" in line]
    [rounds] = [line["rounds"] for line in lines if "rounds" in line]

    def ns(values: dict[str, int]) -> dict[str, int]:
        return {c: v if c == "kvmclock" else v * 1_000_000_000 // hz for c, v in values.items()}

    nights = [
        Night(line["frozen"], line["before"], ns(line["saw"]), ns(line["back"]), ns(line["went_on"]))
        for line in lines
        if "frozen" in line
    ]
    return Raced(vmm, nights, rounds["count"], rounds["round_ns"], rounds["window_ns"])


__all__ = ["VMMS", "WINDOW", "Night", "Raced", "race", "raced"]
