"""Replay files of a few violations, made once."""

from __future__ import annotations

from functools import cache

from guestclock.checks import replay_file
from guestclock.checks.replay_file import ReplayFile
from guestclock.checks.retelling import replay
from guestclock.checks.story import Story
from guestclock.checks.target import targets
from guestclock.checks.verdict import VIOLATED, check

CASES = {
    "pause": ("qemu-stop-cont", "linux-6.12", "kvmclock-policy"),
    "hotplug": ("threads/2023-masterclock", "linux-6.7", "kvmclock-never-back"),
    "by-value": ("by-value-restore", "linux-6.12", "tsc-agrees"),
}


@cache
def violation(name: str, *, short: bool = True) -> ReplayFile:
    what, kernel, wanted = CASES[name]
    (target,) = targets(what, [kernel], properties=[wanted])
    result = check(target.spec)
    (verdict,) = result.verdicts
    assert verdict.status == VIOLATED
    return replay_file.of(result.spec, verdict, short=short)


def retold(file: ReplayFile) -> Story:
    return replay(file.spec, file.property, file.ask, file.schedule)
