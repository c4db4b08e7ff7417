"""Random programs for `vmm.steps`: short, and rich in what the matching rules and the masterclock react to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

Step = dict[str, Any]

NS_PER_S = 10**9
# Values are written this far from the edges of the 1 s window at the nearest: further than a preempted thread is late
# as a rule; a run whose own instants leave the outcome open is recognised as such and not counted.
EDGE_NS = 20_000_000


@dataclass(frozen=True)
class Limits:
    """What a kind of host can do."""

    vcpus: int = 4
    steps: int = 24
    tsc_khz: int = 2_596_122
    offset_attribute: bool = True
    tsc_khz_upwards: bool = True
    clocksource_switch: bool = False
    long_waits: bool = False


class Author:
    """Writes one program. It knows how many vCPUs there are and which values have been written, nothing else."""

    def __init__(self, rng: Random, limits: Limits) -> None:
        self.rng, self.limits = rng, limits
        self.vcpus = rng.randint(1, 2)
        self.written_ns = [0]
        self.offsets = [rng.randrange(-(2**40), 2**40) for _ in range(2)]

    def program(self) -> dict[str, Any]:
        first = self.vcpus
        kvmclock = "old" if self.rng.random() < 0.1 else "new"
        boot = self.rng.random() < 0.7
        steps = [self.step() for _ in range(self.rng.randint(6, self.limits.steps))]
        steps += [self.entry("vmm", "run", "every vCPU runs"), self.entry("guest", "read", "every vCPU reads")]
        return {"program": "steps", "vcpus": first, "kvmclock": kvmclock, "boot": boot, "steps": steps}

    def step(self) -> Step:
        verbs: list[tuple[int, Callable[[], Step]]] = [
            (6, self.set_tsc),
            (5, self.run),
            (3, self.read),
            (2, self.wait),
            (2, self.set_clock),
            (1, self.write_tsc),
            (1, self.write_tsc_adjust),
            (1, self.kvmclock_ctrl),
            (1, self.clear_stopped),
        ]
        if self.vcpus < self.limits.vcpus:
            verbs.append((2, self.create_vcpu))
        if self.limits.offset_attribute:
            verbs.append((3, self.set_tsc_offset))
        if self.limits.tsc_khz_upwards:
            verbs.append((1, self.set_tsc_khz))
        if self.limits.clocksource_switch:
            verbs.append((1, self.clocksource))
        return self.rng.choices([v for _, v in verbs], [w for w, _ in verbs])[0]()

    def entry(self, actor: str, do: str, say: str, **keys: Any) -> Step:
        return {"actor": actor, "do": do, "say": say, **keys}

    def one(self) -> int:
        return self.rng.randrange(self.vcpus)

    def some(self) -> list[int]:
        chosen = [i for i in range(self.vcpus) if self.rng.random() < 0.6]
        return self.rng.sample(chosen, len(chosen)) or [self.one()]

    def value_ns(self) -> int:
        """0, near the last written value, on either side of its 1 s window, or far away."""
        last = self.written_ns[-1]
        near = self.rng.randint(-NS_PER_S + EDGE_NS, NS_PER_S - EDGE_NS)
        outside = self.rng.choice((-1, 1)) * self.rng.randint(NS_PER_S + EDGE_NS, 3 * NS_PER_S)
        pick = self.rng.random()
        if pick < 0.15:
            return 0
        if pick < 0.45:
            return abs(last + near)
        if pick < 0.65:
            return abs(last + outside)
        if pick < 0.85:
            return self.rng.choice(self.written_ns)
        return self.rng.randint(0, 10**6 * NS_PER_S)

    # ---- verbs

    def set_tsc(self) -> Step:
        i, ns = self.one(), self.value_ns()
        self.written_ns.append(ns)
        return self.entry("vmm", "set-tsc", f"vCPU {i}: MSR_IA32_TSC := {ns} ns", vcpus=[i], value=[["ns", ns]])

    def set_tsc_offset(self) -> Step:
        i = self.one()
        offset = self.rng.choice(self.offsets) + (self.rng.random() < 0.2)
        return self.entry("vmm", "set-tsc-offset", f"vCPU {i}: offset := {offset}", vcpus=[i], value=[["int", offset]])

    def set_tsc_khz(self) -> Step:
        i, host = self.one(), self.limits.tsc_khz
        khz = self.rng.choice([host, host + host // 10_000, host + host // 5])
        return self.entry("vmm", "set-tsc-khz", f"vCPU {i}: {khz} kHz", vcpus=[i], khz=khz)

    def run(self) -> Step:
        chosen = self.some()
        return self.entry("vmm", "run", f"vCPUs {chosen} run", vcpus=chosen)

    def read(self) -> Step:
        chosen = self.some()
        return self.entry("guest", "read", f"vCPUs {chosen} read", vcpus=chosen)

    def wait(self) -> Step:
        ns = self.rng.randint(0, 3_000_000)
        if self.limits.long_waits and self.rng.random() < 0.5:
            ns = self.rng.randint(200_000_000, 2 * NS_PER_S)
        return self.entry("vmm", "wait", f"{ns} ns pass", value=[["ns", ns]])

    def set_clock(self) -> Step:
        ns = self.rng.choice([0, self.rng.randint(0, 10**15)])
        return self.entry("vmm", "set-clock", f"KVM_SET_CLOCK {ns}", value=[["int", ns]])

    def write_tsc(self) -> Step:
        i, ns = self.one(), self.value_ns()
        say = f"guest on vCPU {i}: WRMSR TSC {ns} ns"
        return self.entry("guest", "write-tsc", say, vcpus=[i], value=[["ns", ns]])

    def write_tsc_adjust(self) -> Step:
        i, cycles = self.one(), self.rng.randrange(-(2**32), 2**32)
        say = f"guest on vCPU {i}: WRMSR TSC_ADJUST {cycles}"
        return self.entry("guest", "write-tsc-adjust", say, vcpus=[i], value=[["int", cycles]])

    def kvmclock_ctrl(self) -> Step:
        i = self.one()
        return self.entry("vmm", "kvmclock-ctrl", f"vCPU {i}: KVM_KVMCLOCK_CTRL", vcpus=[i])

    def clear_stopped(self) -> Step:
        i = self.one()
        return self.entry("guest", "clear-stopped", f"guest on vCPU {i} clears GUEST_STOPPED", vcpus=[i])

    def create_vcpu(self) -> Step:
        self.vcpus += 1
        return self.entry("vmm", "create-vcpu", f"vCPU {self.vcpus - 1} is created", count=1)

    def clocksource(self) -> Step:
        to = self.rng.choice(["hpet", "tsc"])
        return self.entry("host", "clocksource", f"host clocksource := {to}", to=to)


def random_program(seed: int, limits: Limits) -> dict[str, Any]:
    """The program of a seed: the same for the same seed and limits."""
    return Author(Random(f"guestclock compare {seed}"), limits).program()
