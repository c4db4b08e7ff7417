"""Which watchdogs bite over a jump, from which length on, and what keeps them quiet."""

from __future__ import annotations

import pytest

from guestclock.linux.watchdogs import HungTask, RcuStall, SoftLockup, WorkqueueStall, over_a_jump

SECOND = 10**9
ALL = ("soft lockup", "hung task", "RCU stall", "workqueue stall")


@pytest.mark.parametrize(
    ("seconds", "reports"),
    [
        (10, ()),
        (20.9, ()),
        (21, ("RCU stall",)),
        (22.5, ("RCU stall",)),  # soft lockup's seconds are of 2^30 ns: 20.96 of them
        (22.6, ("soft lockup", "RCU stall")),  # 21.05
        (25, ("soft lockup", "RCU stall")),
        (31, ("soft lockup", "RCU stall", "workqueue stall")),
        (130, ALL),
        (650, ALL),
        (1000, ALL),
        (100_000, ALL),
    ],
)
def test_stock_over_a_sleep_of_so_long(seconds, reports):
    """MONOTONIC and sched_clock both jump: a guest whose TSC ran on."""
    ns = int(seconds * SECOND)
    told = over_a_jump(hz=250, sched_clock_ns=ns, monotonic_ns=ns)
    assert told == reports
    assert over_a_jump(hz=250, sched_clock_ns=ns, monotonic_ns=ns, paused=True) == ()
    assert over_a_jump(hz=250, sched_clock_ns=0, monotonic_ns=0) == ()


def test_they_do_not_look_at_one_clock():
    """cs=tsc hidden and sched_clock=kvmclock not, or the other way round."""
    assert over_a_jump(hz=250, sched_clock_ns=600 * SECOND, monotonic_ns=0) == ("soft lockup",)
    assert over_a_jump(hz=250, sched_clock_ns=0, monotonic_ns=600 * SECOND) == ALL[1:]


def test_a_soft_lockup_is_reported_after_more_than_20_units_of_2_to_the_30_ns():
    dog = SoftLockup()
    dog.feed(5 * SECOND)
    assert dog.look((4 + 20 << 30) + (1 << 30) - 1) == 0
    assert dog.look(4 + 21 << 30) == 21
    assert dog.look(4 + 41 << 30) == 0, "each report begins a period"
    assert dog.look(4 + 42 << 30) == 42
    dog.feed(50 << 30)
    assert dog.look(60 << 30) == 0


def test_guest_stopped_excuses_one_cpu_for_one_period():
    dog = SoftLockup()
    assert dog.look(600 << 30, paused=True) == 0
    assert dog.look(604 << 30) == 0
    assert dog.look(621 << 30) == 621, "nobody has fed it since"


def test_a_hung_task_needs_two_looks_that_see_it():
    dog = HungTask(hz=250)
    assert dog.due() == 120 * 250
    assert dog.look(120 * 250) == 0
    assert dog.look(239 * 250) == 0
    assert dog.look(240 * 250) == 120
    reset = HungTask(hz=250, seen=True, reset=True)
    assert reset.look(600 * 250) == 0
    assert reset.look(720 * 250) == 720


def test_an_rcu_stall_and_its_reset():
    stall = RcuStall(hz=250)
    stall.begin(1000)
    assert stall.look(1000 + 21 * 250 - 1) == 0
    assert stall.look(1000 + 21 * 250) == 21 * 250
    assert stall.look(1000 + 22 * 250) == 0
    stall.begin(10_000)
    assert stall.look(10_000 + 600 * 250, paused=True) == 0
    for _ in range(3):
        assert stall.look(10_000 + 700 * 250) == 0
        stall.forced_quiescent_state(10_000 + 700 * 250)
    assert stall.look(10_000 + 721 * 250 - 1) == 0
    assert stall.look(10_000 + 721 * 250) > 0


def test_a_workqueue_stalls_after_30_s():
    dog = WorkqueueStall(hz=100)
    assert [dog.look(3000), dog.look(3001)] == [0, 30]
    assert dog.look(60_000, paused=True) == 0
    assert dog.look(63_000) == 0
