"""A restore that is made again, from the same snapshot into the same VM, with a note in the calls after each time."""

from __future__ import annotations

from typing import Any

from guestclock.kvm.api import Note, Vm
from guestclock.vmm.recipe import Step

RESTORED = "restored"


async def restored_twice(restore: Step, vm: Vm, snapshot: Any) -> None:
    """What the question idempotent-restore compares."""
    for _ in range(2):
        await restore(vm, snapshot)
        await Note(RESTORED)
