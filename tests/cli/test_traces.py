"""guestclock trace: what is printed, and how it exits."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from guestclock.check.recorded.recorder import SOURCE, khz_of
from guestclock.cli import main

CLEAN = "# counters: common\n# tsc_khz: 1000000\n# clocksource: tsc\nvcpu,c0,c1,clock,value\n" + "".join(
    f"{i % 2},{1000 + i * 100},{1040 + i * 100},MONOTONIC,{5020 + i * 100}\n" for i in range(10)
)


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def guestclock(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    def call(*words: str, stdin: str = "") -> Done:
        monkeypatch.setattr(sys, "argv", ["guestclock", "trace", *words])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, out, err)

    return call


def test_what_holds_exits_0_and_says_what_was_judged(guestclock: Callable[..., Done]) -> None:
    done = guestclock("check", "-", stdin=CLEAN)
    assert (done.returncode, done.stderr) == (0, "")
    first, *rest = done.stdout.splitlines()
    assert first == "holds       4 of 25 invariants judged, all hold: 10 readings on 2 vCPUs (stdin)"
    assert any("I1 never-back (8), I2 order (9), I3 rate (10), I8 counter (8)" in line for line in rest)
    assert "not judged  I4 offsets, I5 tai" in done.stdout


def test_what_is_violated_exits_1_with_its_place_and_both_readings(
    guestclock: Callable[..., Done], tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(CLEAN.replace("1,1700,1740,MONOTONIC,5720", "1,1700,1740,MONOTONIC,5519"))
    done = guestclock("check", str(path))
    assert done.returncode == 1
    assert done.stdout.startswith("VIOLATED    3 of 4 invariants: ")
    assert "I1 never-back: vcpu1 MONOTONIC steps back: 1 ns" in done.stdout
    assert f"{path}: line 10: 5 520, then line 12: 5 519" in done.stdout
    assert "I2 order: vcpu1 reads MONOTONIC later than vcpu0 did, and less: 101 ns" in done.stdout


def test_json_has_the_same(guestclock: Callable[..., Done]) -> None:
    done = guestclock("check", "-", "--json", stdin=CLEAN.replace("MONOTONIC,5720", "MONOTONIC,5519"))
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert (told["status"], told["readings"], len(told["invariants"])) == ("violated", 10, 25)
    first = told["invariants"][0]
    assert (first["name"], first["violations"], first["worst"]["amount"]) == ("never-back", 1, 1)
    assert first["worst"]["at"] == ["stdin: line 10", "stdin: line 12"]


def test_what_cannot_be_judged_exits_3(guestclock: Callable[..., Done]) -> None:
    done = guestclock("check", "-", stdin="clock,value\nMONOTONIC,5\n")
    assert done.returncode == 3
    assert done.stdout.startswith("UNDECIDED   nothing could be judged: 1 reading on 1 vCPU (stdin)")


def test_what_is_no_trace_exits_2_with_one_line(guestclock: Callable[..., Done]) -> None:
    done = guestclock("check", "-", stdin="clock,value\nMONOTONIC,x\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "guestclock: stdin: line 2: value: 'x', expected a whole number\n"


def test_the_tables_name_whatever_there_is(guestclock: Callable[..., Done]) -> None:
    assert "host_monotonic_ns" in guestclock("columns").stdout
    assert "I25  one-owner" in guestclock("invariants").stdout


def test_the_recorder_is_printed_as_it_is(guestclock: Callable[..., Done]) -> None:
    assert guestclock("record", "--source").stdout == SOURCE.read_text()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc)")
def test_what_this_machine_records_is_a_trace_that_holds(guestclock: Callable[..., Done], tmp_path: Path) -> None:
    path = tmp_path / "here.csv.gz"
    done = guestclock("record", "-o", str(path), "--seconds", "0.2", "--interval-ms", "2")
    assert (done.returncode, done.stdout.strip()) == (0, str(path)), done.stderr
    judged = guestclock("check", str(path), "--json")
    held = {i["number"] for i in json.loads(judged.stdout)["invariants"] if i["status"] == "holds"}
    assert judged.returncode == 0, judged.stdout
    assert {1, 4, 8} <= held


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "-o: missing, expected a file for the trace"),
        (("-o", "t.csv", "--seconds", "0"), "--seconds 0: expected more than 0 and at most 1e8"),
        (("-o", "t.csv", "--interval-ms", "-1"), "--interval-ms -1: expected more than 0 and at most 1e7"),
        (("-o", "none/t.csv"), "none/t.csv: no such directory: none"),
    ],
)
def test_mistakes_in_recording_are_one_line(guestclock: Callable[..., Done], words: tuple[str, ...], told: str) -> None:
    done = guestclock("record", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_machine_without_a_compiler_is_told_how_to_go_on(
    guestclock: Callable[..., Done], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = guestclock("record", "-o", str(tmp_path / "t.csv"))
    assert done.returncode == 2
    assert done.stderr.startswith("guestclock: cc: not found, needed to build the recorder (Debian package gcc)")


def test_the_rate_of_the_tsc_is_the_refined_one() -> None:
    log = "tsc: Detected 2596.100 MHz processor\nx\ntsc: Refined TSC clocksource calibration: 2596.122 MHz\n"
    assert khz_of(log) == 2_596_122
    assert khz_of("tsc: Detected 2596.138 MHz processor") == 2_596_138
    assert khz_of("nothing") is None
