"""arm64: each property by traces it must flag and clean ones it must not; lines, sandwiches, errors."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestclock.abi.arm64 import KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_TIMER_CVAL, TIMER_REGS
from guestclock.check import PROPERTIES, Mark, Span, errors, groups, host_error, marks, step_at, story, unjudged
from guestclock.errors import UserError
from guestclock.kvm.api import (
    CreateVcpu,
    EnterL2,
    ExitL2,
    GetOneReg,
    GetVcpuAttr,
    Hvc,
    MoveToCpu,
    ReadSysreg,
    Run,
    SetCounterOffset,
    SetOneReg,
    SetVcpuAttr,
    WriteSysreg,
)
from guestclock.sim import Trace
from tests.check.hand_arm64 import HZ, Hand, clean

S = 10**9

OF_ARM64 = [p for p in PROPERTIES if p.arch == "arm64"]


def found(hand: Hand) -> list[Mark]:
    return marks(story(hand.trace))


def by_name(hand: Hand) -> dict[str, list[Mark]]:
    return {p.name: [m for m in found(hand) if m.name == p.name] for p in PROPERTIES}


# ---- what must not be flagged


@pytest.mark.parametrize(("sandwich", "apart_ticks"), [(0, 0), (1, 0), (0, 3), (900, 7)])
@pytest.mark.parametrize("hz", [1_000_000, 19_200_000, 24_000_000, HZ, 10**9])
def test_a_clean_trace_has_no_marks(hz: int, sandwich: int, apart_ticks: int) -> None:
    hand = clean(hz, sandwich=sandwich, apart_ticks=apart_ticks, vcpus=4)
    assert found(hand) == []
    assert unjudged(story(hand.trace)) == ()


def test_a_second_vm_begins_anew() -> None:
    hand = clean()
    hand.step("restore")
    hand.new_vm(2)
    hand.look()
    assert found(hand) == []


def test_a_vm_that_never_ran_may_be_set_as_the_vmm_likes() -> None:
    hand = clean()
    hand.step("the destination")
    hand.new_vm(2, ran=False)
    hand.look()
    hand.step("its counters by value")
    hand.set_virtual(5 * HZ)
    hand.look()
    assert found(hand) == []
    assert by_name(set_again(ran=False))["cntvct-runs"] == []
    assert by_name(set_again(ran=True))["cntvct-runs"] != []


def set_again(*, ran: bool) -> Hand:
    hand = Hand()
    hand.new_vm(2, ran=ran)
    hand.look()
    hand.step("by value")
    hand.set_virtual(5 * HZ)
    hand.look()
    return hand


def test_one_offset_that_is_written_twice_moves_nothing() -> None:
    hand = clean(sandwich=900)
    hand.set_offset(77)
    hand.step("restored once more")
    hand.look()
    for _ in range(2):
        hand.step("and again")
        hand.set_offset(77)
        hand.look()
    assert {m.step for m in found(hand)} == {3}


def test_without_cntpct_only_cntvct_is_judged() -> None:
    """Before 6.4 KVM has no register for it."""
    hand = Hand()
    hand.look(with_cntpct=False)
    hand.step()
    hand.look(with_cntpct=False)
    assert found(hand) == []
    assert {p.name for p in unjudged(story(hand.trace))} == {
        "cntpct-never-back", "cntpct-runs", "cntpct-agrees", "counters-together",
    }  # fmt: skip


def test_cntpct_is_compared_with_the_last_reading_that_has_it() -> None:
    hand = Hand(vcpus=1)
    hand.look()
    hand.step("seen from outside")
    hand.look(with_cntpct=False)
    hand.move("cntpct", 5)
    step = hand.step("the guest reads")
    hand.look(source="guest")
    assert [(m.name, m.step, m.amount.exact) for m in found(hand)] == [
        ("cntpct-runs", step, 5), ("counters-together", step, 5),
    ]  # fmt: skip


def test_in_l2_a_guest_reads_another_counter() -> None:
    hand = clean(vcpus=1)
    hand.op(Run(0, 0, (EnterL2(1000),)), [None])
    hand.step("L2 reads")
    hand.move("cntvct", -1000)
    hand.look(source="guest")
    hand.move("cntvct", 1000)
    hand.op(Run(0, 0, (ExitL2(),)), [None])
    hand.step("the guest reads")
    hand.look(source="guest")
    assert found(hand) == []
    assert [r.source for r in story(hand.trace).readings] == ["peek"] * 4 + ["guest"]


def test_a_step_too_small_for_the_sandwiches_is_not_claimed() -> None:
    hand = clean(sandwich=900)
    hand.step()
    hand.set_virtual(hand.host_counter() - hand.virtual[0] + 800)
    hand.look()
    assert by_name(hand)["cntvct-runs"] == []
    (parted, _) = by_name(hand)["counters-together"]
    assert parted.amount.exact == -800  # that needs no host: the two were read one right after the other


def test_what_there_is_nothing_to_judge_by_is_said() -> None:
    one = clean(vcpus=1)
    assert {p.name for p in unjudged(story(one.trace))} == {"cntvct-agrees", "cntpct-agrees"}
    once = Hand()
    once.look()
    through_time = {"cntvct-never-back", "cntpct-never-back", "cntvct-runs", "cntpct-runs", "counters-together"}
    assert {p.name for p in unjudged(story(once.trace))} == through_time


# ---- what must be


def broken_cntvct_back() -> Hand:
    hand = clean()
    hand.run()
    hand.step("the VMM writes a lower counter")
    hand.set_virtual(HZ)
    hand.look()
    return hand


def broken_cntpct_back() -> Hand:
    hand = clean()
    hand.step("one tick less")
    hand.move("cntpct", -1)
    hand.look()
    return hand


def broken_cntvct_runs() -> Hand:
    hand = clean()
    hand.step("one tick more")
    hand.move("cntvct", 1)
    hand.look()
    return hand


def broken_cntpct_runs() -> Hand:
    hand = clean()
    hand.step("an offset that makes the guest older than its host")
    hand.set_offset(-5 * HZ & 2**64 - 1)
    hand.look()
    return hand


def broken_cntvct_agrees() -> Hand:
    hand = clean(vcpus=3)
    hand.step("vCPU 2 runs on with what it has loaded")
    hand.into_kvm_run(2)
    hand.set_virtual(hand.host_counter() - hand.virtual[0] + 1, 0, 1)
    hand.look()
    return hand


def broken_cntpct_agrees() -> Hand:
    hand = clean(vcpus=3)
    hand.step("the trap was set up for another VM")
    hand.move("cntpct", -7, 1)
    hand.look()
    return hand


def broken_together() -> Hand:
    hand = clean()
    hand.step("one of two")
    hand.move("cntvct", -1)
    hand.look()
    return hand


BROKEN: list[tuple[str, Callable[[], Hand]]] = [
    ("cntvct-never-back", broken_cntvct_back),
    ("cntpct-never-back", broken_cntpct_back),
    ("cntvct-runs", broken_cntvct_runs),
    ("cntpct-runs", broken_cntpct_runs),
    ("cntvct-agrees", broken_cntvct_agrees),
    ("cntpct-agrees", broken_cntpct_agrees),
    ("counters-together", broken_together),
]


@pytest.mark.parametrize(("name", "make"), BROKEN)
def test_a_broken_counter_is_flagged_at_its_step_and_nowhere_else(name: str, make: Callable[[], Hand]) -> None:
    hand = make()
    flagged = by_name(hand)[name]
    assert flagged
    assert {m.step for m in flagged} == {hand.steps - 1}
    assert name not in {p.name for p in unjudged(story(hand.trace))}


def test_every_property_has_a_negative_control() -> None:
    assert {name for name, _ in BROKEN} == {p.name for p in OF_ARM64}


def test_what_moves_together_is_together() -> None:
    hand = clean()
    hand.step("both by the same")
    hand.move("cntvct", 1234)
    hand.move("cntpct", 1234)
    hand.look()
    assert {m.name for m in found(hand)} == {"cntvct-runs", "cntpct-runs"}


def test_amounts() -> None:
    (back, _) = by_name(broken_cntvct_back())["cntvct-never-back"]
    lost = -2 * HZ - 1  # of 3 000 000 021 ns, in ticks of 16 ns
    assert (back.what, back.amount.exact, back.unit, back.time_ns.exact) == ("steps back", lost, "ticks", lost * 16)
    (ahead, _) = by_name(broken_cntpct_runs())["cntpct-runs"]
    assert (ahead.what, ahead.amount.exact) == ("jumps ahead", 5 * HZ)
    (apart,) = by_name(broken_cntvct_agrees())["cntvct-agrees"]
    assert (apart.vcpus, apart.than, apart.amount.exact, apart.time_ns.exact) == ((2,), (0, 1), -1, -16)
    (parted, _) = by_name(broken_together())["counters-together"]
    assert (parted.clock, parted.what, parted.amount.exact, parted.unit) == ("cntpct", "parts", 1, "ticks")


def test_a_guest_that_was_asleep_with_its_host_only_finds_itself_behind() -> None:
    hand = clean()
    hand.step("the lid closes; then the VMM takes the sleep out")
    hand.sleep(60 * S)
    hand.set_virtual(hand.host_counter() - hand.virtual[0] - 60 * HZ)
    hand.look()
    assert by_name(hand)["cntvct-never-back"] == []
    assert [(m.what, m.amount.exact) for m in by_name(hand)["cntvct-runs"]] == [("falls behind", -60 * HZ)] * 2


def stopped(late: int) -> Hand:
    """Stopped 1 s after the guest was last in, read so many ticks after that, and set to what was read 5 s later."""
    hand = clean()
    hand.run()
    hand.ticks(late)
    value = hand.host_counter() - hand.virtual[0]
    hand.wait(5 * S)
    hand.look()
    hand.step("cont")
    hand.set_virtual(value)
    hand.look()
    return hand


@pytest.mark.parametrize("late", [0, 1, 1000])
def test_a_guest_that_goes_on_where_it_stopped_or_later_sees_nothing_go_back(late: int) -> None:
    hand = stopped(late)
    assert by_name(hand)["cntvct-never-back"] == []
    assert [(m.what, m.amount.exact) for m in by_name(hand)["cntvct-runs"]] == [("falls behind", -5 * HZ)] * 2


def test_a_guest_that_goes_on_before_where_it_stopped_sees_that_much_go_back() -> None:
    """The counter was read a while before the last vCPU had left the guest."""
    hand = stopped(0)
    hand.trace.events.pop()
    hand.trace.events.pop()
    hand.move("cntvct", -3)
    hand.look()
    assert [m.amount.exact for m in by_name(hand)["cntvct-never-back"]] == [-3] * 2
    assert [m.amount.exact for m in by_name(hand)["cntvct-runs"]] == [-5 * HZ - 3] * 2


def test_a_vcpu_in_kvm_run_sees_all_of_it() -> None:
    hand = clean()
    hand.into_kvm_run(1)
    hand.wait(S)
    hand.look()
    hand.step("vCPU 0 is written; vCPU 1 runs")
    hand.set_virtual(HZ, 0)
    hand.look()
    ((vcpus, what),) = {(m.vcpus, m.what) for m in found(hand) if m.clock == "cntvct" and m.what != "differs"}
    assert (vcpus, what) == ((0,), "steps back")


def test_a_vcpu_in_kvm_run_sees_all_of_it_where_times_are_known_to_a_tick() -> None:
    hand = Hand(62_499_871, vcpus=1)
    hand.look()
    hand.into_kvm_run(0)
    hand.wait(S)
    hand.look()
    hand.step("another thread's ioctl, at a time that was rounded down")
    hand.ticks(5)
    hand.ps = (hand.host_counter() - hand.start) * 10**12 // hand.hz
    hand.op(SetCounterOffset(0, 0), None)
    hand.move("cntpct", -HZ)
    hand.look()
    assert [(m.what, m.amount.exact) for m in found(hand) if m.clock == "cntpct"] == [
        ("steps back", -HZ), ("parts", -HZ),
    ]  # fmt: skip


def test_a_counter_stamped_before_the_kick_goes_back_by_what_lay_between() -> None:
    hand = clean()
    hand.into_kvm_run(1)
    hand.wait(S)
    stamp = hand.host_counter() - hand.virtual[0]
    hand.ticks(5000)
    hand.out_of_kvm_run(1)
    hand.look()
    hand.step("resume")
    hand.wait(S)
    hand.set_virtual(stamp)
    hand.look()
    assert [m.amount.exact for m in by_name(hand)["cntvct-never-back"]] == [-5000] * 2


@pytest.mark.parametrize("ticks", range(1, 9))
def test_a_time_that_was_rounded_down_still_has_its_tick(ticks: int) -> None:
    """A real host's true time is its counter, in ps, rounded down: that is where the guest was last seen."""
    hand = Hand(62_499_871, vcpus=1)
    hand.ticks(ticks)
    hand.ps = (hand.host_counter() - hand.start) * 10**12 // hand.hz
    hand.run()
    hand.op(SetOneReg(0, 0, KVM_REG_ARM_TIMER_CNT, 0), None)
    hand.look()
    (away, _) = story(hand.trace).readings[0].away
    assert away.counter == Span(hand.start + ticks - 1, hand.start + ticks)


