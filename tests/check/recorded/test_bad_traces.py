"""What is no trace is refused in one line: file, line, column, and what was expected."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from guestclock.check.recorded import judge_files, judge_rows
from guestclock.errors import UserError

HEAD = "vcpu,seq,c0,c1,clock,value,epoch\n"
GOOD = HEAD + "0,1,100,110,MONOTONIC,5000,1\n0,2,120,130,MONOTONIC,5020,1\n"


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        judge_files([str(path)])
    told = str(error.value)
    assert "\n" not in told
    assert told.startswith(f"{path}: ")
    return told.removeprefix(f"{path}: ")


@pytest.fixture
def file(tmp_path: Path):
    def write(content: str | bytes, name: str = "t.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


CSV = {
    "empty": ("", "empty, expected readings"),
    "only a header": ("# tsc_khz: 5\n", "empty, expected readings"),
    "no rows": (HEAD, "no rows, expected readings"),
    "not a number": (GOOD + "0,3,x,150,MONOTONIC,5040,1\n", "line 4: c0: 'x', expected a whole number"),
    "a fraction": (GOOD + "0,3,140,150,MONOTONIC,1.5,1\n", "line 4: value: '1.5', expected a whole number"),
    "no value": (GOOD + "0,3,140,150,MONOTONIC,,1\n", "line 4: value: nothing, expected a number"),
    "an unknown clock": (
        GOOD + "0,3,140,150,MONOTONICK,5040,1\n",
        "line 4: clock: 'MONOTONICK', expected one of MONOTONIC, MONOTONIC_RAW, BOOTTIME, REALTIME, TAI, KVMCLOCK, "
        "SCHED_CLOCK, COUNTER; did you mean MONOTONIC?",
    ),
    "a clock as a value": (GOOD + "0,3,140,150,MONOTONIC,TAI,1\n", "line 4: value: 'TAI', expected a whole number"),
    "a number as a clock": (
        GOOD + "0,3,140,150,3,5040,1\n",
        "line 4: clock: '3', expected one of MONOTONIC, MONOTONIC_RAW, BOOTTIME, REALTIME, TAI, KVMCLOCK, SCHED_CLOCK, "
        "COUNTER",
    ),
    "a sandwich reversed": (
        GOOD + "0,3,150,140,MONOTONIC,5040,1\n",
        "line 4: c1: 140 is before c0, 150; expected the counter after the reading",
    ),
    "half a sandwich": (
        GOOD + "0,3,140,,MONOTONIC,5040,1\n",
        "line 4: c1: nothing, expected a number, since c0 and c1 go together",
    ),
    "seq repeated": (
        GOOD + "0,2,140,150,MONOTONIC,5040,1\n",
        "line 4: seq: 2 of vcpu 0 is repeated, expected rising numbers",
    ),
    "seq going back": (
        GOOD + "0,1,140,150,MONOTONIC,5040,1\n",
        "line 4: seq: 1 of vcpu 0 comes after 2, expected rising numbers",
    ),
    "epoch going back": (
        GOOD + "0,3,140,150,MONOTONIC,5040,0\n",
        "line 4: epoch: 0 after 1 on vcpu 0, expected that it never goes back",
    ),
    "a negative counter": (
        GOOD + "0,3,-140,150,MONOTONIC,5040,1\n",
        "line 4: c0: '-140', expected an unsigned number of 64 bits",
    ),
    "65 bits": (
        GOOD + f"0,3,140,{2**64},MONOTONIC,5040,1\n",
        f"line 4: c1: '{2**64}', expected an unsigned number of 64 bits",
    ),
    "a vCPU beyond all": (
        GOOD + "5000,3,140,150,MONOTONIC,5040,1\n",
        "line 4: vcpu: '5000', expected a vCPU, 0 to 4095",
    ),
    "a vCPU too many": (
        "# vcpus: 2\n" + GOOD + "2,3,140,150,MONOTONIC,5040,1\n",
        "line 5: vcpu: 2, expected less than 2, as vcpus says",
    ),
    "a row too short": (
        GOOD + "0,3,140\n",
        "line 4: 3 fields, expected 7: vcpu, seq, c0, c1, clock, value, epoch",
    ),
    "two rows that make up for each other": (
        GOOD + "0,3,140\n0,3,140,150,MONOTONIC,5040,1,0,3,140,150\n",
        "line 4: 3 fields, expected 7: vcpu, seq, c0, c1, clock, value, epoch",
    ),
    "an unknown column": ("vcpu,clok,value\n0,TAI,5\n", "line 1: unknown column 'clok' (did you mean clock?)"),
    "a column twice": ("clock,value,clock\nTAI,5,TAI\n", "line 1: column clock stands there twice"),
    "no clock at all": ("vcpu,value\n0,5\n", "line 2: a reading without clock: there is no such column"),
    "not UTF-8": (GOOD.encode() + b"0,3,140,150,MONO\xffTONIC,5040,1\n", "line 4: not text, expected UTF-8"),
    "binary": (b"\x7fELF\0\0\1\2", "binary data, expected CSV or JSON lines, plain or gzipped"),
    "an unknown key": ("# tsc_kHz: 5\n" + GOOD, "line 1: unknown key 'tsc_kHz' (did you mean 'tsc_khz'?)"),
    "a key of another kind": (
        "# tsc_khz: fast\n" + GOOD,
        "line 1: tsc_khz: 'fast', expected a whole number of kHz, not negative",
    ),
    "no number of ppm": ("# freq_ppm: nan\n" + GOOD, "line 1: freq_ppm: 'nan', expected a number of ppm"),
    "an unknown design": (
        "# design: v4\n" + GOOD,
        "line 1: design: 'v4', expected one of none, stock, running, v3, corrected",
    ),
    "two rates": (
        "# tsc_khz: 5\n# counter_hz: 6\n" + GOOD,
        "line 2: counter_hz 6 and tsc_khz 5 contradict each other",
    ),
    "an unknown event": (
        "event,clock,value\nstopp,,\n",
        "line 2: event: 'stopp' (did you mean stop?)",
    ),
    "an event that lacks something": (
        "event,clock,value,id,ns\narm,MONOTONIC,,t,\n",
        "line 2: ns: nothing, expected a value, as arm needs id, clock, ns",
    ),
    "an event with something else": (
        "event,clock,value,id\nstop,,,t\n",
        "line 2: id: 't', but stop has no id",
    ),
    "a reading in a stop": (
        "event,clock,value\nstop,,\n,TAI,5\n",
        "line 3: a reading, but the VM is stopped since {file}: line 2",
    ),
    "a resume without a stop": ("event,clock,value\nresume,,\n", "line 2: resume, but the VM was not stopped"),
    "a stop in a stop": (
        "event,clock,value\nstop,,\nstop,,\n",
        "line 3: stop, but the VM is stopped since {file}: line 2",
    ),
    "a vCPU plugged in that was there": (
        "event,vcpu,clock,value\n,1,TAI,5\nonline,1,,\n",
        "line 3: vcpu1 is plugged in, but was there before",
    ),
    "a host's clock without its error": (
        "clock,value,host_ns\nREALTIME,5,5\n",
        "line 2: err_ns: nothing, expected a number, since host_ns needs it",
    ),
    "a vCPU plugged in twice": (
        "event,vcpu,clock,value\nonline,1,,\nonline,1,,\n",
        "line 3: vcpu1 is plugged in, but was there before",
    ),
    "one line that is no text of ours": (
        "x" * 5000,
        f"line 1: unknown column '{'x' * 58}… (see guestclock trace columns)",
    ),
    "a token from nowhere": (
        "event,vcpu,clock,value,id\n,0,TAI,5,\nrecv,0,,,a\n",
        "line 3: recv of 'a', which nobody has sent before",
    ),
    "a timer that was not armed": (
        "event,vcpu,clock,value,id\nfire,,,5,a\n",
        "line 2: fire of timer 'a', which was never armed",
    ),
    "an owner twice": (
        "event,id,clock,value\ncommit,a,,\ncommit,a,,\n",
        "line 3: committed to 'a', which owns the VM since {file}: line 2",
    ),
    "thawed, but not frozen": (
        "event,text,clock,value\nfreeze,thawed,,\n",
        "line 2: thawed, but nothing is frozen",
    ),
    "a state that there is not": (
        "event,text,clock,value\nfreeze,cold,,\n",
        "line 2: text: 'cold', expected one of frozen, acked, moved, reconf, thawed",
    ),
}


@pytest.mark.parametrize("name", CSV)
def test_a_file_that_is_no_trace(file: Any, name: str) -> None:
    content, expected = CSV[name]
    path = file(content)
    assert refused(path) == expected.replace("{file}", str(path))


JSON = {
    "no JSON": ('{"clock": "TAI", "value": 5}\n{"clock"\n', "line 2: not a row: "),
    "another type": ('{"clock": "TAI", "value": "5"}\n', "line 1: not a row: expected 'int | null', got 'str'"),
    "an unknown column": (
        '{"clock": "TAI", "value": 5, "tick": 1}\n',
        "line 1: not a row: unknown column 'tick'",
    ),
    "another version": ('{"guestclock_readings": 2}\n', "line 1: guestclock_readings of another number"),
    "an unknown clock": ('{"clock": "TIA", "value": 5}\n', "line 1: clock: 'TIA', expected one of MONOTONIC, "),
    "a sandwich reversed": (
        '\n{"clock": "TAI", "value": 5, "c0": 7, "c1": 6}\n',
        "line 2: c1: 6 is before c0, 7",
    ),
    "an unknown key": ('{"guestclock_readings": 1, "khz": 5}\n', "line 1: unknown key 'khz' (did you mean 'tsc_khz'?)"),
}


@pytest.mark.parametrize("name", JSON)
def test_json_lines_that_are_no_trace(file: Any, name: str) -> None:
    content, expected = JSON[name]
    assert refused(file(content, "t.jsonl")).startswith(expected)


def test_a_gzip_file_that_is_cut_off(file: Any) -> None:
    whole = gzip.compress(GOOD.encode() * 100)
    assert refused(file(whole[: len(whole) // 2], "t.csv.gz")).startswith("the gzip file is cut off somewhere after")


def test_a_gzip_file_that_is_damaged(file: Any) -> None:
    whole = bytearray(gzip.compress((GOOD + "0,3,140,150,MONOTONIC,5040,1\n").encode()))
    whole[-6] ^= 0xFF  # its checksum
    assert refused(file(bytes(whole), "t.csv.gz")).startswith("the file is damaged (CRC check failed")


def test_a_directory_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refused(tmp_path) == "a directory, expected a file of readings"
    assert refused(tmp_path / "none.csv") == "No such file or directory"


def test_several_files_without_a_common_time(file: Any) -> None:
    paths = [str(file(GOOD, name)) for name in ("a.csv", "b.csv")]
    with pytest.raises(UserError, match=r"several files need one timeline"):
        judge_files(paths)


def test_rows_from_python_are_refused_alike() -> None:
    with pytest.raises(UserError, match=r"rows: line 2: clock: 'TIA'"):
        judge_rows([{"clock": "TAI", "value": 5}, {"clock": "TIA", "value": 5}], {})
    with pytest.raises(UserError, match=r"rows: not a row: .*unknown column 'tick'"):
        judge_rows([{"clock": "TAI", "value": 5, "tick": 7}], {})
    with pytest.raises(UserError, match=r"rows: header: unknown key 'hz'"):
        judge_rows([], {"hz": 7})
