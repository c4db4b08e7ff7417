"""Cloud Hypervisor, restore before #8437: each vCPU is created and given its TSC; nobody compares them.

A vCPU's creation between two writes makes KVM forget what the first one wrote: the second does not match, and without
a match there is no masterclock.
"""

from __future__ import annotations

from guestclock.kvm.api import Host, Vm
from guestclock.vmm.recipes.cloud_hypervisor_restore import created, pause, restore, resume, save
from guestclock.vmm.snapshot import Snapshot

SEEN = "Cloud Hypervisor issue #8437"
POLICY = {"tsc": "freeze", "kvmclock": "advance"}

__all__ = ["create", "pause", "restore", "resume", "save"]


async def create(host: Host, vcpus: int, snapshot: Snapshot | None) -> Vm:
    return await created(host, vcpus, snapshot)
