"""A difference is cut down to the fewest, plainest steps that still show it, and only that one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guestclock.compare.shrink import kind, shortest
from guestclock.compare.verdict import Difference, Verdict

Program = dict[str, Any]


def step(do: str, **keys: Any) -> dict[str, Any]:
    return {"actor": "vmm", "do": do, "say": do, **keys}


def judge(programs: Sequence[Program]) -> list[Verdict | None]:
    return [one(program) for program in programs]


def one(program: Program) -> Verdict | None:
    """A kernel that is wrong about a second write of vCPU 1's TSC, and about the clock in another way."""
    writes = [s for s in program["steps"] if s["do"] == "set-tsc" and 1 in s["vcpus"]]
    if len(writes) >= 2:
        return Verdict([Difference(len(writes), "GetMsr", "value (±7)", 1, 2)])
    if any(s["do"] == "set-clock" for s in program["steps"]):
        return Verdict([Difference(0, "GetClock", "clock", 1, 2)])
    return Verdict([])


NOISE = [step("run", vcpus=[0, 1]), step("wait", value=[["ns", 12_345]]), step("set-clock", value=[["int", 5]])]
PROGRAM: Program = {
    "vcpus": 2,
    "boot": True,
    "steps": [
        *NOISE,
        step("set-tsc", vcpus=[0, 1], value=[["ns", 1_234_567_890]]),
        *NOISE,
        step("set-tsc", vcpus=[1], value=[["ns", 99]]),
        *NOISE,
    ],
}


def test_only_what_makes_the_difference_is_left() -> None:
    whole = one(PROGRAM)
    assert whole is not None
    program, shown = shortest(PROGRAM, whole, judge)
    assert program == {
        "vcpus": 2,
        "boot": False,
        "steps": [step("set-tsc", vcpus=[1], value=[["ns", 0]]), step("set-tsc", vcpus=[1], value=[["ns", 0]])],
    }
    assert kind(shown) == kind(whole) == ("GetMsr", "value")


def test_steps_that_others_need_stay() -> None:
    """Without the creation the write has no vCPU: such a program is never tried."""
    plugged: Program = {"vcpus": 1, "boot": False, "steps": [step("create-vcpu"), *PROGRAM["steps"]]}
    tried: list[Program] = []

    def noting(programs: Sequence[Program]) -> list[Verdict | None]:
        tried.extend(programs)
        return judge(programs)

    whole = one(plugged)
    assert whole is not None
    program, _ = shortest(plugged, whole, noting)
    assert [s["do"] for s in program["steps"]] == ["create-vcpu", "set-tsc", "set-tsc"]
    for candidate in tried:
        have = candidate["vcpus"] + sum(s["do"] == "create-vcpu" for s in candidate["steps"])
        assert all(vcpu < have for s in candidate["steps"] for vcpu in s.get("vcpus", []))


def test_a_budget_ends_it() -> None:
    tried = 0

    def counting(programs: Sequence[Program]) -> list[Verdict | None]:
        nonlocal tried
        tried += len(programs)
        return judge(programs)

    whole = one(PROGRAM)
    assert whole is not None
    program, shown = shortest(PROGRAM, whole, counting, budget=3)
    assert tried == 3
    assert kind(shown) == kind(whole)
    assert len(program["steps"]) <= len(PROGRAM["steps"])


def test_what_cannot_be_run_is_no_candidate() -> None:
    whole = one(PROGRAM)
    assert whole is not None
    assert shortest(PROGRAM, whole, lambda programs: [None] * len(programs)) == (PROGRAM, whole)
