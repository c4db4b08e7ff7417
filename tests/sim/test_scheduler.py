"""The concrete scheduler: order, guards, time-outs, daemons, deadlock, replay."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.sim import Deadlock, Scheduler, Timeline, cp, drawn_ps


def make(step_ps=0):
    timeline = Timeline()
    return timeline, Scheduler(timeline, step_ps)


async def steps(log, timeline, name, delays):
    for delay in delays:
        log.append((timeline.now_ps, name))
        await cp(name, delay_ps=delay)
    log.append((timeline.now_ps, name))


def test_steps_happen_in_the_order_of_their_times():
    timeline, sched = make()
    log = []
    sched.spawn("slow", steps(log, timeline, "slow", [10, 10]))
    sched.spawn("fast", steps(log, timeline, "fast", [3, 3, 30]))
    sched.run()
    assert log == [(0, "slow"), (0, "fast"), (3, "fast"), (6, "fast"), (10, "slow"), (20, "slow"), (36, "fast")]
    assert sched.steps == 7


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=5))
def test_ties_go_in_the_order_in_which_they_were_made(delays):
    """Against the obvious: a stable sort of (time, when it was pushed)."""
    timeline, sched = make()
    log = []
    for i, own in enumerate(delays):
        sched.spawn(str(i), steps(log, timeline, i, own))
    sched.run()
    due = [(0, i, i, 0) for i in range(len(delays))]  # time, serial, actor, step
    expected, serial = [], len(delays)
    while due:
        due.sort()
        at, _, actor, step = due.pop(0)
        expected.append((at, actor))
        if step < len(delays[actor]):
            due.append((at + delays[actor][step], serial, actor, step + 1))
            serial += 1
    assert log == expected


def test_a_guard_holds_until_its_state_is_true():
    timeline, sched = make(step_ps=5)
    box, seen = {"open": False}, []

    async def waiter():
        await cp("wait", until=lambda: box["open"])
        seen.append(timeline.now_ps)

    async def opener():
        await cp("sleep", delay_ps=100)
        box["open"] = True

    sched.spawn("waiter", waiter())
    sched.spawn("opener", opener())
    sched.run()
    assert seen == [105]  # the step after the guard became true takes step_ps


def test_a_guard_that_is_true_at_once_does_not_block():
    timeline, sched = make(step_ps=5)
    seen = []

    async def waiter():
        await cp("wait", until=lambda: True)
        seen.append(timeline.now_ps)

    sched.spawn("waiter", waiter())
    sched.run()
    assert seen == [5]


def opened_or_not(open_at, timeout):
    """(when the waiter went on, whether the guard was true then)."""
    timeline, sched = make()
    box, seen = {"open": False}, []

    async def waiter():
        await cp("wait", until=lambda: box["open"], delay_ps=timeout)
        seen.append((timeline.now_ps, box["open"]))
        await cp("on", delay_ps=1000)  # a stale entry would resume it too early here
        seen.append((timeline.now_ps, box["open"]))

    async def opener():
        await cp("sleep", delay_ps=open_at)
        box["open"] = True

    sched.spawn("waiter", waiter())
    sched.spawn("opener", opener())
    sched.run()
    return seen


def test_a_time_out_resumes_at_the_deadline():
    assert opened_or_not(open_at=500, timeout=100) == [(100, False), (1100, True)]


def test_a_guard_beats_its_time_out():
    assert opened_or_not(open_at=50, timeout=100) == [(50, True), (1050, True)]


def test_time_out_and_guard_at_the_same_instant_resume_once():
    assert [t for t, _ in opened_or_not(open_at=100, timeout=100)] == [100, 1100]


@pytest.mark.parametrize("step_ps", [1, 70])
def test_a_guard_that_becomes_true_close_to_the_deadline_is_not_later_than_the_deadline(step_ps):
    """With `until` and `delay_ps` the actor goes on at the deadline at the latest, whatever a step takes."""
    timeline, sched = make(step_ps)
    box, seen = {"open": False}, []

    async def waiter():
        await cp("wait", until=lambda: box["open"], delay_ps=100)
        seen.append(timeline.now_ps)

    async def opener():
        await cp("sleep", delay_ps=95)
        box["open"] = True

    sched.spawn("waiter", waiter())
    sched.spawn("opener", opener())
    sched.run()
    assert seen == [min(95 + step_ps, 100)]


def test_guards_woken_together_go_in_the_order_in_which_they_began_to_wait():
    _, sched = make()
    box, seen = {"open": False}, []

    async def waiter(name):
        await cp("wait", until=lambda: box["open"])
        seen.append(name)

    async def opener():
        await cp("sleep", delay_ps=9)
        box["open"] = True

    for name in "cab":
        sched.spawn(name, waiter(name))
    sched.spawn("opener", opener())
    sched.run()
    assert seen == ["c", "a", "b"]


def test_a_guard_made_true_by_an_ending_actor_is_seen():
    """The last step of an actor may be what another one waits for."""
    timeline, sched = make()
    box, seen = {"done": False}, []

    async def ends():
        await cp("once", delay_ps=9)
        box["done"] = True

    async def waiter():
        await cp("join", until=lambda: box["done"])
        seen.append(timeline.now_ps)

    sched.spawn("waiter", waiter())
    sched.spawn("ends", ends())
    sched.run()
    assert seen == [9]


def test_daemons_do_not_keep_a_run_alive_and_are_closed():
    timeline, sched = make()
    ticks, closed = [], []

    async def daemon():
        try:
            while True:
                await cp("tick", delay_ps=10)
                ticks.append(timeline.now_ps)
        finally:
            closed.append(True)

    async def main():
        await cp("work", delay_ps=35)

    sched.spawn("ticker", daemon(), daemon=True)
    sched.spawn("main", main())
    sched.run()
    assert ticks == [10, 20, 30]
    assert closed == [True]


def test_actors_spawned_by_actors_run_from_that_instant():
    timeline, sched = make()
    log = []

    async def parent():
        await cp("first", delay_ps=7)
        sched.spawn("child", steps(log, timeline, "child", [1]))
        await cp("second", delay_ps=1)
        log.append((timeline.now_ps, "parent"))

    sched.spawn("parent", parent())
    sched.run()
    assert log == [(7, "child"), (8, "parent"), (8, "child")]


def test_deadlock_names_who_waits_and_where():
    _, sched = make()

    async def stuck(label):
        await cp(label, until=lambda: False)

    sched.spawn("vcpu0", stuck("mutex"))
    sched.spawn("vmm", stuck("reply"))
    with pytest.raises(Deadlock) as told:
        sched.run()
    assert str(told.value) == "vcpu0 waits at 'mutex'; vmm waits at 'reply'"


def test_a_daemon_that_waits_is_no_deadlock():
    _, sched = make()

    async def forever():
        await cp("work queue", until=lambda: False)

    async def main():
        await cp("step")

    sched.spawn("worker", forever(), daemon=True)
    sched.spawn("main", main())
    sched.run()  # no Deadlock


def test_an_exception_in_an_actor_comes_out_of_run():
    _, sched = make()

    async def broken():
        await cp("step")
        raise ZeroDivisionError("in the model")

    sched.spawn("broken", broken())
    with pytest.raises(ZeroDivisionError, match="in the model"):
        sched.run()


def race(seed):
    """The order of three actors' steps with drawn durations, and what the clock said."""
    rng = Random(seed)
    timeline = Timeline(section_ps=drawn_ps(rng, 0, 50))
    sched = Scheduler(timeline, drawn_ps(rng, 0, 1000))
    log = []

    async def actor(name):
        for _ in range(20):
            log.append((timeline.read_ps(), name))
            await cp(name)

    for name in "abc":
        sched.spawn(name, actor(name))
    sched.run()
    return log


