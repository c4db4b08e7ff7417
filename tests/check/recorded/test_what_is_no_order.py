"""What tells an order of two readings and what does not: sandwiches, tokens, handlers' readings, fast readers."""

from __future__ import annotations

from guestclock.check.recorded import HOLDS, judge_rows
from tests.check.recorded.test_invariants import flagged
from tests.check.recorded.world import HEADER, Row, ns

COMMON = {"counters": "common"}


def read(c0: int, c1: int, value: int, vcpu: int = 0, **more: object) -> Row:
    return {"vcpu": vcpu, "c0": c0, "c1": c1, "clock": "MONOTONIC", "value": value, **more}


def test_sandwiches_that_touch_tell_no_order_and_those_that_do_not_do() -> None:
    for begin, expected in ((90, set()), (100, set()), (101, {2})):
        rows = [read(50, 100, 1_000), read(begin, 150, 999, vcpu=1)]
        assert flagged(judge_rows(rows, COMMON)) == expected, begin


def test_the_greatest_of_all_earlier_readings_counts_not_the_last() -> None:
    rows = [read(50, 100, 1_000), read(60, 110, 900, vcpu=2), read(120, 150, 950, vcpu=1)]
    judged = judge_rows(rows, COMMON)
    assert flagged(judged) == {2}
    worst = judged.checks[1].worst
    assert worst is not None
    assert (worst.amount, worst.at) == (50, ("rows: line 1", "rows: line 3"))


def test_counters_of_ones_own_tell_no_order() -> None:
    rows = [read(50, 100, 1_000), read(101, 150, 999, vcpu=1)]
    assert flagged(judge_rows(rows, {"counters": "own"})) == set()


def test_a_token_tells_order_without_any_counter() -> None:
    def rows(value: int) -> list[Row]:
        first = {"vcpu": 0, "clock": "BOOTTIME", "value": 1_000}
        passed = [{"event": "send", "vcpu": 0, "id": "a"}, {"event": "recv", "vcpu": 1, "id": "a"}]
        onwards = [{"event": "send", "vcpu": 1, "id": "b"}, {"event": "recv", "vcpu": 2, "id": "b"}]
        return [first, *passed, *onwards, {"vcpu": 2, "clock": "BOOTTIME", "value": value}]

    assert flagged(judge_rows(rows(999), {})) == {2}
    assert judge_rows(rows(1_000), {}).status == HOLDS


def test_a_handlers_reading_inside_a_tasks_sandwich_is_in_no_order_with_it() -> None:
    """The task took its value, an NMI took a later one, and then the task's row was written."""
    nmi = read(120, 130, 1_050, context="nmi")
    assert flagged(judge_rows([nmi, read(100, 200, 1_040)], {})) == set()
    assert flagged(judge_rows([nmi, read(130, 200, 1_040)], {})) == {1}
    assert flagged(judge_rows([nmi, read(100, 200, 1_060), read(210, 220, 1_055, context="nmi")], {})) == {1}


def test_a_fast_reader_may_be_behind_by_a_step_of_the_latch_and_nobody_else() -> None:
    def rows(fast_ns: int, slow_ns: int = 20_010) -> list[Row]:
        return [read(100, 110, 20_000), read(200, 210, fast_ns, path="fast"), read(300, 310, slow_ns)]

    assert flagged(judge_rows(rows(10_000), {})) == set()
    assert flagged(judge_rows(rows(9_999), {})) == {1}
    assert flagged(judge_rows(rows(20_005, 19_999), {})) == {1}
    assert flagged(judge_rows(rows(19_999), {"backstep_ns": 0})) == {1}


def test_a_counter_is_behind_where_it_had_been_read_already() -> None:
    """The second sandwich begins before the first one's end, on the same vCPU."""
    rows = [read(100, 200, 1_000), read(199, 300, 1_050)]
    judged = judge_rows(rows, {})
    assert flagged(judged) == {8}
    worst = judged.checks[7].worst
    assert worst is not None
    assert (worst.amount, worst.unit) == (1, "cycles")
    assert judge_rows([read(100, 200, 1_000), read(200, 300, 1_050)], {}).status == HOLDS


def test_a_step_back_over_a_restore_is_none() -> None:
    rows = [read(100, 110, 20_000), {"event": "move", "text": "restore"}, read(50, 60, 10_000)]
    assert flagged(judge_rows(rows, {})) == set()
    rows[1] = {"event": "move", "text": "migrate"}
    assert flagged(judge_rows(rows, {})) == {1}


def test_a_counter_that_wraps_goes_on() -> None:
    """u64: a guest's TSC may be negative for its kernel."""
    start = 2**64 - 1_000_000
    rows = []
    for i in range(20):
        c = start + i * 100_000
        rows.append(read(c % 2**64, (c + 100) % 2**64, 5_000 + ns(i * 100_000 + 50)))
    judged = judge_rows(rows, {key: HEADER[key] for key in ("tsc_khz", "clocksource", "freq_ppm")})
    assert (flagged(judged), judged.checks[2].compared) == (set(), 20)
