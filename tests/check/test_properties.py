"""Each property: a trace it must flag, and clean ones that none may flag."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from guestclock.abi.msr import MSR_KVM_SYSTEM_TIME_NEW
from guestclock.check import PROPERTIES, Mark, marks, story, unjudged
from guestclock.kvm.api import EnableKvmclock, Kick, Op, Run, SetMsr, SetTscKhz, Start, Wrmsr
from tests.check.hand import Hand, clean

S = 10**9

OF_X86 = [p for p in PROPERTIES if p.arch == "x86_64"]


def found(hand: Hand) -> list[Mark]:
    return marks(story(hand.trace))


def by_name(hand: Hand) -> dict[str, list[Mark]]:
    return {p.name: [m for m in found(hand) if m.name == p.name] for p in PROPERTIES}


# ---- what must not be flagged


@pytest.mark.parametrize("sandwich", [0, 1, 9_000])
@pytest.mark.parametrize("khz", [1_000_000, 2_596_122, 3_600_000])
def test_a_clean_trace_has_no_marks(khz: int, sandwich: int) -> None:
    assert found(clean(khz=khz, sandwich=sandwich, vcpus=4)) == []


def test_re_snapshots_that_only_truncate_are_clean() -> None:
    hand = clean(khz=1_000_000)
    for nanoseconds in (1, 2, 3, 999, 123_456_789):
        hand.step()
        hand.wait(nanoseconds)
        hand.snapshot()
        hand.look()
    assert found(hand) == []


def test_a_vcpu_without_a_page_is_clean() -> None:
    hand = Hand()
    hand.look()
    hand.step()
    hand.snapshot(0)
    hand.look()
    hand.step()
    hand.new_vcpu()
    hand.look()
    assert found(hand) == []


def test_a_second_vm_begins_anew() -> None:
    hand = clean()
    hand.step("restore")
    hand.new_vm(2)
    hand.look()
    assert found(hand) == []


def test_a_scaled_vm_whose_page_has_the_exact_rate_is_clean() -> None:
    hand = Hand(2_000_000, frac_bits=48)
    for vcpu in range(2):
        hand.set_khz(vcpu, 1_000_000)
    hand.snapshot(page_khz=1_000_000)
    for _ in range(3):
        hand.look()
        hand.step()
        hand.wait(1000 * S)
    hand.look()
    assert found(hand) == []


def test_a_step_too_small_for_the_sandwiches_is_not_claimed() -> None:
    hand = clean(sandwich=4_000)
    hand.step()
    hand.move_tsc(1, -7_000)
    hand.look(clock_ahead_ns=None)
    assert found(hand) == []


def unstable_and_apart(flags: int) -> Hand:
    """TSCs apart by less than the sandwiches tell, and pages made for each, so that the kvmclocks are one."""
    hand = clean(sandwich=4_000)
    hand.step()
    hand.move_tsc(1, 3_000)
    for vcpu in range(2):
        hand.snapshot(vcpu, flags=flags)
    hand.look(clock_ahead_ns=None)
    return hand


def test_without_stable_no_page_is_read_with_another_vcpu_s_tsc() -> None:
    assert found(unstable_and_apart(flags=0)) == []
    assert {m.name for m in found(unstable_and_apart(flags=1))} == {"kvmclock-agrees", "flags-honest"}


def test_a_page_that_is_being_written_may_be_odd() -> None:
    hand = clean()
    hand.op(Start(0, 0), None)
    hand.step("a look while the kernel writes")
    hand.change(0, version=7)
    hand.look()
    assert found(hand) == []
    hand.op(Kick(0, 0), None)
    step = hand.step("nobody is there to write on")
    hand.look()
    assert [(m.name, m.step) for m in found(hand)] == [("version-protocol", step)]


@pytest.mark.parametrize(
    "op",
    [
        EnableKvmclock(0, 0),
        SetMsr(0, 0, MSR_KVM_SYSTEM_TIME_NEW, 0x1001),
        Run(0, 0, (Wrmsr(MSR_KVM_SYSTEM_TIME_NEW, 0x1001),)),
    ],
)
def test_a_page_registered_elsewhere_counts_for_itself(op: Op) -> None:
    hand = broken_version_unnumbered()
    assert by_name(hand)["version-protocol"]
    hand = broken_version_unnumbered(op)
    assert by_name(hand)["version-protocol"] == []


# ---- what a trace can show


def test_what_there_is_nothing_to_judge_by_is_said() -> None:
    assert names_of(clean()) == set()
    assert names_of(clean(vcpus=1)) == {"tsc-agrees", "kvmclock-agrees", "flags-honest"}


def test_without_pages_only_the_tscs_are_judged() -> None:
    hand = Hand()
    hand.look()
    hand.step()
    hand.look()
    assert names_of(hand) == {p.name for p in OF_X86} - {"tsc-never-back", "tsc-runs", "tsc-agrees"}


def test_one_look_shows_no_clock_running() -> None:
    hand = Hand()
    hand.snapshot(flags=0)
    hand.look(clock_ahead_ns=None)
    through_time = {"kvmclock-never-back", "tsc-never-back", "kvmclock-runs", "tsc-runs"}
    assert names_of(hand) == through_time | {"flags-honest", "get-clock-agrees"}


def test_what_breaks_was_judged() -> None:
    for name, make in BROKEN:
        assert name not in names_of(make())


def names_of(hand: Hand) -> set[str]:
    return {prop.name for prop in unjudged(story(hand.trace))}


# ---- what must be


def broken_kvmclock_back() -> Hand:
    hand = clean()
    hand.step("a new snapshot of a base that lags")
    hand.snapshot(ahead_ns=-1)
    hand.look()
    return hand


def broken_tsc_back() -> Hand:
    hand = clean()
    hand.step("the VMM writes a lower TSC to all")
    hand.offset = [o - 2 * 10**9 for o in hand.offset]
    hand.look()
    return hand


def broken_kvmclock_runs() -> Hand:
    hand = clean()
    hand.step("KVM_SET_CLOCK to 3 ns more")
    hand.snapshot(ahead_ns=3)
    hand.look()
    return hand


def broken_tsc_runs() -> Hand:
    hand = clean()
    hand.step("the VMM writes a higher TSC to all")
    hand.offset = [o + 1 for o in hand.offset]
    hand.look()
    return hand


def broken_tsc_agrees() -> Hand:
    hand = clean(vcpus=3)
    hand.step("one more than the others")
    hand.offset[2] += 1
    hand.snapshot(2)
    hand.look()
    return hand


def broken_kvmclock_agrees() -> Hand:
    hand = clean(vcpus=3)
    hand.step("one page, 3 ns late")
    hand.snapshot(1, flags=0, ahead_ns=-3)
    hand.look()
    return hand


def broken_flags_honest() -> Hand:
    hand = clean()
    hand.step("a TSC write that nobody requests an update for")
    hand.offset[1] += 5 * S
    hand.look()
    return hand


def broken_get_clock() -> Hand:
    hand = clean()
    hand.step("KVM computes with another scale")
    hand.look(clock_ahead_ns=-3)
    return hand


def broken_version_odd() -> Hand:
    hand = clean()
    hand.step("a vCPU is killed inside the page's write")
    hand.change(0, version=7)
    hand.look()
    return hand


def broken_version_unnumbered(before: Op | None = None) -> Hand:
    hand = clean()
    hand.step("the page is written over")
    if before is not None:
        hand.op(before, [None] if isinstance(before, Run) else None)
    version = hand.pages[0].version if hand.pages[0] else 0
    hand.wait(S)
    hand.snapshot(0)
    hand.change(0, version=version)
    hand.look()
    return hand


BROKEN: list[tuple[str, Callable[[], Hand]]] = [
    ("kvmclock-never-back", broken_kvmclock_back),
    ("tsc-never-back", broken_tsc_back),
    ("kvmclock-runs", broken_kvmclock_runs),
    ("tsc-runs", broken_tsc_runs),
    ("tsc-agrees", broken_tsc_agrees),
    ("kvmclock-agrees", broken_kvmclock_agrees),
    ("flags-honest", broken_flags_honest),
    ("get-clock-agrees", broken_get_clock),
    ("version-protocol", broken_version_odd),
    ("version-protocol", broken_version_unnumbered),
]


@pytest.mark.parametrize(("name", "make"), BROKEN)
def test_a_broken_clock_is_flagged_at_its_step_and_nowhere_else(name: str, make: Callable[[], Hand]) -> None:
    hand = make()
    flagged = by_name(hand)[name]
    assert flagged
    assert {m.step for m in flagged} == {hand.steps - 1}


def test_every_property_has_a_negative_control() -> None:
    assert {name for name, _ in BROKEN} == {p.name for p in OF_X86}


def test_every_property_says_what_it_means_in_one_line() -> None:
    for prop in PROPERTIES:
        assert "\n" not in prop.meaning + prop.source
        assert len(prop.meaning) < 100


# ---- what the marks say


def test_amounts() -> None:
    (back, *_) = by_name(broken_kvmclock_back())["kvmclock-never-back"]
    assert (back.what, back.amount.exact, back.unit, back.stable) == ("steps back", -1, "ns", True)
    (tsc, *_) = by_name(broken_tsc_back())["tsc-never-back"]
    assert (tsc.amount.exact, tsc.unit, tsc.time_ns.exact) == (-2 * 10**9, "cycles", -2 * S)
    (apart,) = by_name(broken_tsc_agrees())["tsc-agrees"]
    assert (apart.vcpus, apart.than, apart.amount.exact) == ((2,), (0, 1), 1)
    (lie,) = by_name(broken_flags_honest())["flags-honest"]
    assert lie.vcpus == (0, 1)
    assert abs(lie.amount.middle) == 5 * S
    (wrong, *_) = by_name(broken_get_clock())["get-clock-agrees"]
    assert (wrong.than, wrong.amount.exact) == ((0,), -3)


def test_without_stable_a_difference_is_no_lie() -> None:
    assert by_name(broken_kvmclock_agrees())["flags-honest"] != []  # vCPUs 0 and 2 still say STABLE
    hand = clean()
    hand.step()
    hand.snapshot(flags=0)
    hand.change(1, system_time=hand.pages[0].system_time + 3 if hand.pages[0] else 0)
    hand.look()
    assert by_name(hand)["kvmclock-agrees"] != []
    assert by_name(hand)["flags-honest"] == []


def test_what_was_so_before_is_ongoing() -> None:
    hand = broken_flags_honest()
    hand.step("nothing is done about it")
    hand.wait(S)
    hand.look()
    assert [m.ongoing for m in by_name(hand)["tsc-agrees"]] == [False, True]
    assert [m.ongoing for m in by_name(hand)["flags-honest"]] == [False, True]


def test_a_counter_that_stood_still_falls_behind_and_steps_nowhere_back() -> None:
    hand = clean()
    hand.step("the lid closes")
    hand.sleep_with_reset(60 * S)
    hand.look()
    assert by_name(hand)["tsc-never-back"] == []
    assert by_name(hand)["kvmclock-never-back"] == []
    assert [m.what for m in by_name(hand)["tsc-runs"]] == ["falls behind"] * 2
    assert [m.what for m in by_name(hand)["kvmclock-runs"]] == ["falls behind"] * 2


def test_scaling_with_a_truncated_page_makes_get_clock_disagree_by_400_ns_a_second() -> None:
    """kvm-x86.md 9.2: 3 GHz to 2.5 GHz, page for 2 499 999 kHz, KVM_GET_CLOCK from the host's own scale."""
    hand = Hand(3_000_000, frac_bits=48)
    for vcpu in range(2):
        hand.set_khz(vcpu, 2_500_000)
    hand.snapshot(page_khz=2_499_999)
    hand.look()
    hand.step()
    hand.wait(1000 * S)
    hand.look(clock_ahead_ns=-400_177)
    assert {m.amount.exact for m in by_name(hand)["get-clock-agrees"]} == {-400_177}


def test_a_refused_rate_changes_nothing() -> None:
    hand = Hand(3_000_000, frac_bits=48)
    hand.snapshot()
    hand.look()
    hand.step("a rate that no hardware has")
    hand.refuse(SetTscKhz(0, 2**31, 0), "EINVAL")
    hand.wait(S)
    hand.look()
    told = story(hand.trace)
    assert marks(told) == []
    assert told.looks[-1].troubles == ["SetTscKhz refused: EINVAL"]
