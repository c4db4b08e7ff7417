"""The kernel documentation's migration of a guest whose TSC is scaled: the rate first, the formula as it stands."""

from __future__ import annotations

from guestclock.kvm.api import Vm
from guestclock.vmm.recipes import kernel_doc_migrate
from guestclock.vmm.recipes.kernel_doc_migrate import save
from guestclock.vmm.snapshot import Snapshot

SEEN = "Linux, Documentation/virt/kvm/devices/vcpu.rst, 5.16 to 7.2"
POLICY = {"tsc": "advance", "kvmclock": "advance"}

__all__ = ["restore", "save"]


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    for vcpu in vm.vcpus:
        await vcpu.set_tsc_khz(snapshot.vcpus[0].tsc_khz)
    await kernel_doc_migrate.restore(vm, snapshot)
