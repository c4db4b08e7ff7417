"""threads/2021-suspend: a VMM that looks for a sleep before every KVM_RUN, and the race that it cannot win."""

from __future__ import annotations

import pytest

from guestclock.checks.suspend import detect
from guestclock.checks.suspend.setting import S
from tests.checks.suspend.asking import asked, held, replayed, violated, wrong

SLEPT_CYCLES = 600 * 2_596_122_000


@pytest.mark.parametrize("case_", ["sleep", "reset", "stopped", "s2idle", "rtc", "kvm-clock", "kvm-clock-reset"])
def test_where_no_thread_is_frozen_on_its_way_in_everything_is_kept(case_: str) -> None:
    result = asked("detect", case_)
    assert not wrong(result)
    assert {"I1", "I6", "I8", "I11", "I24"} <= held(result)


def test_who_is_frozen_between_look_and_kvm_run_enters_with_the_sleep_in_every_counter() -> None:
    result = asked("detect", "window")
    found = wrong(result)
    assert set(found) == {"I1", "I6", "I8", "I10", "I24"}
    assert found["I24"] == 1
    assert found["I1"] == pytest.approx(SLEPT_CYCLES, rel=1e-4), "it goes back when a thread looks at last"
    assert found["I6"] == pytest.approx(600 * S, rel=1e-4)


def test_the_race_can_be_played_again_with_integers() -> None:
    (verdict,) = asked("detect", "window", "I24").verdicts
    outcome = replayed("detect", "window", verdict)
    steps = [(event.actor, event.label) for event in outcome.world.events]
    frozen = next(n for n, step in enumerate(steps) if step == ("host", "suspend: tasks frozen"))
    thawed = next(n for n, step in enumerate(steps) if step == ("host", "resume: devices"))
    looks = [n for n, step in enumerate(steps) if step == ("thread 0", "the thread looks")]
    runs = [n for n, step in enumerate(steps) if step == ("thread 0", "KVM_RUN")]
    last_look = max(n for n in looks if n < frozen)
    assert not [n for n in runs if last_look < n < thawed], "it had looked, and was not in KVM_RUN when all was frozen"
    assert min(n for n in looks + runs if n > thawed) in runs, "its next step is KVM_RUN"


def test_another_thread_puts_the_counters_back_under_who_is_in_already() -> None:
    assert violated(asked("detect", "window-two", "I24", orders=600)) == {"I24": 1}


# ---- negative controls: what the measurement owes to its roundings, and to the offsets of before the sleep


def test_a_raw_clock_that_is_taken_at_its_word_lets_the_tsc_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "RAW_IS_SLOW", 10**18)
    monkeypatch.setattr(detect, "LOST_NS", 0)
    assert set(wrong(asked("detect", "sleep", "I1"))) == {"I1"}


def test_offsets_as_found_after_the_sleep_have_kvms_own_compensation_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    class AsFound(detect.Detect):
        async def counters_to(self, then: int, now: int) -> None:
            for j in self.threads:
                self.offsets[j] = await self.stage.execute(detect.api.GetTscOffset(0, j))
            await super().counters_to(then, now)

    monkeypatch.setattr("guestclock.checks.suspend.world.Detect", AsFound)
    assert not wrong(asked("detect", "sleep", "I8"))
    assert set(wrong(asked("detect", "reset", "I8"))) == {"I8"}
