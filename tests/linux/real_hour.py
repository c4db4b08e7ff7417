"""An hour of a real kernel's clocks with everything that NTP clients do to them, and what the timekeeper says of it.

What is not known of the kernel at the start is a handful of constants: where its clocks stood, to the nanosecond and
the cycle. They are learnt from the first readings (MONOTONIC_RAW's line from all of them: it is one). Everything after
is predicted, reading by reading, as an interval: what the model shows at the counter before and at the counter after.

Two things more are read off: the instant within the call at which the kernel forwarded its time in a step of REALTIME
(by the next coarse reading, and it must lie within the call), and nothing else.
"""

from __future__ import annotations

import copy
import csv
import gzip
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guestclock.linux import Clocksource, Timekeeper, Timex, clocksource
from guestclock.linux.ntp import (
    ADJ_ESTERROR,
    ADJ_FREQUENCY,
    ADJ_MAXERROR,
    ADJ_NANO,
    ADJ_OFFSET,
    ADJ_OFFSET_SINGLESHOT,
    ADJ_SETOFFSET,
    ADJ_STATUS,
    ADJ_TAI,
    ADJ_TICK,
    ADJ_TIMECONST,
    STA_INS,
    STA_NANO,
    STA_PLL,
)
from guestclock.linux.ticks import Ticks, cycles_at

SECOND = 10**9
TSC_KHZ = 1_023_457  # more than 1 % off what the kernel measures, or it would believe that instead
HZ = 250
TSC = clocksource("tsc", tsc_khz=TSC_KHZ)
LATE_NS = 3000
"""From a tick's due time to update_wall_time(), ns of virtual time, so instructions: an interrupt's way. 1000 to 4000
do."""

ANSWERS = ("offset", "freq", "maxerror", "esterror", "status", "constant", "tick", "tai")
Line = dict[str, Any]

DAY_NS = 86_400 * SECOND


def adjtimex(**fields: int) -> Line:
    return {"do": "adjtimex", **fields}


def settime(by_ns: int) -> Line:
    return {"do": "settime", "by_ns": by_ns}


PHASE = ADJ_OFFSET | ADJ_STATUS | ADJ_TIMECONST

CHANGES: dict[int, list[Line]] = {  # at which second, by the readings' count
    30: [adjtimex(modes=ADJ_FREQUENCY, freq=100 << 16)],
    300: [adjtimex(modes=PHASE | ADJ_NANO, offset=5_000_000, status=STA_PLL, constant=3)],
    620: [adjtimex(modes=ADJ_OFFSET, offset=-2_000_000)],
    800: [adjtimex(modes=ADJ_FREQUENCY, freq=-500 << 16)],
    1000: [adjtimex(modes=ADJ_FREQUENCY, freq=12_345)],
    1100: [adjtimex(modes=ADJ_TICK, tick=10_001)],
    1300: [adjtimex(modes=ADJ_TICK, tick=10_000)],
    1500: [adjtimex(modes=ADJ_SETOFFSET | ADJ_NANO, time_ns=1_250_000_001)],
    1700: [settime(-3 * SECOND)],
    1900: [adjtimex(modes=ADJ_TAI, constant=37)],
    2100: [adjtimex(modes=ADJ_OFFSET_SINGLESHOT, offset=20_000)],
    2400: [adjtimex(modes=PHASE, offset=-30_000_000, status=STA_PLL, constant=0)],
    2700: [  # into the day's last half minute, whose last second is followed by one more
        settime(DAY_NS - 2732 * SECOND),
        adjtimex(
            modes=ADJ_STATUS | ADJ_MAXERROR | ADJ_ESTERROR, status=STA_PLL | STA_INS, maxerror=1000, esterror=10
        ),
    ],
    2800: [adjtimex(modes=ADJ_STATUS, status=STA_PLL)],
    3000: [adjtimex(modes=ADJ_FREQUENCY, freq=0)],
    3300: [adjtimex(modes=ADJ_OFFSET_SINGLESHOT, offset=-1_234)],
}  # fmt: skip


LEAP = range(2700, 2800)
"""Seconds that are read one by one."""


def steps(seconds: int, changes: dict[int, list[Line]] = CHANGES, every_s: int = 10, leap: range = LEAP) -> list[Line]:
    """The program: readings every so often, the changes, adjtimex's answer after each.

    leap: seconds that are read one by one.
    """
    told: list[Line] = [{"do": "read"}, {"do": "read"}]
    for second in range(seconds):
        if second % every_s == 0 or second in leap:
            told.append({"do": "read"})
        for change in changes.get(second, []):
            told += [change, {"do": "read"}, adjtimex(modes=0)]
        told.append({"do": "sleep", "ns": SECOND})
    # One sleep where nothing comes between.
    merged: list[Line] = []
    for step in told:
        if merged and step["do"] == merged[-1]["do"] == "sleep":
            merged[-1] = {"do": "sleep", "ns": merged[-1]["ns"] + SECOND}
        else:
            merged.append(step)
    return [*merged, {"do": "read"}, adjtimex(modes=0)]


