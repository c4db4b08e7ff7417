"""KVM's four tracepoints about time, in the kernel's own words (arch/x86/kvm/trace.h, v6.12)."""

from __future__ import annotations

from typing import Any

from guestclock.abi.pvclock import PvclockVcpuTimeInfo

_HOST_CLOCKS = {0: "none", 1: "tsc"}


def host_clock(vclock_mode: int) -> str:
    """As __print_symbolic does: modes without a name (2 pvclock, 3 hvclock) come out in hex."""
    return _HOST_CLOCKS.get(vclock_mode, f"{vclock_mode:#x}")


def kvm_write_tsc_offset(vcpu_id: int, previous: int, following: int) -> dict[str, Any]:
    return {
        "vcpu_id": vcpu_id,
        "previous_tsc_offset": previous,
        "next_tsc_offset": following,
        "text": f"vcpu={vcpu_id} prev={previous} next={following}",
    }


def kvm_track_tsc(vcpu_id: int, nr_matched: int, online: int, use_master_clock: bool, mode: int) -> dict[str, Any]:
    return {
        "vcpu_id": vcpu_id,
        "nr_vcpus_matched_tsc": nr_matched,
        "online_vcpus": online,
        "use_master_clock": use_master_clock,
        "host_clock": mode,
        "text": f"vcpu_id {vcpu_id} masterclock {use_master_clock:d} offsetmatched {nr_matched} nr_online {online}"
        f" hostclock {host_clock(mode)}",
    }


def kvm_update_master_clock(use_master_clock: bool, mode: int, offset_matched: bool) -> dict[str, Any]:
    return {
        "use_master_clock": use_master_clock,
        "host_clock": mode,
        "offset_matched": offset_matched,
        "text": f"masterclock {use_master_clock:d} hostclock {host_clock(mode)} offsetmatched {offset_matched:d}",
    }


def kvm_pvclock_update(vcpu_id: int, page: PvclockVcpuTimeInfo) -> dict[str, Any]:
    return {
        "vcpu_id": vcpu_id,
        "version": page.version,
        "tsc_timestamp": page.tsc_timestamp,
        "system_time": page.system_time,
        "tsc_to_system_mul": page.tsc_to_system_mul,
        "tsc_shift": page.tsc_shift,
        "flags": page.flags,
        "text": f"vcpu_id {vcpu_id}, pvclock {{ version {page.version}, tsc_timestamp {page.tsc_timestamp:#x},"
        f" system_time {page.system_time:#x}, tsc_to_system_mul {page.tsc_to_system_mul:#x},"
        f" tsc_shift {page.tsc_shift}, flags {page.flags:#x} }}",
    }
