"""The smallest delay that breaks a property, also where the solver proves nothing for some delays."""

from __future__ import annotations

from typing import Any

import pytest

from guestclock.checks.checker import Checker
from guestclock.checks.spec import Spec
from guestclock.checks.verdict import VIOLATED, Verdict, check
from guestclock.explore.leaf import Unproved

BY_VALUE = Spec(recipe="by-value-restore", properties=("tsc-agrees",), delay_ns=2 * 10**9)


def only(spec: Spec) -> Verdict:
    (verdict,) = check(spec).verdicts
    assert verdict.status == VIOLATED
    return verdict


def test_what_is_not_proved_is_neither_broken_nor_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    proved = only(BY_VALUE).breaks
    assert proved is not None
    real = Checker.worst_of

    def worst_of(self: Checker, *args: Any) -> Any:
        """Nothing is proved below 1.5 s."""
        if 0 < self.search.bounds.delay < BY_VALUE.units(1_500_000_000):
            raise Unproved
        return real(self, *args)

    monkeypatch.setattr(Checker, "worst_of", worst_of)
    breaks = only(BY_VALUE).breaks
    assert breaks is not None
    assert 1_500_000_000 <= breaks.delay_ns < 1_600_000_000
    assert proved.delay_ns < 1_000_000_000
    assert breaks.safe_ns == 0


def test_three_vcpus_that_the_solver_does_not_like() -> None:
    spec = Spec(recipe="highest-tsc", vcpus=3, properties=("tsc-agrees",))
    assert only(spec).short is not None
