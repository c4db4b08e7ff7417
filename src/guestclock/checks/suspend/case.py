"""One case of the suspend thread, made of its setting; and what a case may say must happen in it."""

from __future__ import annotations

from guestclock.checks.protocol import Case
from guestclock.checks.suspend.setting import Night, S, Setting
from guestclock.checks.suspend.world import build

SLEPT, NOT_SLEPT = "the host has slept", "the host did not sleep"
INJECTED, ADJUSTED = "injected", "the VMM adjusted"
MOVED, PLUGGED, ITSELF, LOST = (
    "the VM was moved", "a vCPU was plugged in", "the guest slept itself", "interrupts were lost",
)  # fmt: skip
NIGHTS = (Night(), Night(least_ns=130 * S, most_ns=130 * S))


def case(name: str, about: str, setting: Setting, *must: str, only: tuple[str, ...] = ()) -> Case:
    return Case(name=name, about=about, build=build(setting), bounds=setting.bounds, must=must, invariants=only)
