"""The machine on values that are not ints: what it shows on them is what it shows on ints (engine-spike, section 4)."""

from __future__ import annotations

import operator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestclock.machine import Arm64Machine, Arm64Spec, HostSpec, X86Machine
from guestclock.sim import Timeline


class Unknown:
    """An int that can only do what a form over unknown event times can."""

    __hash__ = None
    __bool__ = None

    def __init__(self, value):
        self.value = value

    def wrap_u64(self):
        return Unknown(self.value % 2**64)

    def wrap_s64(self):
        return Unknown((self.value + 2**63) % 2**64 - 2**63)

    def __neg__(self):
        return Unknown(-self.value)


def known(value):
    return value.value if isinstance(value, Unknown) else value


def concrete_only(op):
    def apply(self, other):
        assert type(other) is int, f"{op.__name__} of two unknowns"
        return Unknown(op(self.value, other))

    return apply


for name in ("add", "sub"):
    op = getattr(operator, name)
    setattr(Unknown, f"__{name}__", lambda self, other, op=op: Unknown(op(self.value, known(other))))
    setattr(Unknown, f"__r{name}__", lambda self, other, op=op: Unknown(op(known(other), self.value)))
for name in ("mul", "floordiv", "lshift", "rshift"):
    setattr(Unknown, f"__{name}__", concrete_only(getattr(operator, name)))
Unknown.__rmul__ = Unknown.__mul__
for name in ("lt", "le", "gt", "ge"):
    op = getattr(operator, name)
    setattr(Unknown, f"__{name}__", lambda self, other, op=op: op(self.value, known(other)))


def life(seed, wrap, **spec):
    """Everything a machine shows in a random life whose times are wrapped."""
    rng = Random(seed)
    timeline = Timeline()
    machine = X86Machine(timeline, HostSpec(cpus=2, clocksources=("tsc", "hpet", "hyperv"), **spec))
    seen = []
    for _ in range(12):
        timeline.now_ps = wrap(known(timeline.now_ps) + rng.randint(0, 10**13))
        what = rng.randrange(7)
        if what == 0:
            machine.adjust_frequency(rng.randint(-500_000, 500_000))
        elif what == 1:
            machine.step_realtime(rng.randint(-(10**9), 10**9))
        elif what == 2:
            machine.set_clocksource(rng.choice(["tsc", "hpet", "hyperv"]))
        elif what == 3:
            lid = machine.sleep(rng.randint(0, 10**11), tsc=rng.choice(["running", "stopped", "reset"]))
            for point in lid.__await__():  # by hand: the concrete scheduler's heap cannot order unknown times
                timeline.now_ps = timeline.now_ps + (point[2] or 0)
        for clock in ("tsc", "monotonic", "monotonic_raw", "realtime", "boottime"):
            seen.append(known(machine.read_clock(clock, cpu=1)))
        for pair in (machine.get_time_and_clockread("raw", 1), machine.get_realtime_and_clockread(1)):
            seen.append(None if pair is None else tuple(known(v) for v in pair))
    return seen


SPECS = [
    {},
    {"skew": (0, -100_000)},
    {"hz": 300},
    {"nonstop_tsc": True, "tsc_hz": 2_596_000_123},
    {"rtc_grain_ns": 0, "hz": 1000},
]


def life_on_arm64(seed, wrap, **spec):
    rng = Random(seed)
    timeline = Timeline()
    machine = Arm64Machine(timeline, Arm64Spec(cpus=2, **spec))
    seen = []
    for _ in range(12):
        timeline.now_ps = wrap(known(timeline.now_ps) + rng.randint(0, 10**13))
        what = rng.randrange(4)
        if what == 0:
            machine.adjust_frequency(rng.randint(-500_000, 500_000))
        elif what == 1:
            machine.step_realtime(rng.randint(-(10**9), 10**9))
        elif what == 2:
            for point in machine.sleep(rng.randint(0, 10**11)).__await__():
                timeline.now_ps = timeline.now_ps + (point[2] or 0)
        for clock in ("counter", "monotonic", "monotonic_raw", "realtime", "boottime"):
            seen.append(known(machine.read_clock(clock, cpu=1)))
        seen.append(tuple(known(v) for v in machine.ktime_get_snapshot(1)))
    return seen


@settings(deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from([{}, {"counter_hz": 24_000_000}, {"hz": 300, "true_hz": 62_500_123}])
)  # fmt: skip
def test_unknown_times_give_the_same_readings_on_arm64(seed, spec):
    assert life_on_arm64(seed, Unknown, **spec) == life_on_arm64(seed, lambda ps: ps, **spec)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(SPECS))
def test_unknown_times_give_the_same_readings(seed, spec):
    assert life(seed, Unknown, **spec) == life(seed, lambda ps: ps, **spec)


@pytest.mark.parametrize(
    "wrong", [lambda t: t % 10, lambda t: t & 1, lambda t: int(t), lambda t: t * t, lambda t: {t: 1}, lambda t: t / 2]
)
def test_what_a_form_cannot_do_an_unknown_cannot(wrong):
    with pytest.raises((TypeError, AssertionError)):
        wrong(Unknown(5))
