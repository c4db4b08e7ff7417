"""What a bench takes and where it keeps it: samples of what reads took, and memory of the guest for them."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from guestclock.abi import ioctl as abi
from guestclock.abi.kvm import KvmUserspaceMemoryRegion
from guestclock.kvm.device import native
from guestclock.kvm.device.ioctls import call


@dataclass(frozen=True, slots=True)
class Samples:
    """What reads took, one after the other, and what KVM counted meanwhile; None where it does not count that.

    ticks: of the counter the guest reads. exits: out of the guest, the loop's own end not counted. emulated:
    instructions that KVM carried out in the CPU's place.
    """

    ticks: list[int]
    exits: int | None
    emulated: int | None

    COUNTED: ClassVar[tuple[str, str]] = ("exits", "insn_emulation")

    @classmethod
    def of(cls, ticks: list[int], before: Sequence[int | None], after: Sequence[int | None]) -> Samples:
        """From KVM's statistics before and after the loop, in the order of COUNTED."""
        exits, emulated = (None if b is None or a is None else a - b for b, a in zip(before, after, strict=True))
        return cls(ticks, None if exits is None else exits - 1, emulated)

    @property
    def trapped(self) -> bool:
        """Did every read end up in KVM, by an exit or because KVM emulates the guest? As far as KVM counts."""
        return max(self.exits or 0, self.emulated or 0) >= len(self.ticks)

    def as_json(self) -> dict[str, Any]:
        """The samples as [ticks, how often] by size: their order says nothing, and a lab's serial port is slow."""
        return {"counts": sorted(Counter(self.ticks).items()), "exits": self.exits, "emulated": self.emulated}


class GuestMemory:
    """Memory of a VM besides that of `Vm`, in the next slot."""

    def __init__(self, vm_fd: int, gpa: int, size: int) -> None:
        self.memory = mmap.mmap(-1, size)
        try:
            region = KvmUserspaceMemoryRegion(1, gpa, size, native.address_of(self.memory))
            call(vm_fd, abi.KVM_SET_USER_MEMORY_REGION, region.pack())
        except BaseException:
            self.memory.close()
            raise

    def close(self) -> None:
        self.memory.close()
