"""What every VM's clocks are made of, step by step of an integer run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guestclock.explore.replay import IntegerWorld


class Watch:
    """Looks at every VM after every step. state: what is kept of one."""

    def __init__(self, world: IntegerWorld, state: Callable[[Any], Any]) -> None:
        self.world, self.outcome, self.state = world, world.world, state
        self.states: list[dict[tuple[int, int], Any]] = []
        world.after_step(self.look)

    def look(self, number: int) -> None:
        self.states.append(
            {(site, vm.id): self.state(vm) for site, kvm in enumerate(self.outcome.kvms) for vm in kvm.host.vms}
        )

    def around(self, which: tuple[int, int], first: int, last: int) -> tuple[Any, Any]:
        """Before step `first` and after step `last`; None where the VM did not exist."""
        before = self.states[first - 1].get(which) if first else None
        return before, self.states[last].get(which)
