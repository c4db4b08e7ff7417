"""A Linux guest of QEMU's, judged: on what was written down of one, with what must not pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from guestclock.check import Span
from guestclock.judges.linux_guest import Judged, Operation, Row, judge, judge_linux_guests
from guestclock.judges.linux_guest import played as playing
from guestclock.judges.linux_guest.calls import watched
from guestclock.judges.linux_guest.clocks import rate
from guestclock.lab import LabError
from guestclock.lab.linux_guest import CLOCKSOURCES, Ran
from guestclock.lab.setup import setup
from guestclock.vmm import recipe as recipes
from tests.judges.linux_guests import KERNEL, recorded

S, US = 10**9, 10**3
GUESTS = ("MONOTONIC", "BOOTTIME", "REALTIME", "MONOTONIC_RAW")

COUNTED_BY = {"kvm-clock": "kvmclock", "tsc": "TSC"}

POLICIES = {
    ("stop, cont", "TSC"): "run",
    ("stop, cont", "kvmclock"): "freeze",
    ("savevm", "TSC"): "run",
    ("savevm", "kvmclock"): "run until saved",
    ("loadvm", "TSC"): "freeze",
    ("loadvm", "kvmclock"): "run until saved",
}
"""What QEMU makes of each counter."""


def judged(clocksource: str, ran: Ran | None = None) -> Judged:
    return judge(ran or recorded(clocksource), KERNEL, KERNEL)


def rows(clocksource: str) -> list[tuple[Operation, Row]]:
    return [(operation, row) for operation in judged(clocksource).operations for row in operation.rows]


@pytest.mark.parametrize("clocksource", CLOCKSOURCES)
def test_every_clock_gained_what_the_model_says(clocksource):
    found = judged(clocksource)
    assert found.agrees
    assert found.differences == []
    assert [operation.name for operation in found.operations] == ["stop, cont", "savevm", "loadvm"]
    assert all(operation.before >= 10 and operation.after >= 10 for operation in found.operations)
    assert found.left_out == ["KVM_SET_TSC_KHZ"]


@pytest.mark.parametrize("clocksource", CLOCKSOURCES)
def test_predictions_are_as_narrow_as_the_calls_that_they_rest_on(clocksource):
    """KVM_GET_CLOCK takes half a microsecond there; reading and writing the TSC among 111 MSRs, three and a half."""
    for operation, row in rows(clocksource):
        assert row.predicted is not None
        width = row.predicted.width / 2596.122 * 1000 if row.unit == "cycles" else row.predicted.width
        assert width < (4.5 * US if operation.name == "loadvm" else 1.2 * US), (operation.name, row)


@pytest.mark.parametrize("clocksource", CLOCKSOURCES)
def test_other_policies_are_told_apart(clocksource):
    """The guest's own clocks do what its counter does, and what another policy would have made of them is not it."""
    for operation, row in rows(clocksource):
        counter = row.clock if row.clock not in GUESTS else COUNTED_BY[clocksource]
        policy = POLICIES[operation.name, counter]
        assert row.fits(row.run) == (policy == "run"), (operation.name, row)
        assert not row.fits(row.freeze), (operation.name, row)
        if policy == "freeze":  # but for what QEMU does between stop and reading, and between writing and going on
            assert row.freeze is not None
            missed = row.gained - row.freeze.middle
            assert 10 * US < missed / (2.596122 if row.unit == "cycles" else 1) < 500 * US


def test_saving_takes_its_time_and_kvmclock_counts_it():
    """The guest's MONOTONIC gains it at savevm, and once more at loadvm, by kvm-clock; by tsc, at savevm only."""
    gains = {
        clocksource: {operation.name: row for operation, row in rows(clocksource) if row.clock == "MONOTONIC"}
        for clocksource in CLOCKSOURCES
    }
    for operation in ("savevm", "loadvm"):
        row = gains["kvm-clock"][operation]
        assert row.freeze is not None
        assert 0.1 * S < row.gained - row.freeze.middle < 0.2 * S
    assert gains["tsc"]["loadvm"].gained < 0.1 * S


def test_realtime_is_left_behind_as_monotonic_is():
    for clocksource in CLOCKSOURCES:
        for operation in judged(clocksource).operations:
            by_clock = {row.clock: row.gained for row in operation.rows}
            assert abs(by_clock["REALTIME"] - by_clock["MONOTONIC"]) < US
            assert abs(by_clock["BOOTTIME"] - by_clock["MONOTONIC"]) < US


# ---- what must not pass


@pytest.mark.parametrize("clock", GUESTS)
@pytest.mark.parametrize("off_ns", [-2 * US, 2 * US])
def test_a_clock_that_is_off_by_two_microseconds_is_found(clock, off_ns):
    """In one operation; what comes after it is right again, as from there on it is off all the time."""
    ran = recorded("kvm-clock")
    seen = watched(ran.trace)
    cont = seen.segments[1].first

    def moved(record):
        reading = record.readings[clock]
        if seen.segments[0].host(reading.before) < cont:
            return record
        shifted = replace(reading, value_ns=reading.value_ns + off_ns)
        return replace(record, readings={**record.readings, clock: shifted})

    found = judged("kvm-clock", replace(ran, records=[moved(record) for record in ran.records]))
    wrong = {(operation.name, row.clock) for operation in found.operations for row in operation.rows if not row.agrees}
    assert wrong == {("stop, cont", clock)}


