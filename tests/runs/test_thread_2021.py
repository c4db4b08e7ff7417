"""2021: a counter restored by value is late by whatever delayed the write; restored by offset it is not."""

from tests.runs.story import stories

DELAY_NS = {"0 s": 0, "0.3 s": 300_000_000, "5 s": 5_000_000_000}
SAVED, BY_VALUE, BY_OFFSET = 5, 10, 17


def late_ns(run, step, vcpu):
    """How far the restored TSC is behind the line that the saved one was on (the host is the same)."""
    return (run.offset(SAVED, vcpu) - run.offset(step, vcpu)) * 1_000_000 // run.khz


def test_by_value_is_late_by_the_delay():
    for (kernel, delay), run in stories("threads/2021-idempotent-x86").items():
        for vcpu in (0, 1):
            assert 0 <= late_ns(run, BY_VALUE, vcpu) - DELAY_NS[delay] < 50_000, (kernel, delay, vcpu)


def test_by_offset_is_right_whatever_the_delay():
    """What is left is the roundings of two clocks and the instants between KVM_SET_CLOCK's own reads."""
    runs = stories("threads/2021-idempotent-x86")
    late = {
        (kernel, delay): {late_ns(run, BY_OFFSET, vcpu) for vcpu in (0, 1)} for (kernel, delay), run in runs.items()
    }
    assert all(abs(ns) < 1_000 for values in late.values() for ns in values)
    for kernel in ("linux-5.16", "linux-6.12"):
        assert max(late[kernel, "5 s"]) - min(late[kernel, "0 s"]) < 1_000


def test_by_offset_both_vcpus_share_one():
    for run in stories("threads/2021-idempotent-x86").values():
        assert run.skew_ns(BY_OFFSET) == 0
        assert run.clock(BY_OFFSET)["flags"] == 14


def test_before_the_attribute_the_second_way_is_refused():
    run = stories("threads/2021-idempotent-x86", "linux-5.10")["linux-5.10", "5 s"]
    assert [e.data for e in run.named("note", "refused")] == [
        {"errno": "EINVAL", "op": "GetTscOffset"},
        {"errno": "EINVAL", "op": "SetClock"},
    ]
    assert [e.data["missing"] for e in run.named("note", "left out")] == ["src_offset.0"]
