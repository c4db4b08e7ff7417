"""What is late of a timer whose clock leapt over its deadline, and what the promise `running` allows a stop to take."""

from __future__ import annotations

import pytest

from guestclock.check.recorded import judge_rows
from tests.check.recorded.test_invariants import flagged
from tests.check.recorded.world import MS, NS_PER_S, World

LATE_NS = 11 * MS


def slept(clock: str, late_ns: int, in_sleep_ns: int = 10 * NS_PER_S, fires: bool = True) -> World:
    """A timer that comes due while the host sleeps, and fires so long after its clock has leapt over its deadline."""
    world = World()
    world.run(15)
    due = world.clock(clock, world.c) + in_sleep_ns
    world.event("arm", id="t", clock=clock, ns=due)
    world.sleep()
    landed = world.clock(clock, world.c)
    world.run(20)
    if fires:
        # A record may come after readings of later: what counts is what it says.
        world.event("fire", id="t", value=max(landed, due) + late_ns)
    world.run(2000 if not fires else 20)
    return world


@pytest.mark.parametrize("clock", ["BOOTTIME", "REALTIME"])
def test_what_came_due_in_a_sleep_is_late_from_where_the_injection_has_led(clock: str) -> None:
    for late_ns, wrong in ((MS, False), (LATE_NS - MS, False), (LATE_NS + MS, True), (NS_PER_S, True)):
        world = slept(clock, late_ns)
        assert (9 in flagged(judge_rows(world.rows, world.header))) == wrong, late_ns


def test_how_late_it_was_is_counted_from_there_too() -> None:
    world = slept("BOOTTIME", LATE_NS + 5 * MS)
    worst = judge_rows(world.rows, world.header).checks[8].worst
    assert worst is not None
    assert 4 * MS < worst.amount <= 5 * MS


def test_one_that_never_fires_is_still_missed() -> None:
    world = slept("BOOTTIME", 0, fires=False)
    worst = judge_rows(world.rows, world.header).checks[8].worst
    assert worst is not None
    assert "does not expire" in worst.said
    assert worst.amount < NS_PER_S


def test_a_deadline_that_was_not_leapt_over_excuses_nobody() -> None:
    """Due before the sleep, fired after it."""
    world = slept("BOOTTIME", NS_PER_S, in_sleep_ns=-MS)
    assert 9 in flagged(judge_rows(world.rows, world.header))


@pytest.mark.parametrize(("taken", "wrong"), [(0, False), (1, False), (2, True)])
def test_running_allows_a_stop_what_the_host_ran_and_nothing_of_what_it_slept(taken: int, wrong: bool) -> None:
    """taken: in tenths of a second, of which the host ran one."""
    world = World("running")
    world.run(15)
    before = world.h
    world.stopped("stop")
    world.wait(NS_PER_S // 10)
    world.wait(30 * NS_PER_S)
    world.host_slept_ns += 30 * NS_PER_S
    world.offset -= world.h - before - taken * 259_612_200
    world.stopped("resume")
    world.run(15)
    found = flagged(judge_rows(world.rows, {**world.header, "logs": "set timer", "hole_ns": 10_000}))
    assert ({6, 8} <= found) == wrong, found


def test_a_frequency_that_is_gone_after_a_move_is_right() -> None:
    world = World()
    world.run(5)
    world.event("ntp", status=1, maxerror_us=100, offset_ns=0, ppm=12.5)
    world.moves("b")
    world.event("inject", ns=5)
    world.boot_ns += 5
    world.event("ntp", status=0x40, maxerror_us=16_000_000, offset_ns=0, ppm=0.0)
    assert 18 not in flagged(judge_rows(world.rows, world.header))
    stays = [row for row in world.rows if row.get("event") not in ("move", "commit")]
    assert 18 in flagged(judge_rows(stays, world.header))
