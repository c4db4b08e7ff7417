"""Who writes a random program, and within which limits: what is the same on every architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

Step = dict[str, Any]
Verbs = list[tuple[int, Callable[[], Step | list[Step]]]]

NS_PER_S = 10**9


@dataclass(frozen=True)
class Limits:
    """What a kind of host can do, and how near to edges a program may go.

    edge_ns: values are written this far from the edges of KVM's 1 s window at the nearest: further than a call is late
    as a rule; a run whose own instants leave the outcome open is recognised as such and not counted as a difference.
    tsc_khz: an x86 host's. counter_hz: an arm64 host's. counter_offset: KVM_ARM_SET_COUNTER_OFFSET is there.
    """

    arch: str = "x86_64"
    vcpus: int = 4
    steps: int = 24
    edge_ns: int = 20_000_000
    tsc_khz: int = 2_596_122
    counter_hz: int = 62_500_000
    offset_attribute: bool = True
    counter_offset: bool = True
    tsc_khz_upwards: bool = True
    clocksource_switch: bool = False
    long_waits: bool = False
    sleep: bool = False


class Author:
    """Writes one program. It knows how many vCPUs there are and which values have been written, nothing else."""

    def __init__(self, rng: Random, limits: Limits) -> None:
        self.rng, self.limits = rng, limits
        self.vcpus = rng.randint(1, 2)
        self.saves = 0

    def program(self) -> dict[str, Any]:
        """A whole one; at its end every vCPU runs, and reads its clocks."""
        head = self.head()
        steps = [step for _ in range(self.rng.randint(6, self.limits.steps)) for step in self.next()]
        steps += [self.entry("vmm", "run", "every vCPU runs"), self.entry("guest", "read", "every vCPU reads")]
        return {"program": "steps", **head, "steps": steps}

    def head(self) -> dict[str, Any]:
        """What a program says before its steps: the VM it begins with."""
        raise NotImplementedError

    def verbs(self) -> Verbs:
        """What may come next, with weights."""
        return [(5, self.run), (3, self.read), (2, self.wait)]

    def next(self) -> list[Step]:
        """The next step, or a few that belong together."""
        verbs = self.verbs()
        written = self.rng.choices([v for _, v in verbs], [w for w, _ in verbs])[0]()
        return written if isinstance(written, list) else [written]

    def entry(self, actor: str, do: str, say: str, **keys: Any) -> Step:
        return {"actor": actor, "do": do, "say": say, **keys}

    def saved_as(self) -> str:
        """A name for a value that is saved."""
        self.saves += 1
        return f"s{self.saves}"

    def one(self) -> int:
        return self.rng.randrange(self.vcpus)

    def some(self) -> list[int]:
        chosen = [i for i in range(self.vcpus) if self.rng.random() < 0.6]
        return self.rng.sample(chosen, len(chosen)) or [self.one()]

    # ---- verbs of any architecture

    def run(self) -> Step:
        chosen = self.some()
        return self.entry("vmm", "run", f"vCPUs {chosen} run", vcpus=chosen)

    def read(self) -> Step:
        chosen = self.some()
        return self.entry("guest", "read", f"vCPUs {chosen} read", vcpus=chosen)

    def short_wait(self) -> Step:
        """What a vCPU that stays in its guest can afford: each of its instructions is emulated."""
        ns = self.rng.randint(0, 3_000_000)
        return self.entry("vmm", "wait", f"{ns} ns pass", value=[["ns", ns]])

    def wait(self) -> Step:
        ns = self.rng.randint(0, 3_000_000)
        if self.limits.long_waits and self.rng.random() < 0.5:
            ns = self.rng.randint(200_000_000, 2 * NS_PER_S)
        return self.entry("vmm", "wait", f"{ns} ns pass", value=[["ns", ns]])

    def create_vcpu(self) -> Step:
        self.vcpus += 1
        return self.entry("vmm", "create-vcpu", f"vCPU {self.vcpus - 1} is created", count=1)
