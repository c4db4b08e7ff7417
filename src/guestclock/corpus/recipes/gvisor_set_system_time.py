"""gVisor, a vCPU's TSC shall be the host's: the host's is read and written by value, some time later."""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.corpus.recipes.gvisor_set_tsc_offset import create, save
from guestclock.kvm.api import Host, Vm

SEEN = "gVisor issues #182 and #8118, pkg/sentry/platform/kvm/machine_amd64.go (setSystemTime)"
POLICY = {"tsc": "run"}

__all__ = ["create", "restore", "save"]


async def restore(vm: Vm, snapshot: None) -> None:
    for vcpu in vm.vcpus:
        await vcpu.set_msr(MSR_IA32_TSC, await Host().read_clock("tsc"))
