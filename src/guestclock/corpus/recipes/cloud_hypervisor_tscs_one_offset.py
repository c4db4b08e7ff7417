"""Cloud Hypervisor, restore with #8437, only what it does to TSCs: at the end vCPU 0's offset goes to all."""

from __future__ import annotations

from guestclock.corpus.recipes.cloud_hypervisor_tscs import restore, save
from guestclock.kvm.api import Host, Vm
from guestclock.vmm.recipes.cloud_hypervisor_restore import create as create_with_one_offset
from guestclock.vmm.snapshot import Snapshot

SEEN = "Cloud Hypervisor, vmm/src/cpu.rs (synchronize_tsc_offsets, #8437), Aug 2026"
POLICY = {"tsc": "freeze"}

__all__ = ["create", "restore", "save"]


async def create(host: Host, vcpus: int, snapshot: Snapshot | None) -> Vm:
    return await create_with_one_offset(host, vcpus, snapshot)
