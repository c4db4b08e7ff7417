"""Where a clock's line breaks and by how much, from readings that were taken around it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.check import Span, errors, groups, step_at, story
from guestclock.check.lines import rounding_ns
from guestclock.kvm.api import SetTscKhz
from tests.check.hand import Hand, clean

S = 10**9


@pytest.mark.parametrize("sandwich", [0, 9_000])
@pytest.mark.parametrize(
    ("khz", "seconds", "step_ns"),
    [(2_596_122, 100, -4987), (2_596_122, 15, -748), (2_400_000, 1000, 47_777), (3_000_000, 100, -5937)],
)
def test_a_new_snapshot_steps_by_the_drift_between_raw_clock_and_page(
    khz: int, seconds: int, step_ns: int, sandwich: int
) -> None:
    """kvm-x86.md 9.1: -49.868, +47.777 and -59.372 ns/s; -748 ns after 15 s is what a real kernel did."""
    hand = Hand(khz, sandwich=sandwich)
    hand.snapshot()
    hand.look()
    hand.step("time passes")
    hand.wait(seconds * S)
    hand.look()
    step = hand.step("a new snapshot")
    hand.snapshot()
    hand.wait(3_000)
    hand.look()
    told = story(hand.trace)
    assert abs(step_at(told, step, "kvmclock", vcpu=0).exact - step_ns) <= 1  # the floors fall either way
    assert step_at(told, step, "kvmclock", 0) == step_at(told, step, "kvmclock", 1)
    assert step_at(told, step - 1, "kvmclock").exact == 0
    assert 0 in step_at(told, step, "tsc")


def test_the_step_of_kvm_x86_7_1_to_the_nanosecond() -> None:
    hand = Hand()
    hand.host_base = 0
    hand.snapshot()
    hand.look()
    step = hand.step()
    hand.wait(100 * S)
    hand.snapshot()
    hand.look()
    assert step_at(story(hand.trace), step, "kvmclock").exact == -4987


def test_a_tsc_that_was_written_breaks_by_what_was_written() -> None:
    hand = clean(khz=2_596_122)
    step = hand.step("the VMM writes it")
    hand.offset[1] += 2_596_122_000
    hand.look()
    told = story(hand.trace)
    assert step_at(told, step, "tsc", 1).exact == 2_596_122_000
    assert step_at(told, step, "tsc", 0).exact == 0
    assert abs(step_at(told, step, "kvmclock", 1).middle - S) <= 2  # its page is the old one


def test_a_sandwich_widens_what_is_known_of_a_moved_tsc_and_of_the_kvmclock_that_stands_on_it() -> None:
    hand = clean(khz=2_596_122, sandwich=4_000)
    step = hand.step()
    hand.move_tsc(1, 3_000)
    hand.look()
    told = story(hand.trace)
    assert step_at(told, step, "tsc", 1) == Span(3_000 - 8_000, 3_000 + 8_000)
    assert step_at(told, step, "kvmclock", 1) == Span(-1_926, 4_238)  # 3000 cycles are 1155 ns


def test_readings_of_one_line_share_the_narrowest_sandwich() -> None:
    hand = clean(khz=2_596_122, sandwich=4_000)
    hand.sandwich = 10
    hand.step("one good reading")
    hand.look()
    hand.sandwich = 4_000
    hand.step()
    hand.look()
    told = story(hand.trace)
    assert {r.when.counter.width for r in told.readings if r.when.counter} == {20}
    assert all(r.when.counter.middle - 7 <= r.tsc + hand.host_base for r in told.readings if r.when.counter)
    hand.move_tsc(0, 0)
    hand.look()
    last = [r.when.counter for r in story(hand.trace).readings][-2:]
    assert [h.width if h else None for h in last] == [8_000, 20]


def test_a_tsc_that_moves_by_itself_by_more_than_its_sandwiches_is_another_line() -> None:
    hand = clean(khz=2_596_122, sandwich=4_000)
    step = hand.step()
    hand.offset[1] += 9_000
    hand.look()
    assert step_at(story(hand.trace), step, "tsc", 1) == Span(9_000 - 8_000, 9_000 + 8_000)


def test_a_reset_host_tsc_that_kvm_makes_up_for_leaves_the_guest_behind_by_the_sleep() -> None:
    hand = clean()
    step = hand.step("the lid closes")
    hand.sleep_with_reset(60 * S)
    hand.look()
    lost = step_at(story(hand.trace), step, "tsc", 0)
    assert -60 * S in lost
    assert lost.width <= 2


def test_scaled_tscs_go_on_through_the_ratio_without_a_break() -> None:
    hand = Hand(3_000_000, frac_bits=48)
    for vcpu in range(2):
        hand.set_khz(vcpu, 2_500_000)
    hand.snapshot(page_khz=2_499_999)
    hand.look()
    step = hand.step()
    hand.wait(1000 * S)
    hand.look()
    told = story(hand.trace)
    assert step_at(told, step, "tsc").exact == 0
    assert step_at(told, step, "kvmclock").exact == 0


def test_a_leap_of_2_to_the_62_and_more_is_a_leap_ahead() -> None:
    """kvm-x86.md 7.5: the page gets tsc_timestamp 0xc000..., the guest reads a u64."""
    hand = clean(khz=3_000_000)
    step = hand.step("a negative catchup delta")
    hand.offset[1] += 0xC000000000000000
    hand.snapshot(1)
    hand.look()
    assert step_at(story(hand.trace), step, "tsc", 1).exact == 0xC000000000000000


def test_groups_of_vcpus() -> None:
    hand = clean(vcpus=4)
    hand.step()
    hand.offset[1] -= 1_100_000_000
    hand.offset[3] -= 1_100_000_000
    hand.look()
    found = groups(told := story(hand.trace), told.looks[-1], "tsc")
    assert [(g.vcpus, g.ahead.exact) for g in found] == [((0, 2), 0), ((1, 3), -1_100_000_000)]
    assert [g.vcpus for g in groups(told, told.looks[-2], "kvmclock")] == [(0, 1, 2, 3)]


def test_kvmclocks_of_two_snapshots_are_compared_at_one_tsc() -> None:
    hand = Hand()
    hand.snapshot(0)
    hand.wait(100 * S)
    hand.snapshot(1)
    hand.wait(S)
    hand.look()
    told = story(hand.trace)
    (_, other) = groups(told, told.looks[-1], "kvmclock")
    assert other.vcpus == (1,)
    assert abs(other.ahead.exact + 4987) <= 2


@given(
    khz=st.integers(1_000_000, 4_000_000),
    first=st.integers(0, 2**60),
    apart=st.integers(0, 10**12),
    later=st.integers(0, 10**12),
)
def test_truncation_explains_no_more_than_rounding_ns(khz: int, first: int, apart: int, later: int) -> None:
    """Two pages made from one ideal line of the page's own rate differ by no more than that, wherever they are read."""
    hand = Hand(khz)
    hand.snapshot()
    page, _ = hand.pages
    assert page is not None
    shift = 32 - page.tsc_shift
    ideal = [(t * page.tsc_to_system_mul) >> shift for t in (first, first + apart)]
    read = []
    from guestclock.guest import kvmclock_ns

    for timestamp, system_time in zip((first, first + apart), ideal, strict=True):
        hand.change(0, tsc_timestamp=timestamp, system_time=system_time)
        made = hand.pages[0]
        assert made is not None
        read.append(kvmclock_ns(made, first + apart + later))
    assert abs(read[1] - read[0]) <= rounding_ns(page)


