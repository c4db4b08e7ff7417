"""When a vCPU's thread burns host CPU in vain: it may not enter the guest, and tries again and again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from guestclock.arith.affine import Symbol
from guestclock.checks.suspend.setting import Outcome


@dataclass(frozen=True, slots=True)
class Spin:
    """A stretch of it. Numbers of the steps that began and ended it, and their times; closer None: it does not end."""

    vcpu: int
    opener: int
    opened: Symbol
    closer: int | None = None
    closed: Symbol | None = None


class Spins:
    """Looks at every vCPU after each step: whether its KVM has its thread go round."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.over: list[Spin] = []
        self._open: dict[int, Spin] = {}
        outcome.world.after_step(self._look)

    def all(self) -> list[Spin]:
        return sorted([*self.over, *self._open.values()], key=lambda spin: (spin.vcpu, spin.opener))

    def _look(self, number: int) -> None:
        host, event = self.outcome.kvm.host, self.outcome.world.events[number]
        arch, tasks_run = self.outcome.arch, host.machine.tasks_run()
        for vcpu in host.vms[-1].vcpus if host.vms else ():
            spins = tasks_run and arch.spins(vcpu)
            known = self._open.get(vcpu.index)
            if spins and known is None:
                self._open[vcpu.index] = Spin(vcpu.index, number, event.end)
            elif not spins and known is not None:
                del self._open[vcpu.index]
                self.over.append(replace(known, closer=number, closed=event.start))
