"""What a VMM saves of a guest's time, so that another VM can go on from it.

Plain values and no checks: under the explorer they are forms over unknown event times. The file format, its version and
its checks are in `guestclock.scenario.snapshot_file`. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from guestclock.kvm.api import ClockData
from guestclock.vmm.clocks import ARM64, X86_64

__all__ = ["ARM64", "X86_64", "Arm64Snapshot", "Arm64VcpuSnapshot", "Snapshot", "VcpuSnapshot"]

Saved = Any
"""An int, or a form over unknown event times; None: this recipe does not save it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VcpuSnapshot:
    """One vCPU's share.

    tsc: MSR_IA32_TSC at the instant it was read, guest cycles, u64; each vCPU's at its own instant.
    tsc_offset: KVM_VCPU_TSC_OFFSET, cycles, u64; it means something on the host it was read on, until that boots again.
    tsc_khz: the guest's rate, kHz. KVM makes its scaling ratio of it; the ratio itself cannot be read.
    tsc_deadline: MSR_IA32_TSC_DEADLINE, guest cycles, u64; 0: no timer is armed.
    """

    tsc: Saved = None
    tsc_offset: Saved = None
    tsc_khz: Saved = None
    tsc_deadline: Saved = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """An x86 guest's time. vcpus: in the order of their creation.

    clock: one KVM_GET_CLOCK: kvmclock and, by its flags, the host's TSC and REALTIME of the very same instant.
    realtime_ns: the host's CLOCK_REALTIME as the VMM itself read it, for kernels whose KVM_GET_CLOCK has none; ns.
    host_tsc_khz: the rate of the counter that `clock.host_tsc` and the offsets are counted by, kHz.
    owner: a token of whoever may let this guest run on. Who restores it writes a token of its own; who finds another's
    restores a second time, and the guest is a fork.
    """

    arch: ClassVar[str] = X86_64

    vcpus: tuple[VcpuSnapshot, ...]
    clock: ClockData
    realtime_ns: Saved = None
    host_tsc_khz: Saved = None
    owner: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm64VcpuSnapshot:
    """One vCPU's share; counters and compare values in ticks, all u64.

    cntvct, cntpct: the virtual and the physical counter, each at the instant it was read.
    cntv_ctl, cntv_cval, cntp_ctl, cntp_cval: its two timers. A compare value is a value of the guest's counter: it goes
    along unchanged wherever that goes.
    offset: the vCPU's own (the attributes of 2021), subtracted from the host's counter.
    """

    cntvct: Saved = None
    cntpct: Saved = None
    cntv_ctl: Saved = None
    cntv_cval: Saved = None
    cntp_ctl: Saved = None
    cntp_cval: Saved = None
    offset: Saved = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm64Snapshot:
    """An arm64 guest's time. vcpus: in the order of their creation.

    counter_offset: what KVM_ARM_SET_COUNTER_OFFSET was last given, ticks, u64: no call reads it back. It means
    something on the host it was given on, until that boots again.
    host_counter, realtime_ns: the host's counter (ticks, u64) and its CLOCK_REALTIME (ns) at one instant, as near as
    the VMM could read them: the pair that carries an offset to another host.
    counter_hz: the counter's rate, Hz. A host of another rate is no destination: nothing scales.
    owner: as an x86 snapshot's.
    """

    arch: ClassVar[str] = ARM64

    vcpus: tuple[Arm64VcpuSnapshot, ...]
    counter_offset: Saved = None
    host_counter: Saved = None
    realtime_ns: Saved = None
    counter_hz: Saved = None
    owner: str | None = None