@given(st.integers(0, 2**32))
def test_a_seed_replays_a_run(seed):
    assert race(seed) == race(seed)


def test_another_seed_is_another_run():
    assert len({tuple(race(seed)) for seed in range(20)}) == 20


@given(st.integers(0, 2**32), st.integers(0, 1000), st.integers(0, 1000))
def test_drawn_durations_lie_in_their_range_and_move_the_clock_by_themselves(seed, lo, width):
    rng = Random(seed)
    draw = drawn_ps(rng, lo, lo + width)
    assert all(lo <= draw() <= lo + width for _ in range(20))
    timeline = Timeline(section_ps=draw)
    times = [timeline.read_ps() for _ in range(20)]
    assert all(lo <= b - a <= lo + width for a, b in pairwise(times))


def test_a_fixed_section_moves_the_clock_by_itself_after_each_read():
    timeline = Timeline(section_ps=40, start_ps=7)
    assert [timeline.read_ps(), timeline.read_ps(), timeline.now_ps] == [7, 47, 87]


def test_time_does_not_go_back_when_a_section_runs_past_the_next_step():
    """A long kernel section delays whoever was due meanwhile; nobody sees an earlier time than the one before."""
    timeline = Timeline(section_ps=100)
    sched = Scheduler(timeline)
    seen = []

    async def reader(delay):
        await cp("due", delay_ps=delay)
        seen.append(timeline.read_ps())

    sched.spawn("a", reader(10))
    sched.spawn("b", reader(20))
    sched.run()
    assert seen == [10, 110]


def test_a_run_can_be_followed_by_another_on_the_same_timeline():
    timeline, sched = make()
    log = []
    sched.spawn("first", steps(log, timeline, "first", [5]))
    sched.run()
    sched.spawn("second", steps(log, timeline, "second", [5]))
    sched.run()
    assert log == [(0, "first"), (5, "first"), (5, "second"), (10, "second")]
