"""A trace as a story, by the architecture its first line names."""

from __future__ import annotations

from guestclock.check.reader.arm64 import Arm64Reader
from guestclock.check.reader.base import Reader
from guestclock.check.reader.x86 import X86Reader
from guestclock.check.story import Story
from guestclock.errors import UserError
from guestclock.sim.trace import Trace
from guestclock.vmm.clocks import ARCHITECTURES, ARM64, X86_64

READERS = {X86_64: X86Reader, ARM64: Arm64Reader}


def story(trace: Trace) -> Story:
    """Reads a trace. Raises UserError where its first line does not say the rate of the host's counter."""
    arch = trace.meta.get("arch", X86_64)
    if arch not in READERS:
        raise UserError(f"trace: arch: {arch!r}, expected one of {', '.join(ARCHITECTURES)}")
    reader: Reader = READERS[arch](trace)
    return reader.read()
