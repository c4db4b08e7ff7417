"""threads/2021-suspend: the defects of v3 that need more than a plain sleep, and guests that do not play along."""

from __future__ import annotations

from typing import Any

import pytest

from guestclock.checks.suspend import x86
from guestclock.checks.suspend.setting import KHZ, S, Setting
from guestclock.checks.suspend.thread import (
    CORRECTED,
    FASTER,
    GATE,
    HIBERNATION,
    ODD_NIGHTS,
    SLOWER,
    V3,
)
from guestclock.guest.suspend_time import HandlerCorrected, HandlerV3, NoHandler
from guestclock.kvm.model.overlay import plain
from guestclock.kvm.model.x86 import overlays
from guestclock.kvm.model.x86.state import VcpuTime
from guestclock.kvm.model.x86.suspend_corrected import SuspendCorrected
from tests.checks.suspend.asking import asked, held, in_world, violated

SLEPT_CYCLES = 600 * KHZ * 1000


# ---- what is found in v3, and not in designs that stop a VM as one


def test_two_sleeps_for_one_vcpu_and_their_sum_for_another_are_a_millisecond_apart() -> None:
    setting = Setting(kernel=V3, handler=HandlerV3, nights=ODD_NIGHTS, paused=1, ignores=True)
    assert violated(in_world(setting, "one", orders=20)) == {"one": pytest.approx(KHZ, abs=2)}
    assert violated(in_world(setting, "I2", orders=20)) == {"I2": pytest.approx(10**6, abs=2)}, "MONOTONIC goes back"
    assert held(asked("corrected", "one-paused")) == {"I2", "one"}


@pytest.mark.parametrize(("case_", "cycles"), [("slower", 3_689_353_078_785_441_792), ("faster", 4_611_682e12)])
def test_a_scaled_tsc_is_moved_by_a_part_of_2_to_the_64(case_: str, cycles: float) -> None:
    assert violated(asked("v3", case_, "I8")) == {"I8": pytest.approx(cycles, rel=1e-6)}
    for design in ("corrected", "inhibitor", "gate"):
        assert held(asked(design, case_, "I6", "I8")) == {"I6", "I8"}, design


def test_a_vmm_that_forgets_the_scale_is_flagged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(x86, "guest_cycles", lambda vcpu, host_tsc: host_tsc)
    for khz in (SLOWER, FASTER):
        setting = Setting(handler=HandlerCorrected, vmm="inhibitor", vcpus=1, khz=khz)
        assert set(violated(in_world(setting, "I8"))) == {"I8"}


def test_a_vcpu_that_is_plugged_in_before_the_freezer_enters_with_the_sleep_in_its_tsc() -> None:
    found = violated(asked("v3", "around", orders=60))
    assert found["I24"]
    assert found["I22"] == pytest.approx(SLEPT_CYCLES, rel=1e-4)
    assert held(asked("corrected", "around")) == {"I22", "I24"}


def test_a_vcpus_thread_goes_round_for_as_long_as_a_hibernation_writes_files() -> None:
    assert violated(asked("v3", "hibernate", "spin")) == {"spin": 5_100_000_000}
    for design in ("corrected", "gate"):
        assert held(asked(design, "hibernate", "spin")) == {"spin"}, design


def test_a_store_into_a_record_that_was_given_back() -> None:
    assert violated(asked("v3", "anew", orders=100)) == {"stray": 1}
    assert held(asked("corrected", "anew")) == {"stray"}


# ---- guests that do not play along

KEPT = {"I1", "I4", "I6", "I8", "I10", "I23", "I24"}


@pytest.mark.parametrize("design", ["corrected", "inhibitor", "gate", "detect"])
def test_counters_are_hidden_from_whoever_does_not_listen(design: str) -> None:
    assert held(asked(design, "ignores")) == KEPT
    assert held(asked(design, "other-os")) == {"I1", "I8"}


def test_v3_hides_nothing_from_a_guest_that_has_not_asked() -> None:
    assert violated(asked("v3", "other-os")) == {"I8": pytest.approx(SLEPT_CYCLES, rel=1e-4)}
    assert violated(asked("v3", "ignores", "I6")) == {"I6": pytest.approx(10**6, abs=2)}, "it has asked: whole ms alone"


def test_the_corrected_design_hides_nothing_where_neither_guest_nor_vmm_has_asked() -> None:
    silent = Setting(kernel=CORRECTED, handler=NoHandler, vcpus=1)
    assert violated(in_world(silent, "I8")) == {"I8": pytest.approx(SLEPT_CYCLES, rel=1e-4)}
    assert held(in_world(silent.but(hides=True), "I8")) == {"I8"}


@pytest.mark.parametrize(("kernel", "vmm"), [(CORRECTED, ""), (GATE, "gate"), ("linux-6.12", "inhibitor")])
def test_their_boottime_is_short_by_the_sleep(kernel: str, vmm: str) -> None:
    setting = Setting(kernel=kernel, handler=HandlerCorrected, vmm=vmm, vcpus=1, ignores=True)
    assert violated(in_world(setting, "I11")) == {"I11": pytest.approx(600.3 * S, abs=S)}


# ---- negative controls


class EpochFromTheStart(SuspendCorrected):
    """A new vCPU's epoch is the one of when it began to be made."""

    @classmethod
    def vcpu_created(cls, vcpu: VcpuTime) -> None:
        SuspendCorrected.vcpu_has_tsc(vcpu)

    @classmethod
    def vcpu_has_tsc(cls, vcpu: VcpuTime) -> None:
        pass


class GoesRound(SuspendCorrected):
    """Who is barred tries again and again."""

    @classmethod
    def spins(cls, vcpu: VcpuTime) -> bool:
        return cls.barred(vcpu)


@pytest.mark.parametrize(
    ("rule", "changes", "flagged"),
    [
        (EpochFromTheStart, {"hotplug": "around", "ignores": True}, "I24"),
        (GoesRound, {"nights": HIBERNATION, "interrupted": True}, "spin"),
    ],
)
def test_a_broken_line_is_flagged(
    monkeypatch: pytest.MonkeyPatch, rule: type[SuspendCorrected], changes: dict[str, Any], flagged: str
) -> None:
    monkeypatch.setitem(overlays.OVERLAYS, "broken", plain("broken", "broken", suspend_time=rule))
    setting = Setting(kernel="linux-6.12+broken", handler=HandlerCorrected, vcpus=1).but(**changes)
    assert flagged in violated(in_world(setting, flagged))


def test_it_is_the_gap_between_look_up_and_store_that_makes_it_stray() -> None:
    """The same world, with v3's store in one step, has none: what flags it is no property of the world."""
    setting = Setting(kernel=V3, handler=HandlerV3, anew=True, ignores=True)
    assert not violated(in_world(setting, "stray", orders=100))
