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
NTP = HERE / "lab-ntp.csv.gz"
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
    # Nobody ever disciplined this clock: one multiplier is exact, and there is nothing to swing about.
    assert flagged(judge_rows(broken, {**header, "dither_ns": 5})) == expected
    assert flagged(judge_rows(rows, {**header, "dither_ns": 5})) == set()


# ---- NTP's frequency is set to 0, 37.5, -250 and 499 ppm, for ten minutes each; the kernel sleeps 15 s at a time


def retold(tmp_path: Path, old: str, new: str) -> str:
    """The trace with one thing said otherwise."""
    text = gzip.decompress(NTP.read_bytes()).decode()
    assert old in text
    path = tmp_path / "retold.csv"
    path.write_text(text.replace(old, new))
    return str(path)


def test_a_frequency_that_is_told_is_what_a_real_kernel_runs_at() -> None:
    judged = judge_files([str(NTP)])
    assert (judged.status, judged.events) == (HOLDS, 4)
    assert judged.checks[2].compared > 600


@pytest.mark.parametrize("other", ["37.51", "37.49"])
def test_a_hundredth_of_a_ppm_beside_it_is_flagged(tmp_path: Path, other: str) -> None:
    assert flagged(judge_files([retold(tmp_path, ",37.5\n", f",{other}\n")])) == {3}


def test_a_kernel_that_sleeps_keeps_a_multiplier_for_longer_than_a_tick(tmp_path: Path) -> None:
    """A step of it makes more than a microsecond in 15 s, and without the pause in the reckoning it is flagged."""
    often = retold(tmp_path, "# counters: common\n", "# counters: common\n# dither_ns: 5\n")
    assert judge_files([often]).status == HOLDS
    rows = [line.split(",") for line in gzip.decompress(NTP.read_bytes()).decode().splitlines() if "MONOTONIC," in line]
    last = [(int(row[2]), int(row[5])) for row in rows][-80::2]
    line = [value - (c - last[0][0]) / 2_596_122_000 * 1e9 * (1 + 499e-6) for c, value in last]
    drift = (line[-1] - line[0]) / (len(line) - 1)
    swing = [value - line[0] - drift * i for i, value in enumerate(line)]
    assert max(swing) - min(swing) > 1_000
