"""kvmclock as the guest's kernel gives it out: readers that write, explored as actors among KVM's own."""

from __future__ import annotations

from typing import Any

from guestclock.checks.asks import QUESTIONS
from guestclock.checks.checker import Checker
from guestclock.checks.readers import READINGS, spawn_readers
from guestclock.checks.spec import Spec
from guestclock.checks.verdict import HOLDS, VIOLATED, Verdict, _verdict
from guestclock.checks.world import Outcome, build
from guestclock.explore.run import Run, World
from guestclock.explore.search import Search

APART = '''"""The TSCs of the vCPUs are set apart: no masterclock, no STABLE, so last_value is at work."""
from guestclock.vmm.recipes.by_value_restore import save
async def restore(vm, snapshot):
    for index, vcpu in enumerate(vm.vcpus):
        await vcpu.set_tsc_offset(index * 10**10)
'''
QUIET = '''"""Out of the guest and in again."""
from guestclock.kvm.api import Vm
async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
async def resume(vm: Vm) -> None:
    pass
'''


def with_readers(spec: Spec, readers: int, reads: int = 1) -> tuple[Verdict, list[Any]]:
    """The verdict of kvmclock-last-value, and every reading of every order."""
    question = QUESTIONS["kvmclock-last-value"]
    checker = Checker(spec, [question])
    plain = build(spec)

    def world(world: World) -> Outcome:
        outcome = plain(world)
        spawn_readers(outcome, world, readers, reads)
        return outcome

    checker.build = world
    checker.search = Search(world, spec.bounds)
    seen: list[Any] = []

    def leaf(run: Run) -> None:
        seen.extend(run.world.values[READINGS])
        checker.look(run, checker.search.trail())

    assert checker.search.run(leaf)
    return _verdict(checker, question), seen


def spec_of(path: Any, text: str) -> Spec:
    path.write_text(text)
    return Spec(recipe=str(path), vcpus=1, delay_ns=10**8, life_ns=2 * 10**9, away_ns=10**9)


def test_stable_pages_are_believed_and_never_clamped(tmp_path: Any) -> None:
    verdict, readings = with_readers(spec_of(tmp_path / "quiet.py", QUIET), 1)
    assert readings
    assert not any(r.clamped for r in readings)
    assert verdict.asked == 0


def test_without_stable_a_clock_stands_still_for_what_another_vcpu_is_ahead() -> None:
    """linux-3.4 knows no masterclock: each page is made of two reads, and pages differ by what lies between them."""
    spec = Spec(recipe="by-value-restore", kernel="linux-3.4", delay_ns=10**8, life_ns=2 * 10**9, away_ns=10**9)
    verdict, readings = with_readers(spec, 2)
    assert all(r.clamped for r in readings)
    assert (verdict.status, verdict.sense) == (VIOLATED, "held still")
    assert verdict.worst == 10_000  # the bound of a kernel section


def test_with_one_vcpu_there_is_nobody_to_be_behind() -> None:
    spec = Spec(recipe="by-value-restore", kernel="linux-3.4", vcpus=1, delay_ns=10**8, away_ns=10**9)
    verdict, readings = with_readers(spec, 1)
    assert readings
    assert verdict.status == HOLDS
