"""Recipes given as text."""

from __future__ import annotations

from typing import Any

import pytest

from guestclock.errors import UserError
from guestclock.vmm.on_device import run_script

SOURCE = """
async def script(host, tell):
    counts = []
    for capability in range(3):
        counts.append(await host.check_extension(capability))
    tell({"counts": counts})
"""


def lines_of(**program: Any) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    run_script({"options": {"trace": False}, **program}, lines.append)
    return lines


@pytest.mark.kvm
def test_a_script_asks_and_tells(kvm_answers: None) -> None:
    [told] = lines_of(source=SOURCE)
    assert len(told["counts"]) == 3


@pytest.mark.kvm
def test_what_it_tells_comes_after_what_it_did(kvm_answers: None) -> None:
    lines = lines_of(source=SOURCE, events=True)
    assert "guestclock_trace" in lines[0]
    assert [line.get("name") for line in lines[1:4]] == ["CheckExtension"] * 3
    assert "counts" in lines[4]


def test_a_source_without_a_script_is_refused() -> None:
    with pytest.raises(UserError, match="does not define 'async def script"):
        lines_of(source="x = 1")
