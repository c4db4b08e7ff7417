"""Each invariant holds in a clean trace, with something to be held to; and a trace that breaks it, it alone flags."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest

from guestclock.check.recorded import HOLDS, INVARIANTS, NOT_JUDGED, VIOLATED, Judgement, judge_rows

from tests.check.recorded.world import KHZ, MS, NS_PER_S, HEADER, Row, World, ns, readings, whole  # isort: skip


def flagged(judged: Judgement) -> set[int]:
    return {check.number for check in judged.of(VIOLATED)}


def judge(world: World, rows: list[Row] | None = None) -> Judgement:
    return judge_rows(world.rows if rows is None else rows, world.header)


@pytest.fixture(scope="module")
def worlds() -> dict[str, World]:
    return {design: whole(design) for design in ("corrected", "v3")}


@pytest.mark.parametrize("design", ["corrected", "v3"])
def test_a_clean_trace_holds_and_every_invariant_was_held_to_something(worlds: dict[str, World], design: str) -> None:
    judged = judge(worlds[design])
    assert {check.number: check.worst for check in judged.checks if check.status != HOLDS} == {}
    assert min(check.compared for check in judged.checks) > 0
    assert [check.number for check in judged.checks] == list(range(1, 26))


def test_the_same_rows_without_their_events_and_hosts_leave_the_rest_unjudged(worlds: dict[str, World]) -> None:
    bare = World().run(20)
    rows = [{k: r[k] for k in ("vcpu", "c0", "c1", "clock", "value")} for r in bare.rows if "value" in r]
    judged = judge_rows(rows, {"tsc_khz": HEADER["tsc_khz"], "clocksource": "tsc", "freq_ppm": 0})
    assert {c.number for c in judged.of(HOLDS)} == {1, 3, 4, 5, 8, 17}
    assert judged.status == HOLDS


def test_a_trace_that_gives_nothing_to_judge_is_not_said_to_hold() -> None:
    assert judge_rows([{"clock": "MONOTONIC", "value": 5}], {}).status == NOT_JUDGED


# ---- one broken thing each


def back(clock: str, by_ns: int = 1) -> Callable[[list[Row]], None]:
    """The clock steps back by a ns: two readings of it directly after one another, the second is less."""

    def break_(rows: list[Row]) -> None:
        first = readings(rows, clock, 0)[5]
        place = rows.index(first) + 1
        again = {**first, "value": first["value"] - by_ns, "c0": first["c1"], "h0": first["h1"]}
        again |= {"c1": first["c1"] + 4, "h1": first["h1"] + 4}
        if "host_ns" in again:
            again["err_ns"] = 1_000
        rows.insert(place, again)

    return break_


def off(clock: str, by: int, start: int = 12, count: int = 10**9, vcpu: int | None = None) -> Callable[..., None]:
    def break_(rows: list[Row]) -> None:
        for row in readings(rows, clock, vcpu)[start : start + count]:
            row["value"] += by

    return break_


def event(rows: list[Row], kind: str, number: int = 0) -> Row:
    return [row for row in rows if row.get("event") == kind][number]


def change(kind: str, number: int = 0, **columns: object) -> Callable[[list[Row]], None]:
    return lambda rows: event(rows, kind, number).update(columns)


def move(kind: str, column: str, by: int, number: int = 0) -> Callable[[list[Row]], None]:
    def break_(rows: list[Row]) -> None:
        event(rows, kind, number)[column] += by

    return break_


def add(after: str, number: int = 0, **row: object) -> Callable[[list[Row]], None]:
    return lambda rows: rows.insert(rows.index(event(rows, after, number)) + 1, dict(row))


def drop(kind: str, number: int = 0) -> Callable[[list[Row]], None]:
    return lambda rows: rows.remove(event(rows, kind, number))


def behind_on_another_vcpu(rows: list[Row]) -> None:
    """vcpu1's MONOTONIC is 1 ns behind what vcpu0 has read just before; its own never steps back."""
    first = readings(rows, "MONOTONIC", 0)[8]
    row = {**first, "vcpu": 1, "value": first["value"] - 1, "c0": first["c1"] + 2, "c1": first["c1"] + 6}
    rows.insert(rows.index(first) + 1, row | {"h0": first["h1"] + 2, "h1": first["h1"] + 6})


def counter_behind(rows: list[Row]) -> None:
    """vcpu1 reads a counter that is behind what a token from vcpu0 has brought."""
    token = rows.index(event(rows, "recv"))
    sent = readings(rows[:token], "COUNTER", 0)[-1]["value"]
    readings(rows[token:], "COUNTER", 1)[0]["value"] = sent - 1


