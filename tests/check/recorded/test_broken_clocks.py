"""Clocks that are broken a little, in long traces: a µs a day, a ns once, a ms after fifty sleeps."""

from __future__ import annotations

import random
from typing import Any

import pytest

from guestclock.check.recorded import HOLDS, Judgement, judge_rows
from tests.check.recorded.test_invariants import event, flagged
from tests.check.recorded.world import HEADER, KHZ, MS, NS_PER_S, Row, World, ns, readings

HOUR_S = 3600
NS_PER_DAY = 86_400 * NS_PER_S
WIDTH = 100
"""Cycles of a sandwich, at least: 39 ns, as a vDSO reading has it."""


def hours(count: float, clock: str, ppm: float = 0.0, every_s: float = 2.0) -> list[Row]:
    """One clock that runs fast by so much, read by itself; every reading is somewhere in its sandwich."""
    draw, c, rows = random.Random(7), 10**12, []
    first = ns(c)
    for _ in range(int(count * HOUR_S / every_s)):
        c += int(every_s * KHZ * 1000) + draw.randrange(1_000)
        before, after = draw.randrange(WIDTH // 2, WIDTH * 3), draw.randrange(WIDTH // 2, WIDTH * 3)
        true = ns(c + before)
        value = true + int((true - first) * ppm * 1e-6)
        rows.append({"vcpu": 0, "c0": c, "c1": c + before + after, "clock": clock, "value": value})
    return rows


def judge(rows: list[Row], **header: Any) -> Judgement:
    known = {key: HEADER[key] for key in ("tsc_khz", "clocksource", "freq_ppm")}
    return judge_rows(rows, {**known, **header})


def a_day(ns_: float) -> float:
    """A drift in ppm."""
    return ns_ / NS_PER_DAY * 1e6


@pytest.mark.parametrize("way", [1, -1])
@pytest.mark.parametrize(("clock", "header"), [("MONOTONIC_RAW", {}), ("MONOTONIC", {"dither_ns": 10})])
def test_a_microsecond_a_day_is_flagged_within_two_hours(clock: str, header: Row, way: int) -> None:
    judged = judge(hours(2, clock, way * a_day(1_000)), **header)
    assert flagged(judged) == {3}
    assert judged.checks[2].worst is not None
    assert judged.checks[2].worst.about["way"] == ("fast" if way > 0 else "slow")


@pytest.mark.parametrize("clock", ["MONOTONIC_RAW", "MONOTONIC"])
def test_two_hours_without_drift_hold(clock: str) -> None:
    judged = judge(hours(2, clock), dither_ns=10)
    assert flagged(judged) == set()
    assert judged.status == HOLDS


def test_a_drift_is_told_from_ntps_slew_only_where_its_frequency_is_known() -> None:
    """Disciplined, a clock may be off by 500 ppm: half a second in 20 minutes."""
    slewing = hours(2, "MONOTONIC", a_day(1_000))
    assert flagged(judge(slewing, freq_ppm=0, dither_ns=10)) == {3}
    rows = judge_rows(slewing, {"tsc_khz": KHZ, "clocksource": "tsc"})
    assert flagged(rows) == set()
    steep = judge_rows(hours(0.1, "MONOTONIC", 600.0), {"tsc_khz": KHZ, "clocksource": "tsc"})
    assert flagged(steep) == {3}
    assert any("held to 500 ppm (rate_ppm)" in remark for remark in steep.checks[2].remarks)
    assert any("MONOTONIC: a drift of about 43 s a day" in remark for remark in rows.checks[2].remarks)


@pytest.mark.parametrize("freq_ppm", [37.5, -250.0])
def test_a_frequency_that_is_told_is_what_the_clock_is_held_to(freq_ppm: float) -> None:
    rows = hours(0.5, "MONOTONIC", freq_ppm)
    assert flagged(judge(rows, freq_ppm=freq_ppm, dither_ns=10)) == set()
    assert flagged(judge(rows, freq_ppm=freq_ppm + 0.01, dither_ns=10)) == {3}
    assert flagged(judge(rows, freq_ppm=freq_ppm - 0.01, dither_ns=10)) == {3}


def test_a_frequency_that_changes_is_followed() -> None:
    first, second = hours(0.25, "MONOTONIC"), hours(0.5, "MONOTONIC", 40.0)[450:]
    gone = second[0]["value"] - ns(second[0]["c0"])
    change = {"event": "freq", "ppm": 40.0}
    assert abs(gone) > 10_000
    assert flagged(judge([*first, change, *second], dither_ns=10)) == set()
    assert flagged(judge([*first, *second], dither_ns=10)) == {3}


def test_the_drift_that_is_said_to_be_seen_is_seen() -> None:
    """And half of it is not: the words are about right."""
    clean = judge(hours(2, "MONOTONIC_RAW"))
    (remark,) = clean.checks[2].remarks
    assert remark.startswith("MONOTONIC_RAW: a drift of about ")
    told_ns = float(remark.split()[5]) * {"ns": 1, "µs": 1_000}[remark.split()[6]]
    assert flagged(judge(hours(2, "MONOTONIC_RAW", a_day(told_ns * 1.2)))) == {3}
    assert flagged(judge(hours(2, "MONOTONIC_RAW", a_day(told_ns / 2)))) == set()


def test_one_step_back_of_a_nanosecond_among_thirty_thousand_readings() -> None:
    rows = hours(17, "MONOTONIC", every_s=2.0)
    assert len(rows) > 30_000
    place = 22_222
    rows[place + 1] = {**rows[place], "value": rows[place]["value"] - 1, "c0": rows[place]["c1"] + 1}
    rows[place + 1]["c1"] = rows[place + 1]["c0"] + WIDTH
    judged = judge(rows, freq_ppm=0)
    assert flagged(judged) == {1}
    worst = judged.checks[0].worst
    assert worst is not None
    assert (worst.amount, worst.at) == (1, (f"rows: line {place + 1}", f"rows: line {place + 2}"))


def sleeps(count: int) -> World:
    world = World(vcpus=1)
    for _ in range(count):
        world.run(3)
        world.sleep(NS_PER_S)
    world.run(3)
    return world


def test_boottime_off_by_a_millisecond_after_the_fiftieth_sleep() -> None:
    world = sleeps(60)
    assert flagged(judge_rows(world.rows, world.header)) == set()
    place = world.rows.index(event(world.rows, "inject", 49))
    for row in readings(world.rows[place:], "BOOTTIME"):
        row["value"] += MS
    judged = judge_rows(world.rows, world.header)
    assert flagged(judged) == {4}
    worst = judged.checks[3].worst
    assert worst is not None
    assert judged.checks[3].violations == 1
    # Off by a ms, seen to within the reading of MONOTONIC around it.
    assert MS - 2_000 < worst.amount <= MS
    assert worst.at[0] == f"rows: line {world.rows.index(readings(world.rows[place:], 'BOOTTIME')[0]) + 1}"


def rounds(count: int, offset_ns: int, tai_s: int, start: int = 10**12, shift_ns: int = 0) -> list[Row]:
    """M, B, R, T, M each; B by offset_ns, T by tai_s ahead."""
    rows: list[Row] = []
    for _ in range(count):
        for name, off in (("MONOTONIC", 0), ("BOOTTIME", offset_ns), ("REALTIME", 10**18 + shift_ns),
                          ("TAI", 10**18 + shift_ns + tai_s * NS_PER_S), ("MONOTONIC", 0)):  # fmt: skip
            c = start + 10_000 * (len(rows) + 1)
            rows.append({"vcpu": 0, "c0": c, "c1": c + WIDTH, "clock": name, "value": ns(c + WIDTH // 2) + off})
    return rows


def then(rows: list[Row], **how: int) -> list[Row]:
    return rounds(20, start=rows[-1]["c1"], **{"offset_ns": 0, "tai_s": 37, **how})


def test_what_a_trace_does_not_log_is_remarked_not_flagged() -> None:
    """A guest that slept by itself, whose wall clock was set, whose TAI offset came by NTP: nothing is known wrong."""
    before = rounds(20, 0, 0)
    after = then(before, offset_ns=5 * NS_PER_S, tai_s=37, shift_ns=-NS_PER_S)
    for row in after:
        row["epoch"] = 1
    judged = judge([*before, *after])
    assert flagged(judged) == set()
    assert [remark for check in judged.checks[3:5] for remark in check.remarks] == [
        "BOOTTIME − MONOTONIC moved once; whether rightly, the trace does not log",
        "REALTIME − MONOTONIC moved once; whether rightly, the trace does not log",
        "TAI − REALTIME is now 37 s; whether rightly, the trace does not log",
    ]
    assert flagged(judge([*before, *after], logs="inject set")) == {4, 5, 20}


def test_boottime_never_falls_behind_whatever_is_logged() -> None:
    before = rounds(20, 5 * NS_PER_S, 37)
    after = then(before, offset_ns=4 * NS_PER_S)
    assert flagged(judge([*before, *after])) == {1, 3, 4}


def test_a_trace_that_begins_with_an_injection_is_no_step() -> None:
    first = rounds(20, 5 * NS_PER_S, 37)
    second = then(first, offset_ns=7 * NS_PER_S, shift_ns=2 * NS_PER_S)
    rows = [{"event": "inject", "ns": 3 * NS_PER_S}, *first, {"event": "inject", "ns": 2 * NS_PER_S}, *second]
    assert flagged(judge(rows)) == set()


def test_of_a_clock_that_is_noise_every_reading_is_a_finding() -> None:
    draw, rows = random.Random(3), rounds(1_000, 0, 37)
    for row in rows:
        if row["clock"] == "BOOTTIME":
            row["value"] += draw.randrange(10**12)
    judged = judge(rows, logs="inject")
    assert flagged(judged) == {1, 3, 4}
    assert judged.checks[3].violations == 999  # all but the first
