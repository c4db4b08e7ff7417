"""deadline-kept: a timer that the guest has armed, across the operation. Broken recipes are told, good ones hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guestclock.checks.questions import deadline
from guestclock.checks.questions.deadline import tolerated
from guestclock.checks.spec import Site, Spec
from guestclock.checks.verdict import HOLDS, VACUOUS, VIOLATED, Verdict, check
from guestclock.vmm import recipe as recipes

NAME = "deadline-kept"
KHZ = 2_596_122
SECOND = KHZ * 1000
LIFE_S = 10


def ask(recipe: str, **changes: Any) -> Verdict:
    """One vCPU that lives for up to 10 s and arms its timer 20 s ahead, unless told otherwise."""
    usual: dict[str, Any] = {
        "recipe": recipe, "vcpus": 1, "delay_ns": 10**8, "life_ns": LIFE_S * 10**9, "away_ns": 10**10,
        "deadline_ns": 20 * 10**9, "policy": tuple(recipes.load(recipe).policy.items()), "properties": (NAME,),
    }  # fmt: skip
    result = check(Spec(**{**usual, **changes}), stories=False)
    assert result.complete
    (verdict,) = result.verdicts
    return verdict


def own(folder: Path, text: str) -> str:
    path = folder / "mine.py"
    path.write_text(text)
    return str(path)


# ---- Firecracker #4099


def test_a_deadline_before_its_tsc_is_late_by_all_that_the_tsc_is_ahead() -> None:
    verdict = ask("firecracker-restore-deadline-first")
    assert (verdict.status, verdict.sense, verdict.unit) == (VIOLATED, "late", "cycles")
    assert verdict.worst is not None
    # The guest's life, and up to 0.1 s for each of the calls before it is left and after the new VM is made.
    assert LIFE_S * SECOND < verdict.worst < (LIFE_S + 2) * SECOND


def test_after_its_tsc_it_is_kept_within_a_section() -> None:
    verdict = ask("firecracker-restore")
    assert verdict.status == HOLDS
    assert verdict.asked > 0


@pytest.mark.parametrize("section_ns", [1_000, 50_000])
def test_without_its_tolerance_it_is_early_by_a_section(section_ns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the tolerance is no wider than what KVM's own two clock reads make, and they do make it."""
    allowed = []

    def none(outcome: Any, window: Any) -> int:
        allowed.append(tolerated(outcome, window))
        return 0

    monkeypatch.setattr(deadline, "tolerated", none)
    verdict = ask("firecracker-restore", section_ns=section_ns)
    assert (verdict.status, verdict.sense) == (VIOLATED, "early")
    assert verdict.worst is not None
    assert max(allowed) - 6 <= verdict.worst <= max(allowed)


def test_a_timer_that_may_have_fired_before_the_guest_left_is_no_violation() -> None:
    """5 s ahead in a life of 1 to 10 s: in some orders the MSR is saved as 0."""
    assert ask("firecracker-restore", deadline_ns=5 * 10**9).status == HOLDS
    verdict = ask("firecracker-restore-deadline-first", deadline_ns=5 * 10**9)
    assert verdict.status == VIOLATED
    assert verdict.worst is not None
    assert verdict.worst < 6 * SECOND, "only those that had not fired"


# ---- other operations


def test_a_deadline_that_is_not_saved_is_lost() -> None:
    verdict = ask("kernel-doc-migrate")
    assert (verdict.status, verdict.sense, verdict.worst) == (VIOLATED, "timers lost", 1)


def test_one_that_has_surely_fired_is_not_lost() -> None:
    verdict = ask("kernel-doc-migrate", deadline_ns=10**8)
    assert verdict.status == HOLDS
    assert verdict.asked > 0


def test_a_pause_with_a_running_tsc_leaves_it_alone() -> None:
    verdict = ask("qemu-stop-cont")
    assert verdict.status == HOLDS
    assert verdict.asked > 0


REWIND = '''"""The TSC stands still for the pause, the timer does not."""
from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Vm
POLICY = {"tsc": "freeze"}
SAVED = []
async def pause(vm: Vm) -> None:
    await vm.vcpus[0].kick()
    SAVED[:] = [await vm.vcpus[0].get_msr(MSR_IA32_TSC)]
async def resume(vm: Vm) -> None:
    await vm.vcpus[0].set_msr(MSR_IA32_TSC, SAVED[0])
'''


def test_a_tsc_that_is_set_back_under_an_armed_timer_makes_it_early(tmp_path: Path) -> None:
    verdict = ask(own(tmp_path, REWIND))
    assert (verdict.status, verdict.sense) == (VIOLATED, "early")
    assert verdict.worst is not None
    assert 10 * SECOND <= verdict.worst < 11 * SECOND  # for as long as it was away


def test_more_than_two_hours_ahead_the_kernels_own_product_wraps() -> None:
    verdict = ask("firecracker-restore", deadline_ns=3 * 3600 * 10**9)
    assert (verdict.status, verdict.sense) == (VIOLATED, "early")


PROMISED = '''"""The saved rate is promised, however near the host's own is: KVM believes it and scales nothing."""
from guestclock.vmm.recipes.firecracker_restore import pause, save
from guestclock.vmm.recipes.firecracker_restore import restore as by_value
POLICY = {"tsc": "freeze"}
async def restore(vm, snapshot):
    for vcpu in vm.vcpus:
        await vcpu.set_tsc_khz(snapshot.vcpus[0].tsc_khz)
    await by_value(vm, snapshot)
'''


def test_a_promised_rate_that_the_tsc_does_not_have_makes_it_early(tmp_path: Path) -> None:
    """100 ppm, within what KVM takes for the same: the timer goes by the promise (kvm-x86.md 2.6), the TSC does not."""
    sites = (Site(khz=KHZ), Site(khz=KHZ * 9_999 // 10_000))
    assert ask("firecracker-restore", sites=sites).status == HOLDS
    verdict = ask(own(tmp_path, PROMISED), sites=sites)
    assert (verdict.status, verdict.sense) == (VIOLATED, "early")
    assert verdict.worst is not None
    assert 15 * SECOND // 10_000 < verdict.worst < 20 * SECOND // 10_000 + 30_000


# ---- not asked


@pytest.mark.parametrize("recipe", ["firecracker-restore", "qemu-stop-cont"])
def test_a_guest_without_a_timer_is_not_asked_about(recipe: str) -> None:
    assert ask(recipe, deadline_ns=0).status == VACUOUS
