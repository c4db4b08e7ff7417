"""Lines as trace_pipe gives them, with trace_clock x86-tsc."""

from __future__ import annotations

import pytest

from guestclock.errors import UserError
from guestclock.kvm.device.tracefs import Point, parse_line
from guestclock.kvm.device.x86.tracing import X86Tracing, parse_fields

UPDATE = (
    "vcpu_id 1, pvclock { version 4, tsc_timestamp 0x39210944e5a, system_time 0x12a1d878b, "
    "tsc_to_system_mul 0xc5377ec6, tsc_shift -1, flags 0x1 }"
)


def test_a_page_update_has_every_field() -> None:
    assert parse_fields("kvm_pvclock_update", UPDATE) == {
        "vcpu_id": 1,
        "version": 4,
        "tsc_timestamp": 0x39210944E5A,
        "system_time": 0x12A1D878B,
        "tsc_to_system_mul": 0xC5377EC6,
        "tsc_shift": -1,
        "flags": 1,
    }


def test_the_other_three() -> None:
    assert parse_fields("kvm_write_tsc_offset", "vcpu=3 prev=11897650238 next=18446744073709551615") == {
        "vcpu": 3, "prev": 11897650238, "next": 2**64 - 1,
    }  # fmt: skip
    text = "vcpu_id 3 masterclock 0 offsetmatched 0 nr_online 4 hostclock tsc"
    assert parse_fields("kvm_track_tsc", text) == {
        "vcpu_id": 3, "masterclock": 0, "offsetmatched": 0, "nr_online": 4, "hostclock": "tsc",
    }  # fmt: skip
    assert parse_fields("kvm_update_master_clock", "masterclock 1 hostclock 0x3 offsetmatched 1") == {
        "masterclock": 1, "hostclock": 3, "offsetmatched": 1,
    }  # fmt: skip


def test_a_line_gives_stamp_vcpu_and_owner() -> None:
    text = "masterclock 1 hostclock tsc offsetmatched 0"
    line = f"      a-b c-1234    [001] ...1. 3925878263399: kvm_update_master_clock: {text}"
    data = {"text": text, "masterclock": 1, "hostclock": "tsc", "offsetmatched": 0, "cpu": 1, "vm": 2}
    assert parse_line(line, X86Tracing(), {1234: (2, 5)}) == Point(
        "kvm_update_master_clock", (3925878263399, 3925878263399), 5, data
    )
    stranger = parse_line(line, X86Tracing())
    assert stranger is not None
    assert (stranger.vcpu, "vm" in stranger.data) == (None, False)


@pytest.mark.parametrize("line", ["", "# tracer: nop", "#           TASK-PID     CPU#  |||||  TIMESTAMP"])
def test_what_is_no_event_is_none(line: str) -> None:
    assert parse_line(line, X86Tracing()) is None


def test_lost_events_are_never_passed_over() -> None:
    with pytest.raises(UserError, match="CPU 1 lost 25 events"):
        parse_line("CPU:1 [LOST 25 EVENTS]", X86Tracing())