def fast(clock: str, ppm: float) -> Callable[[list[Row]], None]:
    """It gains from the first reading to the first stop, on all vCPUs."""

    def break_(rows: list[Row]) -> None:
        stop = rows.index(event(rows, "stop"))
        first = readings(rows, clock)[0]["value"]
        for row in readings(rows[:stop], clock):
            row["value"] += round((row["value"] - first) * ppm * 1e-6)

    return break_


def torn_offset(rows: list[Row]) -> None:
    """One reading of BOOTTIME shows half of the last injection."""
    last = rows.index(event(rows, "inject"))
    readings(rows[last:], "BOOTTIME")[2]["value"] -= 15 * NS_PER_S


def new_vcpu_ahead(rows: list[Row]) -> None:
    """Its first round is read 150 µs early, and nobody knows of the host's counter then."""
    cycles = 400_000
    for row in [row for row in rows if row.get("vcpu") == 2 and "event" not in row][:9]:
        del row["h0"], row["h1"]
        row["c0"] += cycles
        row["c1"] += cycles
        row["value"] += cycles if row["clock"] == "COUNTER" else ns(cycles)
        if "host_ns" in row:
            row["host_ns"] += ns(cycles)


def stays_stale(rows: list[Row]) -> None:
    """After the second sleep BOOTTIME lacks it for 11 ms."""
    inject = event(rows, "inject", 1)
    later = rows[rows.index(inject) :]
    end = readings(later, "MONOTONIC")[0]["value"] + 11 * MS
    for row in readings(later, "BOOTTIME"):
        if ns(row["c1"]) < end:
            row["value"] -= inject["ns"]


def off_after_a_sleep(by_ns: int) -> Callable[[list[Row]], None]:
    """BOOTTIME gets so much more than was injected."""

    def break_(rows: list[Row]) -> None:
        for row in readings(rows[rows.index(event(rows, "inject", 1)) :], "BOOTTIME"):
            row["value"] += by_ns

    return break_


def lost_vcpu(rows: list[Row]) -> None:
    """After the aborted sleep vcpu1 does not enter again, for more than 100 ms."""
    place, end = rows.index(event(rows, "abort")), rows.index(event(rows, "freeze"))
    rows[place:end] = [row for row in rows[place:end] if row.get("event") != "entry" or row["vcpu"] != 1]
    shift_all(rows, rows.index(event(rows, "set")), 101 * MS, with_counter=True)


def shift_all(rows: list[Row], start: int, by_ns: int, with_counter: bool = False) -> None:
    """Every clock of the guest is moved from a row on; the host's, read with them, are as well."""
    cycles = by_ns * KHZ // MS
    for row in rows[start:]:
        if "event" not in row:
            row["value"] += by_ns if row["clock"] != "COUNTER" else cycles if with_counter else 0
            if "host_ns" in row:
                row["host_ns"] += by_ns
        for column in ("c0", "c1", "h0", "h1") if with_counter else ():
            if column in row:
                row[column] += cycles


def let_through(rows: list[Row]) -> None:
    shift_all(rows, rows.index(event(rows, "resume")), 5 * MS)


def let_more_through(rows: list[Row]) -> None:
    shift_all(rows, rows.index(event(rows, "resume")), 1_300 * MS)


def jump_over_abort(rows: list[Row]) -> None:
    shift_all(rows, rows.index(event(rows, "abort")), 5 * MS)


def counter_hidden_less(rows: list[Row]) -> None:
    """Over the first stop the counter moves by 10 µs, and all clocks with it."""
    shift_all(rows, rows.index(event(rows, "resume")), 10_000, with_counter=True)


def host_apart(rows: list[Row], by: int) -> None:
    for row in readings(rows, "KVMCLOCK")[20:24]:
        row["host_ns"] += by


def host_wrong(rows: list[Row]) -> None:
    readings(rows, "REALTIME")[20]["host_ns"] += 10_000


def again(rows: list[Row]) -> None:
    inject = event(rows, "inject")
    rows.insert(rows.index(inject) + 1, dict(inject))


def one_more(rows: list[Row]) -> None:
    place = rows.index(event(rows, "inject", 1))
    rows.insert(place + 1, {"event": "inject", "ns": NS_PER_S, "epoch": 50})
    for row in rows[place:]:
        if row.get("clock") in ("BOOTTIME", "REALTIME", "TAI") and "event" not in row:
            row["value"] += NS_PER_S


