"""What clocks are meant to do, and what is forgiven."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestclock.checks.policy_file import policy
from guestclock.checks.target import forgiven, targets
from guestclock.checks.verdict import HOLDS, VIOLATED, check
from guestclock.errors import UserError


def test_a_name_is_for_both_clocks_and_none_is_the_recipes() -> None:
    assert policy("freeze", {}, "x86_64").clocks == (("tsc", "freeze"), ("kvmclock", "freeze"))
    assert policy(None, {"kvmclock": "run"}, "x86_64").clocks == (("kvmclock", "run"),)


def test_a_file_forgives_by_clock_and_by_property(tmp_path: Path) -> None:
    place = tmp_path / "p.toml"
    place.write_text('tsc = "run"\n[tolerance]\nkvmclock = "20 us"\ntsc-agrees = "400 cycles"\n')
    found = policy(str(place), {}, "x86_64")
    assert found.clocks == (("tsc", "run"),)
    assert found.forgives("kvmclock-policy", "ns", 2_000_000) == 20_000
    assert found.forgives("tsc-agrees", "cycles", 2_000_000) == 400
    assert found.forgives("tsc-never-back", "cycles", 2_000_000) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('tcs = "run"', "unknown key 'tcs' .did you mean 'tsc'"),
        ('tsc = "stop"', "tsc: 'stop', expected one of run, freeze, advance"),
        ("tsc = ", "not TOML"),
        ('[tolerance]\nfoo = "1 ns"', "foo: neither a clock nor a property"),
        ('[tolerance]\ntsc = "-1 ns"', "expected a duration"),
        ("tolerance = 3", "expected a table"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "p.toml").write_text(text)
    with pytest.raises(UserError, match=expected):
        policy(str(tmp_path / "p.toml"), {}, "x86_64")


def test_a_tolerance_above_the_worst_makes_it_hold_and_one_below_does_not(tmp_path: Path) -> None:
    for tolerance, status in (("61 s", HOLDS), ("59 s", VIOLATED)):
        (tmp_path / "p.toml").write_text(f'kvmclock = "freeze"\n[tolerance]\nkvmclock = "{tolerance}"\n')
        (target,) = targets("qemu-stop-cont", (), str(tmp_path / "p.toml"), properties=["kvmclock-policy"])
        (verdict,) = forgiven(check(target.spec, stories=False), target.policy).verdicts
        assert verdict.status == status