def test_a_counter_that_moves_by_itself_is_seen_to() -> None:
    hand = stopped(0)
    hand.wait(S)
    hand.look()
    hand.step("nobody says why")
    hand.move("cntvct", -3)
    hand.look()
    assert [m.amount.exact for m in by_name(hand)["cntvct-never-back"]] == [-3] * 2


def test_only_the_last_time_in_the_guest_before_the_move_counts() -> None:
    hand = stopped(0)
    hand.step("the guest is back")
    for vcpu in range(2):
        hand.run()
        hand.read(vcpu, source="guest")
    assert by_name(hand)["cntvct-never-back"] == []


def test_a_counter_runs_on_through_a_sleep() -> None:
    hand = clean()
    hand.step("the lid closes")
    hand.sleep(3600 * S)
    hand.look()
    assert found(hand) == []


def test_a_negative_offset_and_a_wrap_are_small_numbers() -> None:
    hand = Hand(vcpus=1)
    hand.set_offset(hand.host_counter() + 10)  # the guest's counter stands before 0
    hand.look()
    hand.step("through zero")
    hand.ticks(25)
    hand.look()
    told = story(hand.trace)
    assert marks(told) == []
    assert [r.value("cntvct") for r in told.readings] == [2**64 - 10, 15]
    assert [p.error_ns.exact for p in errors(told, "cntvct")[0, 0]] == [0, 0]


