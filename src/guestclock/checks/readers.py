"""Readers that write: the guest's kernel hands out no kvmclock below the latest, and so every reading is a step.

They are actors, one per vCPU, and run only while their vCPU is in its guest. All others who only look need no step.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, cast

from guestclock.checks.world import Outcome
from guestclock.explore.run import World
from guestclock.guest.pvclock import LastValue, PvclockReader
from guestclock.kvm.model.state import VcpuTime
from guestclock.kvm.model.tsc import guest_tsc, rdtsc
from guestclock.sim import Checkpoint, cp
from guestclock.vmm import recipe as recipes

READINGS = "readings"
READS = 2


@dataclass(frozen=True, slots=True)
class Reading:
    """kvmclock as a guest's kernel gave it out, ns. own: by the vCPU's page; equal where the page said STABLE.

    k: counted per vCPU. number, at: the step in which it was given, and its time. read: when the TSC was read.
    """

    vcpu: int
    k: int
    number: int
    at: str
    read: str
    own: Any
    given: Any
    clamped: bool


class _Noting:
    """last_value, and what it was asked."""

    def __init__(self, last: LastValue) -> None:
        self.last, self.own, self.asked = last, cast(Any, None), False

    def clamp(self, ns: Any) -> Any:
        self.own, self.asked = ns, True
        return self.last.clamp(ns)


def spawn_readers(outcome: Outcome, world: World, n: int) -> None:
    """A reader on each of the first n vCPUs of the VM that the operation ends in; what they read is in `values`.

    They begin when all n vCPUs are in their guest, and read READS times each.
    """
    spec = outcome.spec
    restores = bool(spec.recipe) and recipes.load(spec.recipe).save is not None
    vm = 1 if restores and len(spec.sites) == 1 else 0
    last = LastValue()
    outcome.values[READINGS] = []
    for vcpu in range(n):
        world.spawn(f"reader {vcpu}", _reader(outcome, world, vm, vcpu, n, last), daemon=True)


async def _reader(outcome: Outcome, world: World, vm: int, index: int, n: int, last: LastValue) -> None:
    host = outcome.kvms[-1].host

    def there() -> bool:
        vms = host.state.vms
        if len(vms) <= vm or len(vms[vm].vcpus) < n:
            return False
        return all(vcpu.running and vcpu.in_guest and vcpu.pv_time is not None for vcpu in vms[vm].vcpus[:n])

    await cp("the guest is in its VM", until=there)
    vcpu: VcpuTime = host.state.vms[vm].vcpus[index]
    reader = PvclockReader()
    for k in range(READS):
        noting, read = _Noting(last), [""]

        def counter(read: list[str] = read) -> Any:
            tsc = guest_tsc(vcpu, rdtsc(vcpu))
            read[0] = world.latest
            return tsc

        given = await _in_guest(vcpu, reader.read(vcpu.pv_time, counter, cast(LastValue, noting)))
        own = noting.own if noting.asked else given
        number = len(world.events)
        outcome.values[READINGS].append(Reading(index, k, number, world.here, read[0], own, given, noting.asked))
        await cp("reads again", until=lambda: vcpu.in_guest)


async def _in_guest(vcpu: VcpuTime, reading: Coroutine[Checkpoint, None, Any]) -> Any:
    """Carries out steps of the guest's, each of them only while its vCPU is in the guest."""
    while True:
        try:
            label, _, _ = reading.send(None)
        except StopIteration as end:
            return end.value
        await cp(label, until=lambda: vcpu.in_guest)
