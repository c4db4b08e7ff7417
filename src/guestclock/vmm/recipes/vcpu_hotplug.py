"""A vCPU is plugged in while the guest runs: created, its kvmclock page registered, started.

The VMM touches no clock. That KVM does is the point: until 6.7 the new vCPU's TSC write takes a new snapshot of the
masterclock, and all vCPUs' kvmclocks step by what the raw clock and the page have drifted apart since the last one.
"""

from __future__ import annotations

from guestclock.kvm.api import Vm

SEEN = "thread of 16 Oct 2023, Re: [PATCH RFC 1/1] KVM: x86: add param to update master clock periodically"
POLICY = {"tsc": "run", "kvmclock": "run"}


async def pause(vm: Vm) -> None:
    """Nothing is stopped."""


async def resume(vm: Vm) -> None:
    vcpu = await vm.create_vcpu()
    await vcpu.enable_kvmclock()
