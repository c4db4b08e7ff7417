"""KVM's timer tracepoints on arm64, stamped with the host's counter to within a microsecond.

arm64 has no trace clock that is the counter. `mono_raw` is the counter times a constant (NTP leaves MONOTONIC_RAW
alone), so one reading of both ties them together for good, until the host sleeps; but its stamps are printed in
microseconds. A stamp's counter is therefore an interval, by the readings before and after it: where both agree, what
they have in common; where they do not (the host slept in between), all that either allows.
"""

from __future__ import annotations

import re
import time

from guestclock.kvm.device import native
from guestclock.kvm.device.tracefs import Fields, number

_TRIES = 4
_NS_PER_US = 1000
_NS_PER_S = 10**9

_INDEX = "arch_timer_ctx_index"


class Anchor:
    """MONOTONIC_RAW and the host's counter at one instant: the narrowest sandwich of a few."""

    def __init__(self) -> None:
        readings = []
        for _ in range(_TRIES):
            raw_ns, before, after = native.clock(time.CLOCK_MONOTONIC_RAW)
            readings.append((after - before, before, after, raw_ns))
        _, self.before, self.after, self.raw_ns = min(readings)

    def counter(self, least_ns: int, most_ns: int, hz: int) -> tuple[int, int]:
        """The counter (least, most) when MONOTONIC_RAW was between these two."""
        least = self.before + (least_ns - self.raw_ns) * hz // _NS_PER_S
        most = self.after - (self.raw_ns - most_ns) * hz // _NS_PER_S
        return least, most + 1


class Arm64Tracing:
    events: tuple[str, ...] = (
        "kvm_timer_save_state",
        "kvm_timer_restore_state",
        "kvm_get_timer_map",
        "kvm_timer_emulate",
        "kvm_timer_hrtimer_expire",
        "kvm_timer_update_irq",
    )
    clock = "mono_raw"
    at_switches = True

    def __init__(self, hz: int) -> None:
        self.hz = hz
        self._anchors = [Anchor()]

    def about_to_read(self) -> None:
        """A new reading of both clocks; the latest two hold what has been traced since the one before."""
        self._anchors = [self._anchors[-1], Anchor()]

    def fields(self, name: str, text: str) -> Fields:
        return parse_fields(name, text)

    def counter(self, stamp: str) -> tuple[int, int]:
        seconds, microseconds = stamp.split(".")
        least_ns = int(seconds) * _NS_PER_S + int(microseconds) * _NS_PER_US
        spans = [anchor.counter(least_ns, least_ns + _NS_PER_US, self.hz) for anchor in self._anchors]
        least, most = max(span[0] for span in spans), min(span[1] for span in spans)
        if least <= most:
            return least, most
        return min(span[0] for span in spans), max(span[1] for span in spans)


def parse_fields(name: str, text: str) -> Fields:
    """The fields of one of the six tracepoints, by the names in the kernel's text, lower case. Empty for any other.

    vcpu: the vCPU's index, where the text has it. Source: arch/arm64/kvm/trace_arm.h.
    """
    if name in (
        "kvm_timer_save_state",
        "kvm_timer_restore_state",
    ):  # CTL: %#08lx CVAL: %#16llx arch_timer_ctx_index: %d
        pairs = re.findall(r"(\w+): +(\w+)", text)
    elif name in ("kvm_timer_update_irq", "kvm_get_timer_map"):  # VCPU: %ld, IRQ %d, level %d; VCPU: %ld, dv: %d, ...
        pairs = re.findall(r"(\w+):? (-?\d+)", text)
    elif name in ("kvm_timer_emulate", "kvm_timer_hrtimer_expire"):  # arch_timer_ctx_index: %d (should_fire: %d)
        pairs = re.findall(r"(\w+): (-?\d+)", text)
    else:
        pairs = []
    return {key.lower(): number(value) for key, value in pairs}
