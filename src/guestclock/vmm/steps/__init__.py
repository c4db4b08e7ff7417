"""A scenario's steps as a recipe: the same on the model, on this host's KVM and on a kernel in the lab.

A program is JSON: {"arch": "arm64", "vcpus": n, "boot": bool, "look": bool, "steps": [...]}; without "arch" it is
x86_64's, which has {"kvmclock": "new"|"old"|null} besides; "nested" (arm64) is for whoever makes the KVM. A step is
{"actor": "vmm"|"guest"|"host", "do": verb, "say": sentence, "vcpus": [i, ...], ...verb's own keys}.
`guestclock.scenario` makes programs from TOML and checks them; nothing here is met by unchecked input.

A number that a step needs is a sum of terms, [kind, value, factor], the factor 1 if left out:

    ["int", 400]                  an integer
    ["ns", 5_000_000_000]         a duration
    ["var", "saved", -1]          a value that an earlier step saved ("saved.0": vCPU 0's of several)
    ["own", "saved"]              the one saved for the vCPU that the step is acting on
    ["max", ["saved.0", ...]]     the highest of several

Where a counter's value is meant, durations, and saved values in ns ("var-ns", "own-ns", "max-ns"), are summed first and
then turned into cycles of vCPU 0's TSC, or into ticks of the counter, rounded down: one rounding, the same for every
vCPU.
"""

from __future__ import annotations

from typing import Any

from guestclock.kvm.api import Host
from guestclock.vmm.clocks import ARM64, X86_64
from guestclock.vmm.steps.arm64 import Arm64Play
from guestclock.vmm.steps.base import Play
from guestclock.vmm.steps.x86 import X86Play

__all__ = ["PLAYS", "play"]

PLAYS: dict[str, type[Play]] = {X86_64: X86Play, ARM64: Arm64Play}


async def play(host: Host, program: dict[str, Any]) -> None:
    """Runs a checked program to its end. KVM's refusals are noted and the next step follows."""
    await PLAYS[program.get("arch", X86_64)](host, program).run()
