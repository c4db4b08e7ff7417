"""Every test of the model runs twice: plainly, and with each write of a field held against its width."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from guestclock.sim import WidthObserver, watching


@pytest.fixture(autouse=True, params=["plain", "widths"])
def widths(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "plain":
        yield
    else:
        with watching(WidthObserver()):
            yield
