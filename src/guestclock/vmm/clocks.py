"""The guest's clocks, by architecture: what each is called and counted in. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

X86_64 = "x86_64"
ARM64 = "arm64"
ARCHITECTURES = (X86_64, ARM64)

COUNTED = ("cycles", "ticks")
"""Units that are a counter's."""


@dataclass(frozen=True, slots=True)
class Clock:
    """unit: "ns", or what its counter counts ("cycles", "ticks"). shown: its name in a sentence."""

    name: str
    arch: str
    unit: str
    shown: str

    @property
    def counts(self) -> bool:
        """Whether it is a counter's own value, at the counter's rate."""
        return self.unit in COUNTED


CLOCKS: Mapping[str, Clock] = MappingProxyType(
    {
        clock.name: clock
        for clock in (
            Clock("tsc", X86_64, "cycles", "TSC"),
            Clock("kvmclock", X86_64, "ns", "kvmclock"),
            Clock("cntvct", ARM64, "ticks", "CNTVCT"),
            Clock("cntpct", ARM64, "ticks", "CNTPCT"),
        )
    }
)


def clocks_of(arch: str) -> tuple[str, ...]:
    """The clocks that a guest of this architecture has."""
    return tuple(name for name, clock in CLOCKS.items() if clock.arch == arch)
