"""What comparing one run of a real kernel with the model gave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same: in which operation (counted from 0), what, and both values."""

    index: int
    operation: str
    what: str
    real: Any
    model: Any

    def __str__(self) -> str:
        return f"operation {self.index} ({self.operation}): {self.what}: real {self.real}, model {self.model}"


@dataclass
class Verdict:
    """What comparing one run gave.

    exact, close: values equal to the last bit, and within the sandwich only. narrowest: by what a number that nothing
    moves is called, how far all readings together leave it open. on_line: masterclock pages whose system_time lies on
    the model's raw clock to 1 ns, from the first page on.

    open_outcome: the sandwich of some operation, or when a delayed work ran, leaves open which way the kernel decides,
    and the model agrees with it one way. exits: of vCPUs that must always catch up, for interrupts of the host's.
    guest_has_master_clock: KVM's global flag as this run left it.
    """

    differences: list[Difference]
    exact: int = 0
    close: int = 0
    narrowest: dict[str, int] = field(default_factory=dict)
    on_line: int = 0
    tracepoints: int = 0
    open_outcome: bool = False
    exits: int = 0
    guest_has_master_clock: bool = False