# ---- what a reading leaves open


def test_the_three_reads_of_one_reading_are_no_wider_than_they_have_to_be() -> None:
    hand = Hand(sandwich=10, apart_ticks=4, vcpus=1)
    hand.look()
    (reading,) = story(hand.trace).readings
    first, second = reading.instant("cntvct").counter, reading.instant("cntpct").counter
    assert (first.width, second.width) == (20, 28)  # of 28: the last read, 8 ticks on, has to fit in as well
    assert first.lo <= hand.start + 10 <= first.hi
    assert second.lo <= hand.start + 14 <= second.hi
    assert reading.apart == Span(hand.virtual[0] - 4, hand.virtual[0] + 4)


def test_readings_of_one_stretch_share_how_far_the_two_counters_are_apart() -> None:
    hand = clean(apart_ticks=50)
    hand.apart_ticks = 0
    hand.step()
    hand.look()
    assert {r.apart for r in story(hand.trace).readings} == {Span.of(hand.virtual[0])}
    hand.apart_ticks = 50
    hand.set_virtual(hand.host_counter() - hand.virtual[0] + 30)
    hand.step("less than one reading can tell")
    hand.look()
    assert [r.apart.width for r in story(hand.trace).readings[-2:]] == [100, 100]
    assert by_name(hand)["counters-together"] == []


