"""What a VMM saves of a guest's time, so that another VM can go on from it.

Plain values and no checks: under the explorer they are forms over unknown event times. The file format, its version and
its checks are in `guestclock.scenario.snapshot_file`. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from guestclock.kvm.api import ClockData

X86_64 = "x86_64"
ARM64 = "arm64"

Saved = Any
"""An int, or a form over unknown event times; None: this recipe does not save it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuSnapshot:
    """One vCPU's share.

    tsc: MSR_IA32_TSC at the instant it was read, guest cycles, u64; each vCPU's at its own instant.
    tsc_offset: KVM_VCPU_TSC_OFFSET, cycles, u64; it means something on the host it was read on, until that boots again.
    tsc_khz: the guest's rate, kHz. KVM makes its scaling ratio of it; the ratio itself cannot be read.
    tsc_deadline: MSR_IA32_TSC_DEADLINE, guest cycles, u64; 0: no timer is armed.
    arm64_cntvct, arm64_cntpct: the virtual and the physical counter, u64; reserved, None on x86_64.
    """

    tsc: Saved = None
    tsc_offset: Saved = None
    tsc_khz: Saved = None
    tsc_deadline: Saved = None
    arm64_cntvct: Saved = None
    arm64_cntpct: Saved = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A guest's time. vcpus: in the order of their creation.

    clock: one KVM_GET_CLOCK: kvmclock and, by its flags, the host's TSC and REALTIME of the very same instant.
    realtime_ns: the host's CLOCK_REALTIME as the VMM itself read it, for kernels whose KVM_GET_CLOCK has none; ns.
    host_tsc_khz: the rate of the counter that `clock.host_tsc` and the offsets are counted by, kHz.
    arm64_counter_offset: KVM_ARM_SET_COUNTER_OFFSET, u64; reserved, None on x86_64.
    arch: X86_64 or ARM64.
    owner: a token of whoever may let this guest run on. Who restores it writes a token of its own; who finds another's
    restores a second time, and the guest is a fork.
    """

    vcpus: tuple[VcpuSnapshot, ...]
    clock: ClockData
    realtime_ns: Saved = None
    host_tsc_khz: Saved = None
    arm64_counter_offset: Saved = None
    arch: str = X86_64
    owner: str | None = None
