"""Random programs for `vmm.steps`: short, and rich in what a kernel's rules react to.

`random_program(seed, limits)` is the same for the same seed and limits. What is worth writing is an architecture's:
`compare.x86.programs`, `compare.arm64.programs`.
"""

from __future__ import annotations

from random import Random
from typing import Any

from guestclock.compare.arm64.programs import Arm64Author
from guestclock.compare.author import Author, Limits
from guestclock.compare.x86.programs import X86Author
from guestclock.errors import UserError

AUTHORS: dict[str, type[Author]] = {"x86_64": X86Author, "arm64": Arm64Author}


def random_program(seed: int, limits: Limits) -> dict[str, Any]:
    """The program of a seed: the same for the same seed and limits."""
    return author(Random(f"guestclock compare {seed}"), limits).program()


def author(rng: Random, limits: Limits) -> Author:
    """Who writes for an architecture."""
    if limits.arch in AUTHORS:
        return AUTHORS[limits.arch](rng, limits)
    raise UserError(f"compare: architecture {limits.arch!r}: expected 'x86_64' or 'arm64'")
