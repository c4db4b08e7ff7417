"""Recorded from real kernels: an hour of Debian's 6.12 in the lab, x86 and arm64; a KVM guest of two vCPUs.

Clean they hold; broken a little they are flagged, by the invariant that says so.
"""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pytest

from guestclock.check.recorded import HOLDS, judge_files, judge_rows
from tests.check.recorded.test_invariants import flagged

HERE = Path(__file__).parent
LABS = {"x86": HERE / "lab-hour.csv.gz", "arm64": HERE / "lab-hour-arm64.csv.gz"}
GUEST = HERE / "guest-two-minutes.csv.gz"
STEERED = HERE.parent.parent / "linux" / "hour-6.12.csv.gz"
NS_PER_DAY = 86_400 * 10**9
NUMBERS = ("vcpu", "seq", "c0", "c1", "value")


def load(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    header = dict(line[2:].split(": ", 1) for line in lines if line.startswith("#"))
    rows = csv.DictReader(io.StringIO("\n".join(line for line in lines if not line.startswith("#"))))
    return [{k: int(v) if k in NUMBERS else v for k, v in row.items()} for row in rows], header


@pytest.fixture(scope="module", params=LABS)
def hour(request: pytest.FixtureRequest) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return load(LABS[request.param])


@pytest.mark.parametrize("arch", LABS)
def test_an_hour_of_a_real_kernel_holds(arch: str) -> None:
    rows, header = load(LABS[arch])
    hz = int(header["counter_hz"]) if arch == "arm64" else int(header["tsc_khz"]) * 1000
    assert (rows[-1]["c1"] - rows[0]["c0"]) / hz > 3600
    judged = judge_files([str(LABS[arch])])
    assert judged.status == HOLDS
    assert {check.number for check in judged.of(HOLDS)} == {1, 3, 4, 5, 8}
    assert judged.checks[2].compared == len(rows) > 4_000


def test_two_minutes_of_a_real_guest_hold() -> None:
    judged = judge_files([str(GUEST)])
    assert judged.status == HOLDS
    assert {check.number for check in judged.of(HOLDS)} == {1, 2, 3, 4, 5, 8}
    assert min(check.compared for check in judged.of(HOLDS)) > 300


def test_an_hour_of_steered_and_stepped_clocks_holds() -> None:
    """Readings 10 s apart, REALTIME set, TAI's offset set, a leap second: between them any whole second may be."""
    judged = judge_files([str(STEERED)])
    assert judged.status == HOLDS
    assert {check.number for check in judged.of(HOLDS)} == {1, 3, 4, 5, 8, 20}


def faster(clock: str, ns_a_day: float):
    def break_(rows: list[dict[str, Any]]) -> None:
        mine = [row for row in rows if row["clock"] == clock]
        first = mine[0]["value"]
        for row in mine:
            row["value"] += int((row["value"] - first) * ns_a_day / NS_PER_DAY)

    return break_


def back_once(rows: list[dict[str, Any]]) -> None:
    """One reading of MONOTONIC by the system call is a ns less than the one by the vDSO before it."""
    row = next(i for i in range(2_000, len(rows)) if rows[i - 1]["clock"] == rows[i]["clock"] == "MONOTONIC")
    rows[row]["value"] = rows[row - 1]["value"] - 1


def boottime_off(rows: list[dict[str, Any]]) -> None:
    for row in rows[len(rows) // 2 :]:
        if row["clock"] == "BOOTTIME":
            row["value"] -= 1_000_000


BROKEN = {
    "MONOTONIC_RAW gains 1 µs a day": (faster("MONOTONIC_RAW", 1_000), {3}),
    "MONOTONIC_RAW loses 1 µs a day": (faster("MONOTONIC_RAW", -1_000), {3}),
    "REALTIME gains 1 µs a day": (faster("REALTIME", 1_000), {3}),
    "MONOTONIC steps back 1 ns": (back_once, {1, 3}),
    "BOOTTIME falls 1 ms behind": (boottime_off, {3, 4}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_same_hour_broken_a_little_is_flagged(hour: tuple[list[dict[str, Any]], dict[str, Any]], name: str) -> None:
    rows, header = hour
    break_, expected = BROKEN[name]
    broken = [dict(row) for row in rows]
    break_(broken)
    # In virtual time nobody is late: a tick comes when it is due, and MONOTONIC swings by less than a ns.
    assert flagged(judge_rows(broken, {**header, "dither_ns": 5})) == expected
    assert flagged(judge_rows(rows, {**header, "dither_ns": 5})) == set()
