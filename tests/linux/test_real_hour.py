"""The timekeeper against an hour of a real kernel's clocks, recorded in the lab (`tests/lab/test_clocks.py` does more).

hour-6.12.csv.gz: Debian's 6.12.117, `nohz=off`, readings in the columns of a recorded trace (event, seq, c0, c1: the
TSC before and after, clock, value in ns, path); hour-6.12-changes.json.gz: what was asked of it, with the same seq,
each between two readings of the TSC too, what adjtimex() answered, and the coarse clocks. In all 4700 readings of five
clocks over 16 changes, a leap second among them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.linux import real_hour

from guestclock.linux import Timekeeper, clocksource
from guestclock.linux.ntp import Ntp

HERE = Path(__file__).parent
COARSE_NS = 6
"""How far a coarse clock's reading may be off: its tick came up to 3 us sooner or later than LATE_NS says, and the
multiplier changed by up to 1500 ppm there; and 1 ns, as where the tick before the first reading stood is not known."""


@pytest.fixture(scope="module")
def lines() -> list[real_hour.Line]:
    return real_hour.load(HERE / "hour-6.12.csv.gz", HERE / "hour-6.12-changes.json.gz")


def test_every_reading_of_an_hour_is_predicted(lines):
    kernel = real_hour.Kernel(lines)
    judged = real_hour.judge(lines, kernel)
    assert judged.outside() == []
    assert judged.answers == []
    assert len(judged.readings) == 4700
    assert lines[-1]["before"] - lines[1]["before"] > 3600 * real_hour.TSC_KHZ * 1000
    # The vDSO's sandwich is 79 ns wide, and its own reading of the TSC always at the same place in it.
    clocks = ("monotonic", "monotonic_raw", "boottime", "realtime", "tai")
    assert max(judged.spread_ns(clock, "vdso") for clock in clocks) <= 6
    assert max(map(abs, judged.coarse)) <= COARSE_NS
    # What was read off and not predicted: where in a call time was forwarded.
    assert len(judged.instants) == 3
    assert all(line["before"] <= cycles <= line["after"] for line, cycles in judged.instants)
    assert kernel.tk.tai_offset == 38, "37, and the leap second"


def first_minutes(lines, minutes=12):
    """Until after the first frequency, the first phase and the second one."""
    end = lines[1]["before"] + minutes * 60 * real_hour.TSC_KHZ * 1000
    return [line for line in lines if line.get("before", 0) < end]


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (Timekeeper, "advance", lambda self, cycles, forced=False: self.tick_until(cycles) or False),  # all on time
        (Ntp, "second_overflow", lambda self, secs: 0),
        (Ntp, "_fll", lambda self, ns, secs: 1 << 30),
    ],
)
def test_a_model_that_does_one_thing_otherwise_is_told(lines, monkeypatch, owner, name, wrong):
    few = first_minutes(lines)
    monkeypatch.setattr(owner, name, wrong)
    judged = real_hour.judge(few)
    assert judged.outside() or judged.answers


@pytest.mark.parametrize("khz", [real_hour.TSC_KHZ + 1, real_hour.TSC_KHZ - 1])
def test_a_rate_that_is_1_khz_off_is_told(lines, khz):
    with pytest.raises(AssertionError, match="not one line"):
        real_hour.Kernel(first_minutes(lines), clocksource("tsc", tsc_khz=khz))