PROGRAM = {"program": "clocks", "steps": steps(3600)}


@dataclass
class Judged:
    """readings: (line, least, most) of each. answers: (line, what the model would have answered otherwise).

    coarse: of each reading of a coarse clock, what it showed too much. instants: (line, cycles) of what forwarded time.
    """

    readings: list[tuple[Line, int, int]] = field(default_factory=list)
    answers: list[tuple[Line, Line]] = field(default_factory=list)
    coarse: list[int] = field(default_factory=list)
    instants: list[tuple[Line, int]] = field(default_factory=list)

    def outside(self) -> list[tuple[Line, int, int]]:
        return [(line, lo, hi) for line, lo, hi in self.readings if not lo <= line["ns"] <= hi]

    def spread_ns(self, clock: str, by: str) -> int:
        """By how much the place of a clock's readings within their sandwiches varies."""
        places = [line["ns"] - lo for line, lo, _ in self.readings if (line["read"], line["by"]) == (clock, by)]
        return max(places) - min(places)


def readings(lines: Iterable[Line], *clocks: str) -> Iterator[Line]:
    return (line for line in lines if line.get("read") in clocks)


class Kernel:
    """A timekeeper set as a real one stood at its first reading."""

    def __init__(self, lines: list[Line], clock: Clocksource = TSC) -> None:
        shift = clock.shift
        start = next(line["before"] for line in lines if "read" in line)
        first = lines[
            : next((i for i, line in enumerate(lines) if "adjtimex" in line or "settime" in line), len(lines))
        ]
        least = max((line["ns"] << shift) - line["after"] * clock.mult for line in readings(lines, "monotonic_raw"))
        most = min(
            (line["ns"] + 1 << shift) - 1 - line["before"] * clock.mult for line in readings(lines, "monotonic_raw")
        )
        assert least <= most, "MONOTONIC_RAW is not one line"
        tk = Timekeeper.start(clock, start, hz=HZ, monotonic_ns=0, realtime_ns=0)
        tk.mono_snsec = tk.raw_snsec = (least + most) // 2 + start * clock.mult
        # Before anything was steered MONOTONIC - MONOTONIC_RAW is whole nanoseconds, and so are all the others.
        tk.mono_snsec += apart(first, "monotonic", tk.raw_ns) << shift
        tk.offs_real_ns = apart(first, "realtime", tk.monotonic_ns)
        tk.offs_boot_ns = apart(first, "boottime", tk.monotonic_ns)
        # And the latest tick is where the coarse clock stands.
        coarse = next(readings(lines, "monotonic_coarse"))["ns"]
        ticked = cycles_at(tk, coarse)
        tk.mono_snsec -= (tk.cycle_last - ticked) * tk.mono_mult
        tk.raw_snsec -= (tk.cycle_last - ticked) * tk.raw_mult
        tk.cycle_last = ticked
        self.tk = tk
        self.ticks = Ticks(
            due_ns=lines[0]["tick_due_ns"], period_ns=SECOND // HZ, late_cycles=LATE_NS * hertz(clock) // SECOND
        )

    def shows(self, clock: str, cycles: int) -> int:
        self.ticks.until(self.tk, cycles)
        name, _, coarse = clock.partition("_coarse")
        return self.tk.read_ns(clock, cycles) if clock == name and not coarse else self.tk.coarse_ns(name)

    def change(self, line: Line, cycles: int) -> Line:
        """Carries a change out; how the model's answer differs from the real one."""
        self.ticks.until(self.tk, cycles)
        if "settime" in line:
            assert self.tk.settimeofday(cycles, line["to_ns"]) == 0
            return {}
        told = self.tk.adjtimex(cycles, Timex(**line["adjtimex"]))
        differs = {name: getattr(told, name) for name in ANSWERS if getattr(told, name) != line["answer"][name]}
        return differs | ({} if told.result == line["result"] else {"result": told.result})


def apart(lines: list[Line], clock: str, base: Any) -> int:
    """A clock - another one, ns, by readings between which it stays."""
    least = max(line["ns"] - base(line["after"]) for line in readings(lines, clock))
    most = min(line["ns"] - base(line["before"]) for line in readings(lines, clock))
    assert least <= most, clock
    return (least + most) // 2


def forwards(line: Line) -> bool:
    return "settime" in line or bool(line.get("adjtimex", {}).get("modes", 0) & ADJ_SETOFFSET)


