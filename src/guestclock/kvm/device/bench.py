"""How long a guest's read of a clock takes: the counter itself, a read that leaves the guest, a conversion or two.

Samples are taken inside the guest, as the benchmark of the series of 2021 took them (20210716212629, patch 12): the
counter, the read, the counter again, and the difference stored. Every read is run once to warm up, unrecorded, so that
memory and code have been touched before anything counts.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, Protocol

from guestclock.errors import UserError
from guestclock.kvm.device.executor import DeviceKvm
from guestclock.kvm.device.ioctls import IoctlError
from guestclock.kvm.device.machine import open_device
from guestclock.kvm.device.samples import Samples

MAX_ITERATIONS = 100_000

Emit = Callable[[dict[str, Any]], None]


class Bench(Protocol):
    """An architecture's guest that times reads."""

    def series(self, count: int) -> Iterator[tuple[str, Samples]]: ...
    def close(self) -> None: ...


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
