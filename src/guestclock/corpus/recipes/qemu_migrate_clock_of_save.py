"""QEMU, migration with kvmclock_pre_save: the clock is read again when the last of memory (5 s here) has been sent."""

from __future__ import annotations

from guestclock.corpus.recipes.qemu_migrate_clock_of_stop import LAST_OF_MEMORY_NS
from guestclock.kvm.api import Host, Vm
from guestclock.vmm.recipes import qemu_migrate
from guestclock.vmm.recipes.qemu_migrate import pause, restore, resume
from guestclock.vmm.snapshot import Snapshot

SEEN = "QEMU, hw/i386/kvm/clock.c (kvmclock_pre_save), Aug 2026"
POLICY = {"tsc": "freeze", "kvmclock": "advance"}

__all__ = ["pause", "restore", "resume", "save"]


async def save(vm: Vm) -> Snapshot:
    await Host().wait(LAST_OF_MEMORY_NS)
    return await qemu_migrate.save(vm)
