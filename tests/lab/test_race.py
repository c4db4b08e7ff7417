"""Who is in the guest before its clocks are put right, where the host sleeps at any moment of a vCPU's round."""

from __future__ import annotations

import pytest

from guestclock.errors import UserError
from guestclock.lab.inside_race import ELSEWHERE, IN_KVM_RUN, WINDOW, nights_of
from guestclock.lab.race import Raced, race, raced
from guestclock.lab.tools import LabError
from guestclock.report.race import keeps

SLEPT, MUCH = 10_000, 5_000


def one_round(begins: int, shown: int, *, interrupted: bool = False) -> tuple:
    """10 to its look, 10 more to KVM_RUN, 10 in it."""
    return begins + 10, begins + 20, begins + 30, interrupted, {} if interrupted else {"tsc": shown}


def test_a_thread_that_was_held_after_its_look_is_in_the_guest_before_its_clocks_are_right() -> None:
    held = (110, 120 + SLEPT, 130 + SLEPT, False, {"tsc": 125 + SLEPT})
    rounds = [one_round(0, 25), one_round(70, 95), held, one_round(200 + SLEPT, 160)]
    [night] = nights_of(rounds, [205 + SLEPT], MUCH)
    assert night == {
        "frozen": WINDOW, "before": 1, "saw": {"tsc": 30 + SLEPT}, "back": {"tsc": 125 + SLEPT - 160},
        "went_on": {"tsc": 65},
    }  # fmt: skip


def test_one_that_was_held_before_its_look_is_not() -> None:
    rounds = [one_round(70, 95), one_round(200 + SLEPT, 160)]
    [night] = nights_of(rounds, [205 + SLEPT], MUCH)
    assert night == {"frozen": ELSEWHERE, "before": 0, "saw": {"tsc": 0}, "back": {"tsc": 0}, "went_on": {"tsc": 65}}


@pytest.mark.parametrize(
    ("interrupted", "shown", "where", "before"),
    [(True, 0, IN_KVM_RUN, 0), (False, 125 + SLEPT, WINDOW, 1), (False, 125, ELSEWHERE, 0)],
)
def test_of_a_sleep_that_lies_in_kvm_run_kernel_and_guest_say_where_it_was(
    interrupted: bool, shown: int, where: str, before: int
) -> None:
    over_it = (110, 120, 130 + SLEPT, interrupted, {} if interrupted else {"tsc": shown})
    rounds = [one_round(70, 95), over_it, one_round(200 + SLEPT, 160)]
    [night] = nights_of(rounds, [205 + SLEPT], MUCH)
    assert (night["frozen"], night["before"]) == (where, before)


def test_a_guest_that_ran_too_early_is_no_success() -> None:
    lines = [
        {"rates": {"counter_hz": 2_000_000_000}},
        {"frozen": ELSEWHERE, "before": 1, "saw": {"tsc": 20}, "back": {"tsc": 10}, "went_on": {"tsc": 8}},
        {"rounds": {"count": 3, "round_ns": 100, "window_ns": 8}},
    ]
    one = raced("asked", lines)
    assert one.nights[0].back_ns == {"tsc": 5}
    assert not keeps([one])
    assert keeps([Raced("told", one.nights, 3, 100, 8)]) is None, "who is told afterwards has promised nothing"
    assert keeps([Raced("asked", [], 3, 100, 8)]) is True


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"vmms": ["askd"]}, "--vmm 'askd': expected asked, looks, told"),
        ({"sleeps": 0}, "--sleeps 0: expected 1 to 1000"),
        ({"away_ns": 10**8}, "--away 100000000 ns: expected whole seconds, at least one and less than a day"),
    ],
)
def test_nonsense_is_told_before_anything_boots(more: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        race("6.12", **{"arch": "x86", "sleeps": 1, "away_ns": 10**9, **more})


def test_sleeps_that_nobody_could_have_seen_are_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [{"rates": {"counter_hz": 10**9}}, {"rounds": {"count": 3, "round_ns": 100, "window_ns": 8}}]
    monkeypatch.setattr("guestclock.lab.race.Lab.run_many", lambda self, asked, timeout_s: [lines for _ in asked])
    with pytest.raises(LabError, match="asked: 0 of 4 sleeps were long enough to be told"):
        race("6.12", arch="x86", sleeps=4, away_ns=10**9)


@pytest.mark.lab
@pytest.mark.parametrize(("kernel", "arch"), [("6.12", "x86"), ("6.1", "x86"), ("6.12", "arm64")])
def test_on_a_real_kernel_only_who_is_asked_is_never_late(kernel: str, arch: str) -> None:
    sleeps = 12
    ran = {one.vmm: one for one in race(kernel, arch=arch, sleeps=sleeps, away_ns=10 * 10**9)}
    assert {vmm: len(one.nights) for vmm, one in ran.items()} == dict.fromkeys(ran, sleeps)
    assert keeps(list(ran.values()))
    assert ran["told"].hits, "tasks are thawed before anybody can tell"
    assert all(8 * 10**9 < max(night.back_ns.values()) <= 10 * 10**9 for night in ran["told"].hits)
    looks = ran["looks"]
    assert all(night.frozen == WINDOW for night in looks.hits), "whoever looks after the sleep sees it"
    unseen = [night for one in (ran["asked"], looks) for night in one.nights if not night.before]
    assert all(0 < ns < 50_000_000 for night in unseen for ns in night.went_on_ns.values())
