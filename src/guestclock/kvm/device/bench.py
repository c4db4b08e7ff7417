"""How long a guest's read of a clock takes: the counter itself, a read that leaves the guest, a conversion or two.

Samples are taken inside the guest, as the benchmark of the series of 2021 took them (20210716212629, patch 12): the
counter, the read, the counter again, and the difference stored. Every read is run once to warm up, unrecorded, so that
memory and code have been touched before anything counts.
"""

from __future__ import annotations

import mmap
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from guestclock.abi import ioctl as abi
from guestclock.abi.kvm import KvmUserspaceMemoryRegion
from guestclock.errors import UserError
from guestclock.kvm.device import native
from guestclock.kvm.device.executor import DeviceKvm
from guestclock.kvm.device.ioctls import IoctlError, call
from guestclock.kvm.device.machine import open_device

MAX_ITERATIONS = 100_000

Emit = Callable[[dict[str, Any]], None]


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


class Bench(Protocol):
    """An architecture's guest that times reads."""

    def series(self, count: int) -> Iterator[tuple[str, Samples]]: ...
    def close(self) -> None: ...


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


def run_bench(program: dict[str, Any], emit: Emit) -> None:
    """Times every read on this machine's KVM: emits what the machine is, then a line for each read.

    program: "iterations", how many reads of each. Raises UserError where there is no KVM, or it cannot show them.
    """
    count = program.get("iterations")
    if not isinstance(count, int) or not 1 <= count <= MAX_ITERATIONS:
        raise UserError(f"bench counter: {count!r} iterations: expected 1..{MAX_ITERATIONS}")
    with open_device(lambda event: None, trace=False) as kvm:
        emit({"bench": "counter", "iterations": count, "counter_hz": kvm.counter_hz, **kvm.meta()})
        try:
            with closing(_bench(kvm)) as bench:
                for name, samples in bench.series(count):
                    emit({"read": name, **samples.as_json()})
        except IoctlError as refusal:
            raise UserError(f"bench counter: {kvm.meta()['kernel']}: {refusal}") from None


def _bench(kvm: DeviceKvm[Any, Any]) -> Bench:
    if platform.machine() == "aarch64":
        from guestclock.kvm.device.arm64.bench import Arm64Bench

        return Arm64Bench(kvm)
    from guestclock.kvm.device.x86.bench import X86Bench

    return X86Bench(kvm)
