"""KVM's four clock tracepoints on x86, stamped with the host's TSC itself."""

from __future__ import annotations

import re

from guestclock.kvm.device.tracefs import Fields, number


class X86Tracing:
    events: tuple[str, ...] = ("kvm_write_tsc_offset", "kvm_track_tsc", "kvm_update_master_clock", "kvm_pvclock_update")
    clock = "x86-tsc"
    at_switches = False

    def fields(self, name: str, text: str) -> Fields:
        return parse_fields(name, text)

    def about_to_read(self) -> None:
        """Stamps need nothing else to be understood."""

    def counter(self, stamp: str) -> tuple[int, int]:
        return int(stamp), int(stamp)


def parse_fields(name: str, text: str) -> Fields:
    """The fields of one of the four tracepoints, by the names in the kernel's text. Empty for any other."""
    if name == "kvm_pvclock_update":  # vcpu_id 0, pvclock { version 2, tsc_timestamp 0x..., ... }
        pairs = re.findall(r"(\w+) (-?\w+)(?=[,\s])", text.replace("pvclock {", ""))
    elif name == "kvm_write_tsc_offset":  # vcpu=0 prev=0 next=18446744073709551615
        pairs = re.findall(r"(\w+)=(\d+)", text)
    elif name in ("kvm_track_tsc", "kvm_update_master_clock"):  # vcpu_id 0 masterclock 1 ... hostclock tsc
        words = text.split()
        pairs = list(zip(words[::2], words[1::2], strict=False))
    else:
        pairs = []
    return {key: number(value) for key, value in pairs}