def test_two_counters_part_through_zero_by_a_small_number() -> None:
    hand = Hand(vcpus=1)
    hand.set_offset(5)
    hand.move("cntpct", 3)
    hand.look()
    step = hand.step("the one ahead is behind")
    hand.move("cntpct", -5)
    hand.look()
    assert [m.amount.exact for m in by_name(hand)["counters-together"] if m.step == step] == [-5]


def test_readings_of_one_line_share_the_narrowest_sandwich() -> None:
    hand = clean(sandwich=900)
    hand.sandwich = 2
    hand.step("one good reading")
    hand.look()
    hand.sandwich = 900
    hand.step()
    hand.look()
    told = story(hand.trace)
    assert {r.instant(clock).counter.width for r in told.readings for clock in ("cntvct", "cntpct")} == {4}
    hand.set_virtual(hand.host_counter() - hand.virtual[0])
    hand.look()
    assert {r.when.counter.width for r in story(hand.trace).readings[-2:]} == {1800}


MOVERS = {
    "a creation": CreateVcpu(0, 0),
    "an offset": SetCounterOffset(0, 5),
    "an attribute of 2021": SetVcpuAttr(0, 1, 1, 2, 5),
    "a counter by value": SetOneReg(0, 1, 0x603000000013DF01, 5),
}


