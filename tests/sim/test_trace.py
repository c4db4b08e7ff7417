"""Traces: saved and loaded without loss, and refused with the line that is wrong."""

from __future__ import annotations

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.errors import UserError
from guestclock.sim import Event, Trace
from guestclock.sim.trace import KINDS

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
events = st.builds(
    Event,
    st.sampled_from(KINDS),
    st.text(),
    st.integers(0, 2**80),
    st.integers(0, 2**80),
    st.none() | st.integers(0, 7),
    st.dictionaries(st.text(), json_values, max_size=3),
)


def saved(trace):
    out = StringIO()
    trace.save(out)
    return out.getvalue()


metas = st.dictionaries(st.sampled_from(["on", "kernel", "scenario", "seed"]), json_values)


@given(metas, st.lists(events, max_size=5))
def test_what_is_saved_is_loaded(meta, happened):
    trace = Trace(meta=meta)
    for event in happened:
        trace.emit(event)
    text = saved(trace)
    assert Trace.load(text.splitlines(keepends=True)) == trace
    assert len(text.split("\n")) == len(happened) + 2  # one line each, whatever the strings hold


def test_times_beyond_64_bits_keep_their_last_picosecond():
    trace = Trace(events=[Event("host", "tsc", 2**70 + 1, 2**70 + 3)])
    assert Trace.load(saved(trace).splitlines()).events[0].start_ps == 2**70 + 1


def test_of_selects_kinds_in_order():
    trace = Trace(events=[Event(k, str(i), i, i) for i, k in enumerate(["op", "peek", "guest", "op"])])
    assert [e.name for e in trace.of("op", "guest")] == ["0", "2", "3"]
    assert list(trace.of()) == []


GOOD = saved(Trace(meta={"on": "model"}, events=[Event("op", "GetClock", 1, 2), Event("op", "Run", 2, 3)])).splitlines()


def test_the_good_trace_is_good():
    assert len(Trace.load(GOOD).events) == 2


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "trace: empty, expected a guestclock trace"),
        (["{}"], "trace: line 1: not an event of a guestclock trace ('guestclock_trace')"),
        (["[]"], "trace: line 1: not an event of a guestclock trace ("),
        (["hello"], "trace: line 1: not an event of a guestclock trace (Expecting value"),
        (['{"guestclock_trace": 2}'], "trace: line 1: trace version 2, this program reads 1"),
        ([*GOOD[:2], "{"], "trace: line 3: not an event of a guestclock trace ("),
        ([*GOOD[:2], "3"], "trace: line 3: not an event of a guestclock trace ("),
        ([*GOOD[:2], "[]"], "trace: line 3: not an event of a guestclock trace ("),
        ([*GOOD[:1], GOOD[1][:-1] + ', "extra": 1}'], "trace: line 2: not an event of a guestclock trace ("),
        ([*GOOD[:1], '{"kind": "op"}'], "trace: line 2: not an event of a guestclock trace ("),
        ([*GOOD[:1], GOOD[1].replace('"op"', '"oops"')], "trace: line 2: "),
        ([*GOOD[:1], GOOD[1].replace('"start_ps": 1', '"start_ps": "1"')], "trace: line 2: "),
        ([*GOOD[:1], GOOD[1].replace('"end_ps": 2', '"end_ps": 2.5')], "trace: line 2: "),
        ([*GOOD[:1], GOOD[1].replace('"data": {}', '"data": []')], "trace: line 2: "),
        ([*GOOD, ""], "trace: line 4: not an event of a guestclock trace ("),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(lines, message):
    with pytest.raises(UserError) as told:
        Trace.load(lines)
    assert str(told.value).startswith(message)
    assert "\n" not in str(told.value)


def test_the_name_of_the_file_is_in_the_message():
    with pytest.raises(UserError, match=r"^out/a\.json: empty"):
        Trace.load([], name="out/a.json")
