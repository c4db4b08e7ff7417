"""Each thing said once, with its amount, its side and what hides it."""

from __future__ import annotations

import pytest

from guestclock.check import Mark, Span, marks, story
from guestclock.report.words import machine_named, sentence, told, vcpus_named
from tests.check.hand import Hand, clean

S = 10**9


def said(hand: Hand) -> list[str]:
    return [t.sentence for t in told(marks(story(hand.trace)))]


@pytest.mark.parametrize(
    ("vcpus", "name"), [((0,), "vcpu0"), ((0, 1), "vcpu0,1"), ((0, 1, 2), "vcpu0-2"), ((3, 0, 1, 2, 5), "vcpu0-3,5")]
)
def test_names_of_vcpus(vcpus: tuple[int, ...], name: str) -> None:
    assert vcpus_named(vcpus) == name


def test_a_step_back_says_whether_the_guest_is_protected() -> None:
    hand = clean()
    hand.step()
    hand.snapshot(ahead_ns=-4987)
    hand.look()
    assert said(hand) == ["vcpu0,1 kvmclock steps back 4 987 ns, STABLE set"]
    hand = clean()
    for vcpu in range(2):
        hand.change(vcpu, flags=0)
    hand.look()
    hand.step()
    hand.snapshot(flags=0, ahead_ns=-12)
    hand.look()
    assert said(hand) == ["vcpu0,1 kvmclock steps back 12 ns (not STABLE: the guest's last_value hides it)"]


def test_a_tsc_write_is_one_line_with_its_kvmclock() -> None:
    hand = clean()
    hand.step()
    hand.offset = [o + 5 * S for o in hand.offset]
    hand.look()
    assert said(hand) == ["vcpu0,1 TSC jumps ahead 5 000 000 000 cycles (5.000 s), its kvmclock 5.000 s"]


def test_a_lie_of_the_flags_is_not_told_twice() -> None:
    hand = clean()
    hand.step()
    hand.offset[1] -= 5 * S  # before the page's timestamp: the unsigned delta of kvm-x86.md 2.2
    hand.look()
    lines = said(hand)
    assert "vcpu1 TSC is 5 000 000 000 cycles (5.000 s) behind vcpu0's" in lines
    assert [line for line in lines if line.startswith("vcpu0,1 say STABLE, but vcpu1's kvmclock is")]
    assert not [line for line in lines if "KVM_GET_CLOCK" in line or ("kvmclock is" in line and "STABLE" not in line)]


def test_kvm_get_clock() -> None:
    hand = clean()
    hand.step()
    hand.look(clock_ahead_ns=-400_177)
    assert said(hand) == ["KVM_GET_CLOCK is 400 177 ns behind vcpu0,1's kvmclock"]


def test_what_goes_on_is_said_quietly() -> None:
    hand = clean()
    hand.step()
    hand.offset[1] += 7
    hand.snapshot(1)
    hand.look()
    hand.step()
    hand.wait(S)
    hand.look()
    last = told(marks(story(hand.trace)))[-1]
    assert (last.sentence, last.weight) == ("vcpu1 TSC is 7 cycles (7 ns) ahead of vcpu0's (still)", 0)


def test_pages() -> None:
    assert "odd version" in sentence(Mark("version-protocol", 0, 0, (1,), "page", "odd"))
    assert "old version" in sentence(Mark("version-protocol", 0, 0, (1,), "page", "unnumbered"))


def test_a_sandwich_is_part_of_the_amount() -> None:
    mark = Mark("kvmclock-runs", 0, 0, (0,), "kvmclock", "jumps ahead", Span(900, 1100))
    assert sentence(mark) == "vcpu0 kvmclock jumps ahead 1 000 ns ± 100 ns"


def test_machines() -> None:
    assert machine_named({"on": "model", "kernel": "linux-6.7"}) == "model linux-6.7"
    assert machine_named({"on": "lab:6.12", "kernel": "6.12.48"}) == "lab:6.12 (6.12.48)"