def test_errors_are_zero_at_the_first_reading_and_show_the_break_upright() -> None:
    hand = Hand()
    hand.snapshot()
    hand.look()
    hand.step()
    hand.wait(100 * S)
    hand.snapshot()
    hand.look()
    points = errors(story(hand.trace), "kvmclock")[0, 0]
    assert points[0].error_ns == Span(0, 0)
    assert points[0].before_ns is None
    before = points[1].before_ns
    assert before is not None
    assert abs(before.middle + 29) <= 2  # mul is truncated: -0.289 ns/s
    assert abs(points[1].error_ns.middle + 29 + 4987) <= 3


def test_a_tsc_that_kvm_brings_forward_is_left_as_it_was_read() -> None:
    """KVM_SET_TSC_KHZ above the host's rate, without scaling: every entry may move that TSC."""
    hand = Hand(sandwich=4_000)
    hand.op(SetTscKhz(0, 3_000_000, 1), None)
    hand.look()
    hand.sandwich = 10
    hand.look()
    widths = [r.when.counter.width for r in story(hand.trace).readings if r.when.counter]
    assert widths == [20, 8_000, 20, 20]


def test_without_the_tsc_as_clocksource_no_line_is_taken_to_go_on() -> None:
    hand = clean(sandwich=4_000)
    hand.trace.meta["clocksource"] = "hpet"
    hand.sandwich = 10
    hand.look()
    widths = {r.when.counter.width for r in story(hand.trace).readings if r.when.counter}
    assert widths == {8_000, 20}
