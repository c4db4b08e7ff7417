"""What a guest makes of its page: kvm-x86.md 1.4, its vectors, and the version protocol under every interleaving."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.abi.pvclock import PvclockVcpuTimeInfo, PvclockWallClock
from guestclock.arith import S64_MAX, U64_MAX
from guestclock.guest import LastValue, PvclockReader, kvmclock_ns, read_kvmclock, tsc_khz, vdso_ns, wall_clock_ns
from guestclock.sim import Scheduler, Timeline, cp

PAGE = PvclockVcpuTimeInfo(2, 1_000, 5_000, 0xC5379CA5, -1, 1)


@pytest.mark.parametrize(
    ("cycles", "ns"),
    [(0, 0), (1, 0), (2, 0), (3, 0), (4, 1), (2_596_122_000, 999_999_999), (2_596_122_000 * 86400, 86399999975017)],
)
def test_vectors_of_section_9_1(cycles: int, ns: int) -> None:
    assert kvmclock_ns(PAGE, 1_000 + cycles) == 5_000 + ns


def test_one_cycle_before_the_timestamp_is_225_years_ahead() -> None:
    assert kvmclock_ns(PAGE, 999) == 5_000 + 7105499690837213183


def test_a_tsc_that_wrapped_goes_on() -> None:
    page = PvclockVcpuTimeInfo(2, U64_MAX, 5_000, 0x80000000, 1, 1)
    assert kvmclock_ns(page, 9) == 5_010


@given(st.integers(0, U64_MAX), st.integers(0, U64_MAX))
def test_vdso_and_kernel_agree_below_2_to_the_63(tsc: int, system_time: int) -> None:
    page = PvclockVcpuTimeInfo(2, 0, system_time, 0x80000000, 1, 1)
    assert vdso_ns(page, tsc) == kvmclock_ns(page, tsc) % (S64_MAX + 1)


def test_without_stable_the_vdso_falls_back() -> None:
    assert vdso_ns(PvclockVcpuTimeInfo(2, 0, 0, 0x80000000, 1, 2), 5) is None


@pytest.mark.parametrize(("khz", "seen"), [(2_499_999, 2_499_998), (2_596_123, 2_596_122), (3_000_001, 3_000_000)])
def test_a_guest_sees_only_even_khz_from_2_to_4_ghz(khz: int, seen: int) -> None:
    from guestclock.arith import kvm_get_time_scale

    shift, mul = kvm_get_time_scale(10**9, khz * 1000)
    assert tsc_khz(PvclockVcpuTimeInfo(2, 0, 0, mul, shift, 1)) == seen


def test_wall_clock() -> None:
    assert wall_clock_ns(PvclockWallClock(2, 1_760_000_000, 999_999_999), 3) == 1_760_000_001 * 10**9 + 2


def test_last_value_holds_what_was_given_out_until_a_resume() -> None:
    last = LastValue()
    assert [last.clamp(ns) for ns in (5, 3, 5, 8, 7)] == [5, 5, 5, 8, 8]
    last.resume()
    assert last.clamp(1) == 1


# ---- the reader


@dataclass
class Memory:
    """A page in memory that a writer changes field by field."""

    version: int = 2
    tsc_timestamp: int = 0
    system_time: int = 0
    tsc_to_system_mul: int = 0x80000000
    tsc_shift: int = 1
    flags: int = 1


def read_while(memory: Memory, tsc: int, *, writer_after: int, gaps: tuple[int, ...], torn: bool = False) -> int:
    """One read; a writer that adds 1000 to timestamp and time begins after so many ps, with gaps between its stores."""
    scheduler = Scheduler(Timeline(), step_ps=10)
    got = []

    async def read() -> None:
        got.append(await read_kvmclock(memory, lambda: tsc))

    async def write() -> None:
        await cp("wait", delay_ps=writer_after)
        if not torn:
            memory.version += 1
        await cp("odd", delay_ps=gaps[0])
        memory.tsc_timestamp += 1_000
        await cp("torn", delay_ps=gaps[1])
        memory.system_time += 1_000
        await cp("written", delay_ps=gaps[2])
        if not torn:
            memory.version += 1

    scheduler.spawn("reader", read())
    scheduler.spawn("writer", write())
    scheduler.run()
    return int(got[0][0])


WHEN = list(product(range(0, 45, 3), product((0, 4, 11, 25), repeat=3)))


def test_the_version_protocol_never_lets_a_torn_page_through() -> None:
    assert {read_while(Memory(), 5_000, writer_after=after, gaps=gaps) for after, gaps in WHEN} == {5_000}


def test_without_versions_the_same_writer_tears_the_page() -> None:
    torn = {read_while(Memory(), 5_000, writer_after=after, gaps=gaps, torn=True) for after, gaps in WHEN}
    assert torn != {5_000}


@pytest.mark.parametrize(("known", "flags", "given"), [(True, 1, 100), (True, 0, 900), (False, 1, 900), (True, 3, 100)])
def test_last_value_is_used_unless_stable_may_be_believed(known: bool, flags: int, given: int) -> None:
    last = LastValue(last_ns=900)
    scheduler = Scheduler(Timeline())
    got = []

    async def read() -> None:
        memory = Memory(flags=flags)
        got.append(await PvclockReader(stable_bit_known=known).read(memory, lambda: 100, last))

    scheduler.spawn("reader", read())
    scheduler.run()
    assert got == [given]
