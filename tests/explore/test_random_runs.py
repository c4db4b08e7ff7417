"""The third opinion: no random integer run, of a toy or of the KVM model, is ever above a proved bound."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from .integers import IntegerWorld, OutOfBounds
from .search import worst_of
from .toy import TOYS, Toy
from .worlds import KHZ, Kvm, bounds, by_value, hotplug, kvm_world, offsets_apart, worst_step_back

# Together 100,000 runs.
RUNS_OF_A_TOY = 2_300
RUNS_BY_VALUE = 3_000
RUNS_OF_HOTPLUG = 1_500

# What random runs cannot be expected to show: the worst of them lies in a corner that is too small.
SELDOM = {"lock-reached-late": 0.9, "time-out-short": 0.6}


@pytest.mark.parametrize("toy", TOYS, ids=lambda t: t.name)
def test_no_random_run_of_a_toy_is_above_its_bound(toy: Toy):
    upper = worst_of(toy.build, toy.bounds, toy.ask).upper
    best = None
    outside = 0
    for seed in range(RUNS_OF_A_TOY):
        try:
            value = toy.ask(IntegerWorld(toy.build, toy.bounds, Random(seed)).run())
        except OutOfBounds:
            outside += 1
            continue
        if value is not None and (best is None or value > best):
            best = value
    assert outside < RUNS_OF_A_TOY // 2
    assert best is not None, "no run shows what is asked for: the comparison is vacuous"
    assert upper is not None
    assert best <= upper
    # And the bound is not idle: random runs come near it.
    assert best >= SELDOM.get(toy.name, 0.98) * float(upper) - 2


@pytest.mark.parametrize(("kernel", "delay_s"), [("linux-4.12", 5), ("linux-6.12", 5), ("linux-6.12", 0.5)])
def test_no_random_restore_by_value_is_above_its_bound(kernel: str, delay_s: float):
    build, limits = kvm_world(by_value, kernel), bounds(delay_s)
    for sign in (1, -1):

        def ask(kvm: Kvm, sign: int = sign) -> Any:
            apart = offsets_apart(kvm)
            return None if apart is None else apart * sign

        upper = worst_of(build, limits, ask).upper
        assert upper is not None
        best = max(ask(IntegerWorld(build, limits, Random(seed)).run()) for seed in range(RUNS_BY_VALUE // 6))
        assert best <= upper
        assert best >= 0.99 * float(upper)


@pytest.mark.parametrize(("kernel", "khz"), [("linux-6.7", KHZ), ("linux-6.8", KHZ), ("linux-6.7", 2_400_000)])
def test_no_random_hotplug_is_above_its_bound(kernel: str, khz: int):
    limits = bounds(1, khz=khz)
    upper, _ = worst_step_back(hotplug, kernel, limits, khz)
    shown = []
    for seed in range(RUNS_OF_HOTPLUG // 3):
        rng = Random(seed)
        world = IntegerWorld(kvm_world(hotplug, kernel, khz), limits, rng)
        shown += steps_back(world.run(), world, rng)
    assert len(shown) > RUNS_OF_HOTPLUG // 4
    assert max(shown) <= upper


def steps_back(kvm: Kvm, world: IntegerWorld, rng: Random) -> list[int]:
    """By how much a reading on one vCPU is behind an earlier one on the other: of random readings in all windows."""
    out = []
    horizon = world.bounds.horizon
    windows = kvm.readable()
    for a in windows:
        for b in windows:
            # Steps of one instant have an order too: what is over when `a` begins is not read after it.
            if a.vcpu != b.vcpu and (b.exit is None or b.exit > a.entry):
                close_a, close_b = (horizon if w.close is None else w.close for w in (a, b))
                first = rng.choice((a.open, close_a, rng.randint(a.open, close_a)))
                if max(first, b.open) <= close_b:
                    then = rng.choice((max(first, b.open), rng.randint(max(first, b.open), close_b)))
                    out.append(kvm.reading(a, world.ps_of(first)) - kvm.reading(b, world.ps_of(then)))
    return out
