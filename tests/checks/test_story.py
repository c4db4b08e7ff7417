"""A story has what the value hangs on, in order of time, and nothing else."""

from __future__ import annotations

from guestclock.report.check_story import told
from tests.report.violations import CASES, retold, violation


def test_by_value_restore_is_two_values_read_two_written_and_two_readings() -> None:
    story = retold(violation("by-value"))
    calls = [(s.data["op"]["op"], s.vcpu) for s in story.steps if s.kind == "call"]
    assert calls == [("GetMsr", 0), ("GetMsr", 1), ("SetMsr", 0), ("SetMsr", 1)]
    assert [(s.kind, s.vcpu) for s in story.steps[4:]] == [("read", 0), ("read", 1)]
    first, second = story.steps[2:4]
    assert first.data["effect"]["generation"] + 1 == second.data["effect"]["generation"]
    apart = story.readings[0].data["value"] - story.readings[1].data["value"]
    assert abs(apart) == story.value


def test_a_hotplug_is_told_with_its_snapshot() -> None:
    story = retold(violation("hotplug"))
    rows = [row.text for row in told(story)]
    assert any("vcpu2 is created" in row for row in rows)
    assert [s.kind for s in story.steps].count("snapshot") == 2
    assert rows[-1].endswith("ns (4.986 µs) earlier")


def test_steps_come_in_order_and_the_last_contradicts() -> None:
    for name in CASES:
        rows = told(retold(violation(name)))
        times = [row.since_ps for row in rows]
        assert times == sorted(times)
        assert [row.contradicts for row in rows] == [False] * (len(rows) - 1) + [True]


def test_the_rule_at_work_is_the_kernels() -> None:
    rules = retold(violation("by-value")).rules
    assert [(rule.hook, rule.since) for rule in rules] == [("tsc_matching", "6.7")]
    assert "P9: 0, or within one second" in rules[0].about