def with_recipe(monkeypatch, tmp_path: Path, which: str, old: str, new: str) -> None:
    """QEMU's recipe, with one thing changed."""
    source = recipes.load(which).path.read_text()
    assert source.count(old) == 1
    changed = tmp_path / "changed.py"
    changed.write_text(source.replace(old, new))
    names = {"qemu-stop-cont": "STOP_CONT", "qemu-migrate": "SAVE_LOAD"}
    monkeypatch.setattr(playing, names[which], str(changed))


def wrong(clocksource: str) -> set[tuple[str, str]]:
    return {(operation.name, row.clock) for operation, row in rows(clocksource) if not row.agrees}


def test_a_recipe_that_sets_another_clock_is_wrong(monkeypatch, tmp_path):
    set_clock = 'await vm.set_clock(vm.kept["clock"].clock_ns)'
    with_recipe(monkeypatch, tmp_path, "qemu-stop-cont", set_clock, set_clock.replace(")", " + 1_000)"))
    assert wrong("kvm-clock") == {("stop, cont", clock) for clock in ("kvmclock", *GUESTS)}
    assert wrong("tsc") == {("stop, cont", "kvmclock")}


def test_a_save_that_keeps_the_clock_of_the_stop_is_wrong(monkeypatch, tmp_path):
    """Our recipe until a real QEMU was asked."""
    old = '    vm.kept["clock"] = await vm.get_clock()  # again: it was running when migration began\n'
    new = '    await vm.get_clock()\n'  # fmt: skip
    with_recipe(monkeypatch, tmp_path, "qemu-migrate", old, new)
    assert ("savevm", "kvmclock") in wrong("tsc")
    assert ("savevm", "MONOTONIC") in wrong("kvm-clock")
    assert ("savevm", "MONOTONIC") not in wrong("tsc")


def test_a_tsc_that_is_restored_later_is_wrong(monkeypatch, tmp_path):
    write = "await vcpu.set_msr(MSR_IA32_TSC, saved.tsc)"
    with_recipe(monkeypatch, tmp_path, "qemu-migrate", write, write.replace("saved.tsc", "saved.tsc + 20_000"))
    assert ("loadvm", "TSC") in wrong("kvm-clock")
    assert ("loadvm", "MONOTONIC") in wrong("tsc")


def test_a_recipe_with_one_call_more_is_not_qemu_s(monkeypatch, tmp_path):
    call = "        await vcpu.kvmclock_ctrl()\n"
    with_recipe(monkeypatch, tmp_path, "qemu-stop-cont", call, call + "        await vcpu.kvmclock_ctrl()\n")
    found = judged("kvm-clock")
    assert not found.agrees
    assert found.differences == ["operation 5: QEMU's is Start, the recipe's KvmclockCtrl"]
    assert found.operations == []


def test_a_guest_that_never_went_back_is_no_result():
    ran = recorded("tsc")
    numbered = [replace(record, number=at) for at, record in enumerate(ran.records)]
    with pytest.raises(LabError, match="went back 0 times and ran 4 times: expected 1 and 4"):
        judged("tsc", replace(ran, records=numbered))


# ---- the guest's timekeeper


def test_a_timekeeper_on_kvm_clock_counts_what_it_is_told():
    assert rate("kvm-clock", 2_596_122).ns(1_000_000_007) == 1_000_000_007


def test_a_timekeeper_on_tsc_goes_by_its_multiplier():
    """Which at this rate is 50 ns in a second short of the TSC's."""
    by = rate("tsc", 2_596_122)
    assert (by.mult, by.shift) == (6_462_414, 24)
    assert -51 < by.ns(2_596_122_000) - S < -50
    assert by.ns(-2_596_122_000) == -by.ns(2_596_122_000)


def test_a_row_without_a_prediction_does_not_agree():
    assert not Row("TSC", "cycles", 0, None, None, None).agrees
    assert not Row("TSC", "cycles", 0, Span(1, 2), None, None).agrees
    assert Row("TSC", "cycles", 1, Span(1, 2), None, None).agrees


# ---- in the lab


@pytest.mark.lab
def test_a_guest_in_the_lab_does_what_the_model_says():
    """20 s of one CPU for each guest, and for the boot, where there is no snapshot of it yet; 60 s more for each guest
    that hangs, which one in ten does.
    """
    setup([KERNEL], linux_guest=True)
    for clocksource, found in zip(CLOCKSOURCES, judge_linux_guests(KERNEL), strict=True):
        assert found.agrees, found
        for operation in found.operations:
            for row in operation.rows:
                counter = row.clock if row.clock not in GUESTS else COUNTED_BY[clocksource]
                assert row.fits(row.run) == (POLICIES[operation.name, counter] == "run"), (operation.name, row)
                assert not row.fits(row.freeze), (operation.name, row)