def judge(
    lines: list[Line], kernel: Kernel | None = None, told: Callable[[int, int, int], None] = lambda i, real, tai: None
) -> Judged:
    """Plays the hour on the model beside the real one.

    told: by how many ns line i, or a tick before it, has stepped REALTIME and TAI.
    """
    kernel = kernel or Kernel(lines)
    judged = Judged()
    offsets = kernel.tk.offs_real_ns, kernel.tk.offs_tai_ns
    for i, line in enumerate(lines):
        if "read" in line:
            lo, hi = (kernel.shows(line["read"], line[end]) for end in ("before", "after"))
            if line["read"].endswith("_coarse"):
                judged.coarse.append(line["ns"] - lo)
            else:
                judged.readings.append((line, lo, hi))
        elif "adjtimex" in line or "settime" in line:
            cycles = (line["before"] + line["after"]) // 2
            if forwards(line):
                cycles += instant(kernel, line, cycles, lines[i + 1 :])
                judged.instants.append((line, cycles))
            differs = kernel.change(line, cycles)
            if differs:
                judged.answers.append((line, differs))
        now = kernel.tk.offs_real_ns, kernel.tk.offs_tai_ns
        if now != offsets:
            told(i, now[0] - offsets[0], now[1] - offsets[1])
            offsets = now
    return judged


def instant(kernel: Kernel, line: Line, cycles: int, after: list[Line]) -> int:
    """By how many cycles the kernel forwarded its time later than at `cycles`: the next coarse reading tells."""
    guess = copy.deepcopy(kernel)
    guess.change(line, cycles)
    coarse = next(readings(after, "monotonic_coarse"))
    off_ns = coarse["ns"] - guess.shows("monotonic_coarse", coarse["before"])
    return off_ns * hertz(guess.tk.clock) // SECOND


def hertz(clock: Clocksource) -> int:
    return clock.freq * clock.scale


# ---- files


def save(lines: list[Line], trace: Path, changes: Path) -> None:
    """Readings as a recorded trace's columns (docs/traces.md); changes, which it has no columns for, as JSON.

    `set` rows say by how much a clock was stepped. A program that sets REALTIME to a value cannot know that; the model
    can, and it says when the leap second was.
    """
    columns = ["event", "seq", "c0", "c1", "clock", "value", "path", "ns", "ppm", "status", "maxerror_us", "offset_ns"]
    steps: dict[int, tuple[int, int]] = {}
    judge(lines, told=lambda i, real_ns, tai_ns: steps.update({i: (real_ns, tai_ns)}))
    with gzip.open(trace, "wt", newline="", compresslevel=9) as file:
        header = {"vcpus": 1, "tsc_khz": TSC_KHZ, "clocksource": "tsc", "logs": "inject set", "rate_ppm": 8000}
        file.writelines(f"# {key}: {value}\n" for key, value in header.items())
        rows = csv.DictWriter(file, columns, lineterminator="\n")
        rows.writeheader()
        kept: list[Line] = [lines[0]]
        for i, line in enumerate(lines[1:], 1):
            at = {"seq": i, "c0": line["before"], "c1": line["after"]}
            real_ns, tai_ns = steps.get(i, (0, 0))
            if "read" in line and real_ns:  # a leap second, at some tick since the reading before
                at = {"seq": i, "c0": lines[i - 1]["after"], "c1": line["before"]}
            if real_ns:
                rows.writerow({"event": "set", **at, "clock": "REALTIME", "ns": real_ns})
            if tai_ns != real_ns:
                rows.writerow({"event": "set", **at, "clock": "TAI", "ns": tai_ns - real_ns})
            at = {"seq": i, "c0": line["before"], "c1": line["after"]}
            if "read" in line and not line["read"].endswith("_coarse"):
                rows.writerow({**at, "clock": line["read"].upper(), "value": line["ns"], "path": line["by"]})
                continue
            if "adjtimex" in line:
                answer = line["answer"]
                rows.writerow({
                    "event": "ntp", **at, "status": answer["status"], "maxerror_us": answer["maxerror"],
                    "offset_ns": answer["offset"] * (1 if answer["status"] & STA_NANO else 1000),
                    "ppm": answer["freq"] / 65536,
                })  # fmt: skip
            kept.append({"seq": i, **line})
    changes.write_bytes(gzip.compress(json.dumps(kept, separators=(",", ":")).encode(), 9, mtime=0))


def load(trace: Path, changes: Path) -> list[Line]:
    """The lines as they came out of the lab."""
    first, *kept = json.loads(gzip.decompress(changes.read_bytes()))
    found = {line.pop("seq"): line for line in kept}
    with gzip.open(trace, "rt", newline="") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            if not row["event"]:
                found[int(row["seq"])] = {
                    "read": row["clock"].lower(), "by": row["path"], "ns": int(row["value"]),
                    "before": int(row["c0"]), "after": int(row["c1"]),
                }  # fmt: skip
    return [first, *(found[seq] for seq in sorted(found))]
