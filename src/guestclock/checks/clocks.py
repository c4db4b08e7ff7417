"""The guest's clocks that can be asked about, by architecture: what each is called and counted in."""

from __future__ import annotations

from dataclasses import dataclass

X86_64, ARM64 = "x86_64", "arm64"


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
        return self.unit != "ns"


CLOCKS = {
    clock.name: clock
    for clock in (
        Clock("tsc", X86_64, "cycles", "TSC"),
        Clock("kvmclock", X86_64, "ns", "kvmclock"),
        Clock("cntvct", ARM64, "ticks", "CNTVCT"),
        Clock("cntpct", ARM64, "ticks", "CNTPCT"),
    )
}

COUNTED = ("cycles", "ticks")
"""Units that are a counter's."""


def clocks_of(arch: str) -> tuple[str, ...]:
    """The clocks that a guest of this architecture has."""
    return tuple(name for name, clock in CLOCKS.items() if clock.arch == arch)
