"""Readers that write: the guest's kernel hands out no kvmclock below the latest, and so every reading is a step.

They are actors, one per vCPU, and run only while their vCPU is in its guest. All others who only look need no step.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, cast

from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.checks.outcome import Outcome
from guestclock.checks.x86.windows import Clocks
from guestclock.explore.world import World
from guestclock.guest.pvclock import LastValue, PvclockReader
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.state import VcpuTime
from guestclock.kvm.model.x86.tsc import guest_tsc, rdtsc
from guestclock.sim import Checkpoint, cp
from guestclock.vmm import recipe as recipes

READINGS = "readings"
READS = 2


@dataclass(frozen=True, slots=True)
class Reading(Clocks):
    """kvmclock as a guest's kernel gave it out, ns, and what its vCPU's clocks were made of then.

    k: counted per vCPU. number, at: the step in which it was given, and its time. clamped: last_value had its say, as
    the page did not say STABLE.
    """

    site: int
    vm: int
    vcpu: int
    k: int
    number: int
    at: str
    given: Any
    clamped: bool
    offset: Any
    ratio: int
    page: PvclockVcpuTimeInfo | None
    host: KvmHost


class _Noting:
    """last_value, and what it was asked."""

    def __init__(self, last: LastValue) -> None:
        self.last, self.asked = last, False

    def clamp(self, ns: Any) -> Any:
        self.asked = True
        return self.last.clamp(ns)


def spawn_readers(outcome: Outcome, world: World, n: int, reads: int = READS) -> None:
    """A reader on each of the first n vCPUs of the VM that the operation ends in; what they read is in `values`.

    They begin when all n vCPUs are in their guest, and read `reads` times each.
    """
    spec = outcome.spec
    restores = bool(spec.recipe) and recipes.load(spec.recipe).save is not None
    vm = 1 if restores and len(spec.sites) == 1 else 0
    last = LastValue()
    outcome.values[READINGS] = []
    for vcpu in range(n):
        world.spawn(f"reader {vcpu}", _reader(outcome, world, (vm, vcpu), n, reads, last), daemon=True)


async def _reader(outcome: Outcome, world: World, who: tuple[int, int], n: int, reads: int, last: LastValue) -> None:
    vm, index = who
    host = outcome.kvms[-1].host

    def there() -> bool:
        vms = host.state.vms
        if len(vms) <= vm or len(vms[vm].vcpus) < n:
            return False
        return all(vcpu.running and vcpu.in_guest and vcpu.pv_time is not None for vcpu in vms[vm].vcpus[:n])

    await cp("the guest is in its VM", until=there)
    vcpu: VcpuTime = host.state.vms[vm].vcpus[index]
    reader = PvclockReader()

    def counter() -> Any:
        return guest_tsc(vcpu, rdtsc(vcpu))

    for k in range(reads):
        noting = _Noting(last)
        given = await _in_guest(vcpu, reader.read(vcpu.pv_time, counter, cast(LastValue, noting)))
        page = vcpu.pv_time.copy()
        outcome.values[READINGS].append(
            Reading(
                len(outcome.kvms) - 1, vm, index, k, len(world.events), world.here, given, noting.asked,
                vcpu.tsc_offset, vcpu.tsc_scaling_ratio, page, host,
            )
        )  # fmt: skip
        await cp("reads again", until=lambda: vcpu.in_guest)


async def _in_guest(vcpu: VcpuTime, reading: Coroutine[Checkpoint, None, Any]) -> Any:
    """Carries out steps of the guest's, each of them only while its vCPU is in the guest."""
    while True:
        try:
            label, _, _ = reading.send(None)
        except StopIteration as end:
            return end.value
        await cp(label, until=lambda: vcpu.in_guest)
