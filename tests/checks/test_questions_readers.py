"""kvmclock as the guest's kernel gives it out: readers that write, explored as actors among KVM's own."""

from __future__ import annotations

from typing import Any

from guestclock.checks.asks import QUESTIONS
from guestclock.checks.checker import Checker
from guestclock.checks.outcome import Outcome
from guestclock.checks.spec import Spec
from guestclock.checks.verdict import HOLDS, VIOLATED, Verdict, verdict_of
from guestclock.checks.world import build
from guestclock.checks.x86.readers import READINGS, spawn_readers
from guestclock.explore.run import Run
from guestclock.explore.search import Search
from guestclock.explore.world import World

QUIET = '''"""Out of the guest and in again."""
from guestclock.kvm.api import Vm
async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
async def resume(vm: Vm) -> None:
    pass
'''


ORDERS = 24
"""Readers that write are dear: 2 on 2 vCPUs make hundreds of orders. So many are enough to be found a violation in."""


def with_readers(spec: Spec, readers: int, reads: int = 1) -> tuple[Verdict, list[Any]]:
    """The verdict of kvmclock-last-value over the first orders, and every reading in them."""
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

    checker.search.run(leaf, lambda: checker.search.tally.orders >= ORDERS)
    return verdict_of(checker, question), seen


def spec_of(path: Any, text: str) -> Spec:
    path.write_text(text)
    return Spec(recipe=str(path), vcpus=1, delay_ns=10**8, life_ns=2 * 10**9, away_ns=10**9)


def test_stable_pages_are_believed_and_never_clamped(tmp_path: Any) -> None:
    verdict, readings = with_readers(spec_of(tmp_path / "quiet.py", QUIET), 1)
    assert readings
    assert not any(r.clamped for r in readings)
    assert verdict.asked == 0


def test_without_stable_a_clock_stands_still_for_what_another_vcpu_is_ahead(tmp_path: Any) -> None:
    """linux-3.4 knows no masterclock: pages differ by what lies between the two reads each is made of, and by NTP."""
    spec = spec_of(tmp_path / "quiet.py", QUIET).but(kernel="linux-3.4", vcpus=2)
    verdict, readings = with_readers(spec, 2)
    assert all(r.clamped for r in readings)
    assert (verdict.status, verdict.sense) == (VIOLATED, "held still")
    assert verdict.worst is not None
    assert verdict.worst >= 10_000  # the bound of a kernel section


def test_with_one_vcpu_there_is_nobody_to_be_behind(tmp_path: Any) -> None:
    verdict, readings = with_readers(spec_of(tmp_path / "quiet.py", QUIET).but(kernel="linux-3.4"), 1)
    assert readings
    assert verdict.asked > 0
    assert verdict.status == HOLDS
