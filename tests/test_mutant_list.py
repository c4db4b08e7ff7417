"""Each mutant can be made: its text stands once in its file, and its tests are there."""

from __future__ import annotations

import pytest

from tests.mutant_list import MUTANTS, Mutant
from tests.mutants import ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_its_text_stands_once_and_its_tests_are_there(mutant: Mutant) -> None:
    assert (ROOT / "src" / "guestclock" / mutant.file).read_text().count(mutant.old) == 1
    assert mutant.old != mutant.new
    assert all((ROOT / test).exists() for test in mutant.tests)


def test_no_two_have_one_name() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
