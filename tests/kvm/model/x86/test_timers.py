"""How long delayed works wait: exactly by the wheel, within a range that can be said without knowing the time."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kvm.model.x86.bench import Bench, S, vm_with

from guestclock.kvm.api import Host
from guestclock.kvm.model import lookup
from guestclock.kvm.model.x86 import KvmOptions
from guestclock.kvm.model.x86.timers import KernelTimers
from guestclock.machine import HostSpec, X86Machine
from guestclock.sim import Timeline

NS = [1, 4_000_000, 100_000_000, 60 * S, 300 * S, 40 * 86_400 * S]


@pytest.fixture(autouse=True)
def widths() -> None:
    """No fields here."""


def timers(kernel: str, now_ps: int, latency_ns: int = 0, **spec) -> KernelTimers:
    timeline = Timeline()
    machine = X86Machine(timeline, HostSpec(**spec))
    timeline.now_ps = now_ps
    return KernelTimers(machine, lookup(kernel), latency_ns)


@settings(deadline=None, max_examples=400)
@given(
    st.integers(0, 10**18),
    st.sampled_from(NS),
    st.sampled_from([100, 250, 300, 1000]),
    st.sampled_from(["linux-3.8", "linux-6.12"]),
    st.sampled_from([None, 2_596_000_123, Fraction(10**10, 3)]),
    st.sampled_from([0, 3_000_000]),
)
def test_the_exact_wait_lies_in_the_range(now_ps, ns, hz, kernel, tsc_hz, latency_ns):
    wheel = timers(kernel, now_ps, latency_ns, hz=hz, tsc_hz=tsc_hz)
    least, most = wheel.range_ps(ns)
    assert least <= wheel.delay_ps(ns) <= most


@pytest.mark.parametrize("ns", NS)
@pytest.mark.parametrize("kernel", ["linux-3.8", "linux-6.12"])
def test_the_range_is_not_wider_than_two_jiffies_more_than_what_happens(kernel, ns):
    jiffy_ps = 4 * 10**9
    least, most = timers(kernel, 0).range_ps(ns)
    grain = next(8**level for level in range(9) if level == 8 or -(-ns // 4_000_000) < 63 << 3 * level)
    waits = [timers(kernel, grain * jiffy_ps * i // 40 + 10**18).delay_ps(ns) for i in range(400)]
    slack = grain * jiffy_ps // 40 + 2 * jiffy_ps
    assert min(waits) - slack < least <= min(waits)
    assert max(waits) <= most < max(waits) + slack


def test_no_wait_is_none():
    wheel = timers("linux-6.12", 12_345)
    assert wheel.delay_ps(0) == 0
    assert wheel.range_ps(0) == (0, 0)


def test_the_known_ranges():
    """300 s at HZ 250: up to 16.4 s late (timer_wheel); 100 ms: up to 4 ms... each less a jiffy that has begun."""
    wheel = timers("linux-6.12", 0)
    assert [round(ps / 10**9) for ps in wheel.range_ps(300 * S)] == [300_000, 316_384]
    assert [round(ps / 10**9) for ps in wheel.range_ps(100_000_000)] == [100, 104]
    assert [round(ps / 10**9) for ps in timers("linux-3.8", 0).range_ps(100_000_000)] == [96, 100]


def test_whoever_explores_puts_his_own_in_place():
    asked = []

    class Nominal:
        def delay_ps(self, ns: int) -> int:
            asked.append(ns)
            return ns * 1000

    def ends(own: bool) -> list[int]:
        bench = Bench(options=KvmOptions(work_latency_ns=0))
        if own:
            bench.kvm.host.timers = Nominal()

        async def recipe(host: Host) -> list[int]:
            vm = await vm_with(host, 1)
            await vm.vcpus[0].start()
            seen = [(await vm.vcpus[0].peek()).page.version]
            for _ in range(1050):
                await host.wait(100_000)
                seen.append((await vm.vcpus[0].peek()).page.version)
            return [i for i in range(1, len(seen)) if seen[i] != seen[i - 1]]

        return bench.run(recipe)

    wheel, nominal = ends(False), ends(True)
    assert (nominal[0], wheel[0]) == (1, 1)
    assert nominal[1] in (1000, 1001)
    assert 1000 < wheel[1] <= 1041
    assert sorted(asked) == [100_000_000, 300 * S]