@pytest.mark.parametrize("op", MOVERS.values(), ids=MOVERS)
def test_what_may_move_a_counter_ends_its_line_for_every_vcpu_even_if_refused(op: object) -> None:
    assert widths_after(op) == {1800}


@pytest.mark.parametrize("op", [SetOneReg(0, 0, KVM_REG_ARM_TIMER_CVAL, 5), MoveToCpu(0, 0, 1)])
def test_what_cannot_move_one_does_not(op: object) -> None:
    assert widths_after(op) == {4}


def widths_after(op: object) -> set[int]:
    hand = clean(sandwich=2)
    hand.refuse(op, "EBUSY")  # type: ignore[arg-type]
    hand.sandwich = 900
    hand.step()
    hand.look()
    return {r.when.counter.width for r in story(hand.trace).readings[-2:]}


def test_a_running_vcpu_takes_an_offset_over_when_it_likes() -> None:
    """Until it is out of KVM_RUN each of its readings stands alone, and a move hidden in the sandwiches stays open."""
    hand = clean(sandwich=2)
    hand.into_kvm_run(1)
    hand.set_virtual(hand.host_counter() - hand.virtual[0] + 700, 0)
    hand.sandwich = 900
    seen = []
    for _ in range(2):
        hand.step()
        hand.look()
        seen.append([r.instant("cntvct").counter.width for r in story(hand.trace).readings[-2:]])
    hand.move("cntvct", 700, 1)
    hand.out_of_kvm_run(1)
    hand.sandwich = 2
    hand.step()
    hand.look()
    hand.sandwich = 900
    hand.step()
    hand.look()
    told = story(hand.trace)
    assert seen == [[1800, 1800]] * 2
    assert [r.instant("cntvct").counter.width for r in told.readings[-8:]] == [4, 1800, 4, 1800, 4, 4, 4, 4]
    assert by_name(hand)["cntvct-agrees"] == []


def test_a_counter_that_moves_between_two_reads_of_one_reading_costs_what_the_second_told() -> None:
    hand = Hand(vcpus=1)
    hand.look()
    event = hand.trace.events[-1]
    event.data |= {"cntvct_after": event.data["cntvct"] - 5, "host_counter": [hand.start, hand.start + 9]}
    (reading,) = story(hand.trace).readings
    assert reading.instant("cntvct").counter == Span(hand.start, hand.start + 9)
    assert reading.apart == Span(hand.virtual[0] - 9, hand.virtual[0])


