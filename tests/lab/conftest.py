from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

import pytest

from guestclock.errors import UserError
from guestclock.lab import Lab, LabError
from guestclock.lab.setup import setup
from guestclock.runs.real import from_lines
from guestclock.sim import Trace
from tests.lab.programs import PROGRAMS

KERNELS = ("6.1", "6.12")


class Boot:
    """A kernel that has just booted, and what each program of `PROGRAMS` gave there, in a machine of its own."""

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.lab = Lab(kernel)
        outcomes = self.lab.outcomes(list(PROGRAMS.values()))
        self.outcomes = dict(zip(PROGRAMS, outcomes, strict=True))

    def lines(self, name: str) -> list[dict[str, Any]]:
        outcome = self.outcomes[name]
        if isinstance(outcome, UserError | LabError):
            raise outcome
        return outcome

    def trace(self, name: str) -> Trace:
        return from_lines(self.lines(name))


@cache
def booting() -> dict[str, Future[Boot]]:
    """All kernels at once."""
    setup(KERNELS)
    pool = ThreadPoolExecutor(len(KERNELS))
    started = {kernel: pool.submit(Boot, kernel) for kernel in KERNELS}
    pool.shutdown(wait=False)
    return started


def booted(kernel: str) -> Boot:
    return booting()[kernel].result()


@pytest.fixture(scope="session", params=KERNELS)
def boot(request) -> Boot:
    return booted(request.param)


@pytest.fixture(scope="session")
def boot_6_1() -> Boot:
    return booted("6.1")


@pytest.fixture(scope="session")
def boot_6_12() -> Boot:
    return booted("6.12")