BROKEN: dict[str, tuple[str, Callable[[list[Row]], None], set[int]]] = {
    "MONOTONIC steps back 1 ns": ("corrected", back("MONOTONIC"), {1}),
    "BOOTTIME steps back 1 ns": ("corrected", back("BOOTTIME"), {1}),
    "MONOTONIC_RAW steps back 1 ns": ("corrected", back("MONOTONIC_RAW"), {1}),
    "kvmclock steps back 1 ns": ("corrected", back("KVMCLOCK"), {1}),
    "one vCPU is 1 ns behind another": ("corrected", behind_on_another_vcpu, {2}),
    "a vCPU's counter is behind what another has sent": ("corrected", counter_behind, {2, 8}),
    "MONOTONIC gains 400 ppm": ("corrected", fast("MONOTONIC", 400), {3, 4, 6}),
    "MONOTONIC_RAW gains 400 ppm": ("corrected", fast("MONOTONIC_RAW", 400), {3}),
    "MONOTONIC_RAW loses 400 ppm": ("corrected", fast("MONOTONIC_RAW", -400), {3}),
    "BOOTTIME is 1 ms ahead after a sleep": ("corrected", off_after_a_sleep(MS), {4}),
    "BOOTTIME is 1 ms behind after a sleep": ("corrected", off_after_a_sleep(-MS), {4}),
    "a reading of BOOTTIME is torn": ("corrected", torn_offset, {1, 2, 3, 4}),
    "REALTIME stepped 1 ms unlogged": ("corrected", off("REALTIME", MS, start=60), {3, 4, 5, 14}),
    "TAI is 1 ms off": ("corrected", off("TAI", MS, start=60), {3, 5}),
    "a stop lets 5 ms through": ("corrected", let_through, {6}),
    "a stop lets 1.3 s more through than v3 may": ("v3", let_more_through, {6}),
    "over a stop the counter moves": ("corrected", counter_hidden_less, {8}),
    "kvmclock leaves the host's by 50 µs": ("corrected", lambda rows: host_apart(rows, 50_000), {7}),
    "the counter steps back a cycle": ("corrected", back("COUNTER"), {8}),
    "a timer is 1 ms early": ("corrected", move("fire", "value", -MS - 60_000), {9}),
    "a timer is 20 ms late": ("corrected", move("fire", "value", 20 * MS), {9}),
    "a timer expires twice": ("corrected", add("fire", 0, event="fire", id="t", value=10**15), {9}),
    "a periodic timer miscounts": ("corrected", change("fire", 3, overruns=1), {9}),
    "a timer never expires": ("corrected", drop("fire", 0), {9}),
    "a BOOTTIME timer is cancelled": ("corrected", add("arm", 1, event="cancel", id="b"), {9}),
    "a soft lockup": (
        "corrected",
        change("dmesg", text="watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [swapper/1:0]"),
        {10},
    ),
    "the guest has injected less": ("corrected", move("totals", "injected_ns", -1), {11}),
    "an epoch is injected again": ("corrected", again, {12, 21, 4}),
    "an epoch is acknowledged before": ("corrected", add("resume", event="ack", epoch=9), {12}),
    "BOOTTIME stays stale": ("corrected", stays_stale, {3, 13}),
    "REALTIME is not the host's": ("corrected", host_wrong, {14}),
    "the frozen image changes": ("corrected", change("freeze", 2, id="other"), {15}),
    "an NMI in a freeze": ("corrected", add("freeze", 1, event="nmi", vcpu=0), {15}),
    "a torn page": ("corrected", change("page", 1, text="2/9/7"), {16}),
    "a page being written": ("corrected", change("page", 1, version=3), {16}),
    "sched_clock steps back 1 ns": ("corrected", back("SCHED_CLOCK"), {17}),
    "sched_clock gains 2 %": ("corrected", fast("SCHED_CLOCK", 20_000), {17}),
    "no STA_UNSYNC after an injection": ("corrected", change("ntp", status=0), {18}),
    "the frequency is lost": ("corrected", change("ntp", 1, ppm=12.5), {18}),
    "a marker without a reason": ("corrected", change("vmclock", 1, marker=500), {19}),
    "REALTIME steps back 1 ns": ("corrected", back("REALTIME"), {20}),
    "an injection too many": ("v3", one_more, {14, 21}),
    "an injection of another length": ("v3", move("sleep", "ns", 5), {21}),
    "a new vCPU's counter is ahead": ("corrected", new_vcpu_ahead, {22}),
    "a vCPU does not come back": ("corrected", lost_vcpu, {23}),
    "all clocks jump over an aborted sleep": ("corrected", jump_over_abort, {23}),
    "an entry with the old epoch": ("corrected", change("entry", 3, epoch=0), {24}),
    "the former owner enters": ("corrected", change("entry", -1, id="a"), {25}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_breaks_one_thing_is_flagged_by_its_invariant(worlds: dict[str, World], name: str) -> None:
    design, break_, expected = BROKEN[name]
    world = worlds[design]
    rows = copy.deepcopy(world.rows)
    break_(rows)
    judged = judge(world, rows)
    assert flagged(judged) == expected, [c.worst for c in judged.of(VIOLATED)]


def test_every_invariant_has_a_control() -> None:
    assert set().union(*(expected for _, _, expected in BROKEN.values())) == {i.number for i in INVARIANTS}