@settings(deadline=None)
@given(
    hz=st.sampled_from([19_200_000, 24_000_000, 25_000_000, HZ, 10**9]),
    sandwich=st.integers(0, 50),
    apart_ticks=st.integers(0, 20),
    waits=st.lists(st.integers(1, 10**12), min_size=1, max_size=4),
    moved=st.integers(-(10**6), 10**6),
)
def test_bounds_hold_whatever_the_truth(hz: int, sandwich: int, apart_ticks: int, waits: list[int], moved: int) -> None:
    hand = Hand(hz, sandwich=sandwich, apart_ticks=apart_ticks)
    hand.look()
    for ns in waits:
        hand.step()
        hand.wait(ns)
        hand.look()
    step = hand.step("by so much")
    hand.set_virtual(hand.host_counter() - hand.virtual[0] + moved & 2**64 - 1)
    hand.look()
    told = story(hand.trace)
    assert moved in step_at(told, step, "cntvct")
    assert step_at(told, step, "cntvct").width <= 4 * (sandwich + apart_ticks)
    assert step_at(told, step, "cntpct", 1).width <= 4 * (sandwich + 2 * apart_ticks)
    assert 0 in step_at(told, step, "cntpct", 1)
    before, after = (r.apart for r in (told.readings[0], told.readings[-1]))
    assert -moved in after - before
    assert {len(groups(told, look, clock)) for look in told.looks for clock in told.clocks} == {1}


# ---- errors


def test_a_counter_that_runs_is_right_to_the_last_digit() -> None:
    """A tick is 16 ns, and the reading was somewhere in it: what is compared is where the tick began."""
    told = story(clean().trace)
    assert {p.error_ns for clock in told.clocks for line in errors(told, clock).values() for p in line} == {Span(0, 0)}
    assert {host_error(told, look, "counter") for look in told.looks} == {Span(0, 0)}


def test_by_how_much_a_written_counter_is_off() -> None:
    hand = broken_cntvct_back()
    told = story(hand.trace)
    assert [p.error_ns.exact for p in errors(told, "cntvct")[0, 0]][-2:] == [0, (-2 * HZ - 1) * 16]
    assert [p.before_ns.exact for p in errors(told, "cntvct")[0, 0] if p.before_ns] == [0, 0, 0, 0]
    assert {p.error_ns.exact for p in errors(told, "cntpct")[0, 1]} == {0}


def test_the_rate_is_no_clock_of_the_host_s() -> None:
    told = story(clean().trace)
    assert {name for look in told.looks for name in look.host} == {"counter"}


# ---- what was read by itself


def test_registers_that_are_read_one_by_one_are_answers() -> None:
    hand = clean()
    hand.step("registers")
    hand.op(GetOneReg(0, 0, TIMER_REGS["TIMER_CVAL"]), 5)
    hand.op(GetOneReg(0, 1, 0x603000000013C708), 6)
    hand.op(GetVcpuAttr(0, 1, 1, 3), 7)
    hand.op(GetVcpuAttr(0, 1, 1, 0), 27)
    hand.op(
        Run(0, 0, (ReadSysreg("CNTV_CTL_EL0"), WriteSysreg("CNTV_CTL_EL0", 1), Hvc(0x86000001))),
        [8, None, [1, 2, 3, 4]],
    )
    hand.refuse(GetOneReg(0, 0, TIMER_REGS["PTIMER_CNT"]), "ENOENT")
    hand.look()
    look = story(hand.trace).looks[-1]
    assert look.answers == [
        (0, "TIMER_CVAL", 5), (1, "register 0x603000000013c708", 6), (1, "OFFSET_PTIMER", 7), (1, "attribute 1/0", 27),
        (0, "CNTV_CTL_EL0", 8), (0, "x0", 1), (0, "x1", 2), (0, "x2", 3), (0, "x3", 4),
    ]  # fmt: skip
    assert look.troubles == ["GetOneReg refused: ENOENT"]


# ---- the first line


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"arch": "arm64"}, "trace: counter_hz: expected the host counter's rate in Hz, got None"),
        ({"arch": "arm64", "counter_hz": 0}, "trace: counter_hz: expected the host counter's rate in Hz, got 0"),
        ({"arch": "riscv", "counter_hz": 5}, "trace: arch: 'riscv', expected one of x86_64, arm64"),
    ],
)  # fmt: skip
def test_a_trace_that_does_not_say_what_it_is_of(meta: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as refused:
        story(Trace(meta=meta))
    assert str(refused.value) == message


def test_the_other_architecture_s_properties_say_nothing() -> None:
    told = story(clean().trace)
    names = {p.name for p in unjudged(told)} | {m.name for m in marks(told)}
    assert not names & {p.name for p in PROPERTIES if p.arch == "x86_64"}
