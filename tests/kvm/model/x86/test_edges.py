"""Where a rule ends: each edge from both sides, to the cycle or the nanosecond."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from tests.kvm.model.x86.bench import TSC, Bench, S, vm_with

from guestclock.arith import clocks_calc_mult_shift, clocksource_cyc2ns, nsec_to_cycles
from guestclock.kvm.api import Host
from guestclock.machine import HostSpec
from guestclock.sim import Event, State, watching

KHZ = 2_596_122
HZ = KHZ * 1000
MS = 1_000_000
FIRST = 5 * HZ


def matched(kernel: str, data: int, wait_ns: int, spec: HostSpec | None = None) -> bool:
    """Whether vCPU 1's write of `data` matches vCPU 0's of 5 s made `wait_ns` before."""
    bench = Bench(kernel, spec or HostSpec())

    async def writes(host: Host) -> None:
        vm = await vm_with(host, 2)
        await vm.vcpus[0].set_msr(TSC, FIRST)
        await host.wait(wait_ns)
        await vm.vcpus[1].set_msr(TSC, data)

    bench.run(writes)
    return bench.vcpu(0).l1_tsc_offset == bench.vcpu(1).l1_tsc_offset


@pytest.mark.parametrize("kernel", ["linux-4.12", "linux-6.1", "linux-6.12", "linux-7.2"])
@pytest.mark.parametrize("wait_ns", [0, 10 * S])
def test_the_window_is_open_at_both_ends(kernel: str, wait_ns: int) -> None:
    state = Bench(kernel)
    state.run(lambda host: vm_with(host, 1))
    vcpu = state.vcpu(0)
    mult, shift = clocks_calc_mult_shift(KHZ)
    elapsed_ns = clocksource_cyc2ns(wait_ns // S * HZ, mult, shift)
    expected = FIRST + nsec_to_cycles(elapsed_ns, vcpu.virtual_tsc_mult, vcpu.virtual_tsc_shift)
    written = (expected - HZ, expected - HZ + 1, expected + HZ - 1, expected + HZ)
    # Two floors of the raw clock: a nanosecond more or less may have passed, and the edges move by its cycles.
    slack = 0 if wait_ns == 0 else 3
    moved = (written[0] - slack, written[1] + slack, written[2] - slack, written[3] + slack)
    assert [matched(kernel, data, wait_ns) for data in moved] == [False, True, True, False]


@pytest.mark.parametrize("kernel", ["linux-2.6.37", "linux-2.6.37+exact5"])
def test_five_seconds_are_five(kernel: str) -> None:
    assert [matched(kernel, FIRST, wait_ns) for wait_ns in (4_999_999_000, 5_000_001_000)] == [True, False]


def test_close5_takes_values_less_than_five_seconds_apart() -> None:
    five = FIRST + 5 * HZ
    assert [matched("linux-2.6.37", data, 0) for data in (five - 1, five)] == [True, False]
    assert not matched("linux-2.6.37+exact5", FIRST + 1, 0)


def test_usdiff_reckons_in_whole_microseconds() -> None:
    assert matched("linux-3.4", FIRST + HZ // 2, S // 2)
    assert [matched("linux-3.4", FIRST, wait_ns) for wait_ns in (999 * MS, 1000 * MS + 1000)] == [True, False]


def test_a_match_gives_the_offset_of_the_generation() -> None:
    assert matched("linux-6.12", FIRST + HZ // 3, S // 10)


def test_on_an_unstable_tsc_the_attribute_matches_what_was_applied_last() -> None:
    """There a matched write computes an offset of its own, so the last offset is not the generation's."""
    bench = Bench(spec=HostSpec(clocksource="hpet", tsc_unstable=True))

    async def writes(host: Host) -> None:
        vm = await vm_with(host, 3)
        a, b, c = vm.vcpus
        await a.set_msr(TSC, FIRST)
        await host.wait(S // 4)
        await b.set_msr(TSC, FIRST)
        await c.set_tsc_offset(await b.get_tsc_offset())

    bench.run(writes)
    assert bench.vm.last_tsc_offset != bench.vm.cur_tsc_offset
    assert bench.vm.nr_vcpus_matched_tsc == 2


def test_a_new_generation_under_the_masterclock_asks_for_a_snapshot_since_6_8() -> None:
    asked = {}
    for kernel in ("linux-3.8", "linux-6.7", "linux-6.8"):
        bench = Bench(kernel)

        async def far_write(host: Host) -> None:
            vm = await vm_with(host, 1)
            await vm.vcpus[0].run()
            await vm.vcpus[0].set_msr(TSC, 100 * HZ)

        bench.run(far_write)
        assert bench.vm.use_master_clock
        asked[kernel] = bench.vcpu(0).req_masterclock_update
    assert asked == {"linux-3.8": False, "linux-6.7": True, "linux-6.8": True}


def test_no_vcpu_is_in_its_guest_while_a_snapshot_is_taken() -> None:
    bench = Bench(step_ns=1000)
    seen: list[bool] = []

    def look(event: Event) -> None:
        if event.name == "kvm_update_master_clock":
            seen.append(any(v.in_guest for v in bench.vm.vcpus) if bench.kvm.vms else False)

    bench.kvm.host.emit = look

    async def set_clock_while_running(host: Host) -> None:
        vm = await vm_with(host, 2)
        for vcpu in vm.vcpus:
            await vcpu.start()
        await host.wait(200 * MS)
        assert any(v.in_guest for v in bench.vm.vcpus)
        for _ in range(3):
            await vm.set_clock(7 * S)
            await host.wait(10 * MS)
        for vcpu in vm.vcpus:
            await vcpu.kick()

    bench.run(set_clock_while_running)
    assert len(seen) >= 4
    assert not any(seen)


class Writes:
    """The fields of pages, in the order in which they were written."""

    def __init__(self) -> None:
        self.made: list[tuple[str, Any]] = []

    def name(self, state: State) -> str:
        return ""

    def read(self, state: State, name: str) -> None:
        pass

    def write(self, state: State, name: str, value: Any) -> None:
        if "version" in state.fields and "system_time" in state.fields:
            self.made.append((name, value))


def by_protocol(made: Iterable[tuple[str, Any]]) -> bool:
    """Whether each body stands between an odd version and the even one after it."""
    version = 0
    for name, value in made:
        if name == "version":
            if value not in (0, version + 1):
                return False
            version = value
        elif version % 2 == 0 and version > 0:
            return False
    return version % 2 == 0


def test_a_page_is_written_between_an_odd_and_an_even_version() -> None:
    observer = Writes()
    with watching(observer):
        bench = Bench()

        async def run_twice(host: Host) -> None:
            vm = await vm_with(host, 1)
            await vm.vcpus[0].run()
            await vm.set_clock(S)
            await vm.vcpus[0].run()

        bench.run(run_twice)
    assert [value for name, value in observer.made if name == "version" and value] == [1, 2, 3, 4]
    assert by_protocol(observer.made)
    assert not by_protocol([("version", 2), ("system_time", 5)])


def test_without_a_masterclock_the_pages_time_is_read_after_its_tsc() -> None:
    bench = Bench(section_ns=50)

    async def unmatched(host: Host) -> None:
        vm = await vm_with(host, 2)
        await vm.vcpus[0].set_tsc_offset(0)
        await vm.vcpus[1].set_tsc_offset(1)
        await vm.vcpus[0].run()
        await vm.vcpus[0].run()

    bench.run(unmatched)
    page = bench.vcpu(0).pv_time
    assert page.flags == 0
    at_tsc_ns = bench.machine.timekeeper.raw_ns(page.tsc_timestamp) + bench.vm.kvmclock_offset
    assert page.system_time - at_tsc_ns in (50, 51)


def test_a_page_is_scaled_anew_when_the_rate_changes() -> None:
    bench = Bench(spec=HostSpec(tsc_khz=3_000_000, tsc_scaling="vmx"))

    async def slower(host: Host) -> tuple[int, int]:
        vm = await vm_with(host, 1)
        (vcpu,) = vm.vcpus
        await vcpu.run()
        before = bench.vcpu(0).pv_time.tsc_to_system_mul
        await vcpu.set_tsc_khz(2_500_000)
        await vm.set_clock(0)
        await vcpu.run()
        return before, bench.vcpu(0).pv_time.tsc_to_system_mul

    assert bench.run(slower) == (0xAAAAAAAA, 0xCCCCD22B)  # 2 499 999 kHz: kvm-x86.md 9.2


def test_set_clock_is_exact_at_its_snapshot_however_long_it_takes() -> None:
    bench = Bench(section_ns=700)

    async def set_clock(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].run()
        await vm.set_clock(10 * S)

    bench.run(set_clock)
    assert bench.vm.master_kernel_ns + bench.vm.kvmclock_offset == 10 * S


@pytest.mark.parametrize(("ahead_ns", "moved_ns"), [(-3 * S, 3 * S), (3 * S, 0)])
def test_realtime_moves_a_restored_clock_forwards_only(ahead_ns: int, moved_ns: int) -> None:
    """ahead_ns: how far the snapshot's REALTIME is ahead of this host's."""
    bench = Bench()

    async def restore(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].run()
        await vm.set_clock(10 * S, 4, await host.read_clock("realtime") + ahead_ns)

    bench.run(restore)
    assert bench.vm.master_kernel_ns + bench.vm.kvmclock_offset == 10 * S + moved_ns


def test_every_page_is_asked_for_again_100_ms_after_the_first_run() -> None:
    async def versions(host: Host) -> list[int]:
        vm = await vm_with(host, 1)
        (vcpu,) = vm.vcpus
        found = []
        for wait_ns in (0, 90 * MS, 30 * MS):
            await host.wait(wait_ns)
            await vcpu.run()
            found.append(bench.vcpu(0).pv_time.version)
        return found

    bench = Bench()
    assert bench.run(versions) == [2, 2, 4]
