"""Asks the suspend thread's designs, and worlds of a test's own; what a verdict said can be played again."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from itertools import count
from typing import Any

from guestclock.checks.protocol import CaseResult, Design, Thread, check_case
from guestclock.checks.suspend.case import case
from guestclock.checks.suspend.setting import Setting
from guestclock.checks.suspend.thread import THREAD
from guestclock.checks.verdict import HOLDS, UNDECIDED, VIOLATED, Verdict
from guestclock.explore.replay import IntegerWorld
from guestclock.guest.suspend_time import GuestLinux, HandlerCorrected

ALL = 1_000_000


def asked(design: str, case_: str, *properties: str, orders: int = ALL) -> CaseResult:
    """orders: so many are looked at, at most: the same ones on a slow machine as on a fast one."""
    return check_case(THREAD, design, case_, properties=properties, stop=after(orders))


def in_world(setting: Setting, *properties: str, orders: int = ALL) -> CaseResult:
    """The thread's invariants, asked of one case with this setting."""
    one = Thread(THREAD.name, "", (Design("x", "", "", lambda: [case("x", "", setting)]),), THREAD.invariants, "")
    return check_case(one, "x", "x", properties=properties, stop=after(orders))


def after(orders: int) -> Callable[[], bool]:
    """Says when a search has looked at so many."""
    looked = count()
    return lambda: next(looked) >= orders


def violated(result: CaseResult) -> dict[str, int | None]:
    """What was found, and how bad. There may be more where not all orders were looked at."""
    return {v.property: v.worst for v in result.verdicts if v.status == VIOLATED}


def wrong(result: CaseResult) -> dict[str, int | None]:
    """All that is violated."""
    assert not [v for v in result.verdicts if v.status == UNDECIDED], [(v.property, v.why) for v in result.verdicts]
    return violated(result)


def held(result: CaseResult) -> set[str]:
    """What holds, of something that was asked, in a case in which everything happened that must."""
    assert not result.never
    return {v.property for v in result.verdicts if v.status == HOLDS and v.asked}


def replayed(design: str, case_: str, verdict: Verdict) -> Any:
    """What the run with integers leaves that shows this violation."""
    what = THREAD.case(design, case_)
    assert what.build is not None
    assert what.bounds is not None
    assert verdict.confirmed is not None
    return IntegerWorld(what.build, what.bounds, verdict.confirmed.schedule).run()


def leaves(field: str) -> type[HandlerCorrected]:
    """A handler that is right, but leaves one field of the guest as it was, as "tk.offs_real_ns"."""
    *path, name = field.split(".")

    class Leaves(HandlerCorrected):
        @staticmethod
        def interrupt(guest: GuestLinux, cycles: int) -> None:
            owner: Any = reduce(getattr, path, guest)
            kept = getattr(owner, name)
            HandlerCorrected.interrupt(guest, cycles)
            setattr(owner, name, kept)

    return Leaves
