"""Lines as trace_pipe of 6.1 and 6.12 gives them, with trace_clock mono_raw, and when they were."""

from __future__ import annotations

import pytest

from guestclock.kvm.device import native
from guestclock.kvm.device.arm64.tracing import Arm64Tracing, parse_fields
from guestclock.kvm.device.tracefs import parse_line

HZ = 62_500_000
START = 10**9
"""The counter when MONOTONIC_RAW was 0, before any sleep."""


@pytest.mark.parametrize(
    ("name", "text", "fields"),
    [
        (
            "kvm_timer_save_state",
            "   CTL: 0x000005 CVAL:           0x3039 arch_timer_ctx_index: 1",
            {"ctl": 5, "cval": 0x3039, "arch_timer_ctx_index": 1},
        ),
        (
            "kvm_timer_restore_state",
            "CTL: 0x000000 CVAL: 0xffffffffffffffff arch_timer_ctx_index: 0",
            {"ctl": 0, "cval": 2**64 - 1, "arch_timer_ctx_index": 0},
        ),
        ("kvm_timer_update_irq", "VCPU: 1, IRQ 27, level 0", {"vcpu": 1, "irq": 27, "level": 0}),
        (
            "kvm_get_timer_map",
            "VCPU: 1, dv: 1, dp: 0, ev: -1, ep: -1",
            {"vcpu": 1, "dv": 1, "dp": 0, "ev": -1, "ep": -1},
        ),
        ("kvm_get_timer_map", "VCPU: 0, dv: 1, dp: -1, ep: 0", {"vcpu": 0, "dv": 1, "dp": -1, "ep": 0}),
        (
            "kvm_timer_emulate",
            "arch_timer_ctx_index: 0 (should_fire: 1)",
            {"arch_timer_ctx_index": 0, "should_fire": 1},
        ),
        ("kvm_timer_hrtimer_expire", "arch_timer_ctx_index: 0", {"arch_timer_ctx_index": 0}),
        ("kvm_exit", "TRAP: HSR_EC: 0x0024 (DABT_LOW), PC: 0x40001038", {}),
    ],
)
def test_fields_are_named_as_in_the_kernel_s_text(name: str, text: str, fields: dict[str, int]) -> None:
    assert parse_fields(name, text) == fields


class Host:
    """A host whose readings of both clocks take `width` ticks, and that can sleep."""

    def __init__(self, width: int) -> None:
        self.width, self.slept = width, 0
        self.at = START + 5 * HZ

    def clock(self, clock_id: int) -> tuple[int, int, int]:
        raw_ns = (self.at - self.slept - START) * 10**9 // HZ
        return raw_ns, self.at - self.width, self.at + self.width


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(10)
    monkeypatch.setattr(native, "clock", host.clock)
    return host


def stamp(host: Host, counter: int) -> str:
    us = (counter - host.slept - START) * 10**6 // HZ
    return f"{us // 10**6}.{us % 10**6:06d}"


def test_a_stamp_is_an_interval_that_the_counter_was_in(host: Host) -> None:
    tracing = Arm64Tracing(HZ)
    host.at += HZ
    tracing.about_to_read()
    for counter in range(START + 5 * HZ, START + 6 * HZ, 12_345_677):
        least, most = tracing.counter(stamp(host, counter))
        assert least <= counter <= most
        assert most - least <= HZ // 10**6 + 2 * host.width + 3


def test_narrower_readings_narrow_it(host: Host) -> None:
    tracing = Arm64Tracing(HZ)
    host.width = 2
    tracing.about_to_read()
    least, most = tracing.counter(stamp(host, START + 5 * HZ))
    assert most - least <= HZ // 10**6 + 2 * host.width + 3


def test_where_the_host_slept_in_between_both_readings_are_allowed_for(host: Host) -> None:
    """MONOTONIC_RAW stood still meanwhile: a stamp does not say on which side of the sleep it was taken."""
    tracing = Arm64Tracing(HZ)
    before = START + 5 * HZ
    told = stamp(host, before)
    host.at, host.slept = host.at + 10 * HZ, 10 * HZ
    tracing.about_to_read()
    least, most = tracing.counter(told)
    assert least <= before <= before + 10 * HZ <= most


def test_a_line_belongs_to_its_thread_s_vcpu_or_to_the_one_it_names(host: Host) -> None:
    tracing = Arm64Tracing(HZ)
    text = "   CTL: 0x000000 CVAL: 0x0 arch_timer_ctx_index: 1"
    line = f"       vcpu0-77    [000] d..1.     5.000001: kvm_timer_save_state: {text}"
    point = parse_line(line, tracing, {77: (2, 5)})
    assert point is not None
    assert (point.name, point.vcpu, point.data["vm"], point.data["ctl"]) == ("kvm_timer_save_state", 5, 2, 0)
    line = "       vcpu0-77    [000] d..1.     5.000001: kvm_timer_update_irq: VCPU: 3, IRQ 27, level 0"
    point = parse_line(line, tracing, {77: (2, 5)})
    assert point is not None
    assert point.vcpu == 3


def test_of_a_whole_machine_s_lines_only_ours_are_kept(host: Host) -> None:
    tracing = Arm64Tracing(HZ)
    line = "       vcpu0-77    [000] d..1.     5.000001: kvm_timer_hrtimer_expire: arch_timer_ctx_index: 0"
    assert parse_line(line, tracing, {}, {77}) is not None
    assert parse_line(line, tracing, {}, {78}) is None
