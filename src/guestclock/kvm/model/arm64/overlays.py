"""The overlays of arm64 kernels: what the series of 2021 proposed ("idempotent controls for migrating counter state"),
and a gate of our own.

The series' rules are as in the patches posted: v1 20210608214742, v2 20210716212629, v6 20210804085819,
v8 20210916181510. None of them has VM-wide offsets, so each of them takes away what came with those in 6.3 and 6.4.
"""

from __future__ import annotations

from typing import Any

from guestclock.kvm.model.arm64 import attributes, offsets, sleep_gate, traps
from guestclock.kvm.model.arm64.kernels import LINUX_5_10
from guestclock.kvm.model.overlay import Overlay, plain

_BEFORE_6_3: dict[str, Any] = {
    name: getattr(LINUX_5_10, name)
    for name in (
        "context_offsets", "creation_offsets", "write_counter", "timer_map", "ptimer_cval", "load_traps",
        "entry_traps", "trapped_access", "user_ctl", "ptp_offset", "timer_regs", "timer_irqs", "ppis_of_the_vm",
        "ptimer_first", "ns_frac_per_timer", "ctl_64_bits", "uses_cntpoff", "counter_offset_ioctl", "nested",
        "map_shows_emul_vtimer",
    )
}  # fmt: skip
"""PTP stays as the kernel has it, and so does the rule for hrtimers."""

_V1 = _BEFORE_6_3 | {
    "context_offsets": offsets.both_of_each_vcpu,
    "timer_map": traps.physical_emulated_with_an_offset,
    "entry_traps": traps.the_counter_with_its_own_offset,
    "set_offset_attribute": attributes.this_vcpus_offset,
    "get_offset_attribute": attributes.this_timers_offset,
}
_V2 = _V1 | {
    "entry_traps": traps.both_with_its_own_offset,
    "set_offset_attribute": attributes.broadcast_offset,
    "get_offset_attribute": attributes.physical_offset_whichever_is_asked_for,
}
_V6 = _BEFORE_6_3 | {
    "context_offsets": offsets.host_offset_of_each_timer,
    "creation_offsets": offsets.creation_broadcasts_guest_offset,
    "write_counter": offsets.counter_broadcast_as_guest_offset,
    "timer_map": traps.physical_emulated_with_an_offset_without_ecv,
    "load_traps": traps.trapped_with_an_offset_without_ecv,
    "entry_traps": traps.the_counter_with_its_own_offset_without_ecv,
    "timer_offset": offsets.host_offset_less_physical,
    "set_offset_attribute": attributes.physical_offset_moves_both,
    "get_offset_attribute": attributes.physical_offset,
    "timer_offset_reg": "always",
    "uses_cntpoff": True,
}
_V8 = _V6 | {"timer_offset": offsets.guest_offset, "timer_offset_reg": "opt-in"}

OVERLAYS: dict[str, Overlay] = {
    overlay.name: overlay
    for overlay in (
        plain(
            "timer-offset-v1",
            "arm64, 2021 v1: offsets of one vCPU; on VHE a physical one leaves its traps on the CPU",
            **_V1,
        ),
        plain(
            "timer-offset-v2",
            "arm64, 2021 v2: attributes whose offset goes to all vCPUs, one by one; CNTPCT trapped and emulated",
            **_V2,
        ),
        plain(
            "timer-offset-v6",
            "arm64, 2021 v6: a physical offset under both counters, and a register for the virtual one; ECV",
            **_V6,
        ),
        plain(
            "timer-offset-v8",
            "arm64, 2021 v8: as v6, but the register is only for a VMM that asks for it",
            **_V8,
        ),
        plain(
            "sleep-gate",
            "arm64, our own: after a sleep no vCPU enters before the VMM has acknowledged it (x86's suspend-gate)",
            suspend_time=sleep_gate.SleepGate,
        ),
    )
}
