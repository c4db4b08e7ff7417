"""However a trace comes (CSV, JSON lines, gzip, several files, Python; any stretches), it is judged alike."""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from guestclock.check.recorded import HOLDS, VIOLATED, Judgement, judge_files, judge_rows, order, source
from tests.check.recorded.test_invariants import BROKEN, flagged
from tests.check.recorded.world import Row, World, whole


def told(judged: Judgement) -> list[tuple[object, ...]]:
    return [(c.number, c.status, c.compared, c.violations) for c in judged.checks]


def as_csv(rows: Sequence[Row], header: Row, quoted: bool = False) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    out = io.StringIO()
    for key, value in header.items():
        out.write(f"# {key}: {value}\n")
    writer = csv.DictWriter(
        out, columns, lineterminator="\n", quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL, restval=""
    )
    out.write(",".join(columns) + "\n")
    writer.writerows(rows)
    return out.getvalue()


def as_json(rows: Sequence[Row], header: Row) -> str:
    return "\n".join(json.dumps(row) for row in ({"guestclock_readings": 1, **header}, *rows)) + "\n"


@pytest.fixture(scope="module")
def world() -> World:
    return whole()


@pytest.fixture(scope="module")
def expected(world: World) -> list[tuple[object, ...]]:
    return told(judge_rows(world.rows, world.header))


@pytest.mark.parametrize("form", ["csv", "quoted", "jsonl", "csv.gz", "jsonl.gz"])
def test_every_form_is_judged_alike(world: World, expected: object, tmp_path: Path, form: str) -> None:
    text = as_json(world.rows, world.header) if "json" in form else as_csv(world.rows, world.header, form == "quoted")
    path = tmp_path / f"trace.{form}"
    path.write_bytes(gzip.compress(text.encode()) if form.endswith("gz") else text.encode())
    assert told(judge_files([str(path)])) == expected


@pytest.mark.parametrize("stretch", [7, 500])
def test_stretches_of_any_length_are_judged_alike(
    world: World, expected: object, monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    monkeypatch.setattr(source, "STRETCH", stretch)
    assert told(judge_rows(world.rows, world.header)) == expected


@pytest.mark.parametrize("name", list(BROKEN)[::4])
def test_what_is_broken_is_found_in_short_stretches_too(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "STRETCH", 211)
    design, break_, numbers = BROKEN[name]
    world = whole(design)
    rows = copy.deepcopy(world.rows)
    break_(rows)
    assert flagged(judge_rows(rows, world.header)) == numbers


@pytest.mark.parametrize(
    "name",
    [
        "MONOTONIC steps back 1 ns",
        "the counter steps back a cycle",
        "one vCPU is 1 ns behind another",
        "a vCPU's counter is behind what another has sent",
    ],
)
def test_what_is_broken_between_two_stretches_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "STRETCH", 1)
    design, break_, numbers = BROKEN[name]
    world = whole(design)
    rows = copy.deepcopy(world.rows[:200])
    break_(rows)
    assert flagged(judge_rows(rows, world.header)) == numbers


def files_of(rows: Sequence[Row], header: Row, place: Path) -> list[str]:
    """A file for each vCPU; the first has the header."""
    paths = []
    for vcpu in (0, 1):
        path = place / f"vcpu{vcpu}.csv"
        path.write_text(as_csv([r for r in rows if r["vcpu"] == vcpu], header if vcpu == 0 else {}))
        paths.append(str(path))
    return paths


@pytest.mark.parametrize("by", ["h0", "c0"])
@pytest.mark.parametrize("stretch", [13, 1 << 16])
def test_a_file_per_vcpu_is_one_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str, stretch: int) -> None:
    monkeypatch.setattr(source, "STRETCH", stretch)
    world = World().run(30)
    rows = [row for row in world.rows if "event" not in row]
    if by == "c0":
        for row in rows:
            del row["h0"], row["h1"]
    one = judge_rows(rows, world.header)
    several = judge_files(files_of(rows, world.header, tmp_path))
    assert told(several) == told(one)
    assert one.status == HOLDS


@pytest.mark.parametrize("stretch", [13, 1 << 16])
def test_vcpus_one_after_the_other_in_one_file_are_still_held_to_each_other(
    monkeypatch: pytest.MonkeyPatch, stretch: int
) -> None:
    """I2 looks both ways: what stands later in the file may be the earlier reading."""
    monkeypatch.setattr(source, "STRETCH", stretch)
    world = World().run(30)
    rows = [{k: v for k, v in row.items() if k not in ("h0", "h1")} for row in world.rows if "event" not in row]
    ordered = sorted(rows, key=lambda row: row["vcpu"])
    assert judge_rows(ordered, world.header).status == HOLDS
    late = next(row for row in ordered if row["vcpu"] == 1 and row["clock"] == "MONOTONIC_RAW")
    for row in ordered:
        if row["vcpu"] == 1 and row["clock"] == "MONOTONIC_RAW":
            row["value"] += 10_000_000
    judged = judge_rows(ordered, world.header)
    assert flagged(judged) == {2}, late
    (check,) = judged.of(VIOLATED)
    assert check.worst is not None
    assert 9_000_000 < check.worst.amount <= 10_000_000


def test_readings_from_the_guest_and_events_from_the_host_are_one_trace(tmp_path: Path) -> None:
    """By the guest's counter, which the host's events tell as well: a file of each."""
    world = World(vcpus=1)
    for _ in range(3):
        world.run(3)
        world.sleep()
    world.run(3)
    wanted = ("stop", "resume", "inject", "sleep")
    rows = [dict(row) for row in world.rows if row.get("event") in (None, *wanted)]
    last = 0
    for row in rows:
        row.pop("h0", None), row.pop("h1", None)
        row["c0"] = row.setdefault("c0", last)
        last = row["c1"] = row.setdefault("c1", last)
    one = judge_rows(rows, world.header)
    paths = [tmp_path / "guest.csv", tmp_path / "host.jsonl"]
    paths[0].write_text(as_csv([row for row in rows if "event" not in row], world.header))
    paths[1].write_text("\n".join(json.dumps(row) for row in rows if "event" in row))
    both = judge_files([str(path) for path in paths])
    assert told(both) == told(one)
    assert {4, 6, 8, 13, 21} <= {check.number for check in both.of(HOLDS)}
    assert judge_files([str(paths[0])]).checks[3].status == VIOLATED


def test_what_arrives_late_meets_the_latest_readings_also_when_older_ones_are_thinned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source, "STRETCH", 100)
    monkeypatch.setattr(order, "KEPT", 16)
    rows: list[Row] = [
        {"vcpu": 0, "c0": i * 100, "c1": i * 100 + 10, "clock": "MONOTONIC", "value": i * 100 + 5}
        for i in range(1, 101)
    ]
    for earlier in range(1, 12):
        # It ended before the reading of vcpu0 that is `earlier` from the last began, and shows 1 ns more than that one.
        late = {"vcpu": 1, "c0": 10_040 - earlier * 100, "c1": 10_060 - earlier * 100, "clock": "MONOTONIC"}
        judged = judge_rows([*rows, {**late, "value": 10_106 - earlier * 100}], {"counters": "common"})
        assert flagged(judged) == {2}, earlier
        fine = judge_rows([*rows, {**late, "value": 10_105 - earlier * 100}], {"counters": "common"})
        assert flagged(fine) == set()
