"""What the comparisons of one session came to, told at its end."""

from __future__ import annotations

from collections.abc import Iterable

from guestclock.compare.tally import Tally

TALLIES: dict[str, Tally] = {}


def tally(where: str) -> Tally:
    return TALLIES.setdefault(where, Tally())


def told(differences: Iterable[object]) -> str:
    return "\n".join(str(d) for d in differences)
