"""A stock Linux guest of QEMU's whose host sleeps, judged: on what was written down of one, with what must not pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guestclock.judges.linux_guest import Operation, judge, judge_linux_guests
from guestclock.lab import LabError
from guestclock.lab.guest_init import Record
from guestclock.lab.linux_guest import CLOCKSOURCES, Ran
from guestclock.lab.setup import setup
from tests.judges.linux_guests import KERNEL, SLEEP_NS, recorded

S = 10**9
TRUE_KHZ, BELIEVED_KHZ = 1_000_000, 2_596_122
"""The lab's TSC, and what its kernel and the guest's take it for."""

GUESTS = ("MONOTONIC", "BOOTTIME", "REALTIME", "MONOTONIC_RAW")


def over_a_sleep(ran: Ran) -> Operation:
    judged = judge(ran, KERNEL, KERNEL)
    assert judged.differences == []
    (operation,) = judged.operations
    return operation


def slept_whole(operation: Operation) -> bool:
    """All of the sleep by the RTC, to its second, as so many seconds of a TSC that is taken for a faster one."""
    true_ns = operation.missed_ns * BELIEVED_KHZ // TRUE_KHZ
    return abs(true_ns - SLEEP_NS) < S


@pytest.mark.parametrize("clocksource", CLOCKSOURCES)
def test_every_clock_counts_the_sleep_as_the_model_says_and_boottime_no_more_than_monotonic(clocksource):
    operation = over_a_sleep(recorded(clocksource, sleeps=True))
    assert slept_whole(operation)
    assert operation.before >= 10
    assert operation.after >= 10
    gained = {row.clock: row.gained for row in operation.rows}
    for row in operation.rows:
        assert row.agrees
        assert row.fits(row.run)
        assert not row.fits(row.freeze)
        assert row.predicted.width < 500, "as wide as the sandwich of a reading"
    assert all(abs(gained[name] - operation.apart_ns) < 1000 for name in GUESTS)


@pytest.mark.parametrize("clocksource", CLOCKSOURCES)
@pytest.mark.parametrize("clock", GUESTS)
def test_a_clock_that_gains_a_microsecond_over_it_is_told(clocksource, clock):
    ran = recorded(clocksource, sleeps=True)
    operation = over_a_sleep(ran)

    def ahead(record: Record) -> Record:
        if record.number <= operation.before:
            return record
        readings = dict(record.readings)
        readings[clock] = replace(readings[clock], value_ns=readings[clock].value_ns + 1000)
        return replace(record, readings=readings)

    rows = over_a_sleep(replace(ran, records=[ahead(record) for record in ran.records])).rows
    assert [row.clock for row in rows if not row.agrees] == [clock]


@pytest.mark.parametrize("field", ["system_time", "tsc_timestamp", "tsc_to_system_mul"])
def test_a_kernel_that_wrote_another_page_after_it_is_told(field):
    ran = recorded("tsc", sleeps=True)
    last = max(i for i, line in enumerate(ran.trace) if "kvm_pvclock_update" in line)
    words = ran.trace[last].split()
    at = words.index(field) + 1
    changed = f"{int(words[at].rstrip(','), 16) + 1000:#x},"
    trace = list(ran.trace)
    trace[last] = trace[last].replace(f"{field} {words[at]}", f"{field} {changed}")
    rows = over_a_sleep(replace(ran, trace=trace)).rows
    assert {row.clock for row in rows if not row.agrees} == {"kvmclock"}


def test_a_guest_that_was_taken_back_meanwhile_is_none_that_slept():
    ran = recorded("tsc", sleeps=True)
    with pytest.raises(LabError, match="went back 1 times and ran 2 times: expected 0 and 2"):
        judge(replace(ran, records=[*ran.records, *ran.records]), KERNEL, KERNEL)


@pytest.mark.lab
def test_a_guest_in_the_lab_counts_its_host_s_sleep():
    """20 s of one CPU, and a boot more where there is no snapshot of it yet."""
    setup([KERNEL], linux_guest=True)
    (found,) = judge_linux_guests(KERNEL, clocksources=["kvm-clock"], away_ns=SLEEP_NS, sleeps=True)
    (operation,) = found.operations
    assert found.agrees, found
    assert slept_whole(operation)
    assert all(row.fits(row.run) and not row.fits(row.freeze) for row in operation.rows)
