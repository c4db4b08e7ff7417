"""Every property of the checker has its page, which says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestclock.checks import questions
from guestclock.checks.asks import QUESTIONS

DOCS = Path(__file__).parents[2] / "docs"
assert questions.__all__


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_property_has_its_page(name: str) -> None:
    question = QUESTIONS[name]
    told = " ".join((DOCS / "properties" / f"{name}.md").read_text().split()).lower()
    for part in (question.about, question.source, question.breaks):
        assert " ".join(part.split()).lower() in told, part
    for heading in ("how it is judged", "tolerance", "violated by", "kept by"):
        assert f"**{heading}" in told, heading
    assert (f"--property {name}" in told) != question.default


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_property_is_in_the_index(name: str) -> None:
    asked = "always" if QUESTIONS[name].default else "if named"
    row = f"| [`{name}`](properties/{name}.md) | {QUESTIONS[name].about} | {asked} |"
    assert row in (DOCS / "properties.md").read_text().splitlines()


def test_no_page_is_about_a_property_that_is_not_there() -> None:
    assert {path.stem for path in (DOCS / "properties").glob("*.md")} == set(QUESTIONS)
