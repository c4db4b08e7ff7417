"""What Debian's kernels did in the lab, kept: the model agrees with it, and what is altered in it is told.

Six programs of `guestclock lab compare KERNEL --count 6 --record FILE` for each kernel, seeds 0 to 5.
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from guestclock.compare.session import Compared, Session
from guestclock.errors import UserError
from guestclock.runs.real import from_lines

RECORDINGS = Path(__file__).parent / "recordings"
KERNELS = (("6.1", "x86_64"), ("6.12", "x86_64"), ("6.1", "arm64"), ("6.12", "arm64"))
PROGRAMS = 6

Line = dict[str, Any]


def recording(kernel: str, arch: str) -> Path:
    return RECORDINGS / f"{arch.removesuffix('_64')}-{kernel}.gz"


@pytest.fixture(scope="module")
def recorded() -> Callable[[str, str], tuple[Session, list[Compared]]]:
    known: dict[tuple[str, str], tuple[Session, list[Compared]]] = {}

    def of(kernel: str, arch: str) -> tuple[Session, list[Compared]]:
        if (kernel, arch) not in known:
            session = Session(kernel, arch)
            known[kernel, arch] = session, list(session.recorded(recording(kernel, arch)))
        return known[kernel, arch]

    return of


@pytest.mark.parametrize(("kernel", "arch"), KERNELS)
def test_the_model_tells_what_the_kernel_told(kernel, arch, recorded):
    session, compared = recorded(kernel, arch)
    assert [str(d) for c in compared for d in c.verdict.differences] == []
    assert session.tally.seeds == list(range(PROGRAMS))
    assert min(c.verdict.exact for c in compared) > 100, "next to nothing was compared"
    assert session.tally.total("tracepoints") > 150


@pytest.mark.parametrize(
    ("kernel", "arch", "seeds"), [("6.12", "x86_64", [28, 42, 104, 252]), ("6.1", "arm64", [77, 125])]
)
def test_what_was_hard_to_tell_stays_told(kernel, arch, seeds):
    """x86: a sleep on hpet; pages after a sleep with a snapshot from before it; a TSC made up for by a cycle or not.

    arm64: a vCPU's thread that lost its CPU for a moment; the order in which timers are reset.
    """
    session = Session(kernel, arch)
    compared = list(session.recorded(RECORDINGS / f"{arch.removesuffix('_64')}-{kernel}-hard.gz"))
    assert [str(d) for c in compared for d in c.verdict.differences] == []
    assert session.tally.seeds == seeds
    assert not any(c.verdict.open_outcome for c in compared)


# ---- what is altered is told


def ops(lines: list[Line], *names: str) -> Iterator[Line]:
    return (line["data"] for line in lines if line.get("kind") == "op" and line["name"] in names)


def guest_readings(lines: list[Line]) -> Iterator[Line]:
    """As a KVM_RUN answered them."""
    answers = (answer for data in ops(lines, "Run") for answer in data.get("result", ()))
    return (answer for answer in answers if isinstance(answer, dict))


def points(lines: list[Line], name: str) -> Iterator[Line]:
    return (line["data"] for line in lines if line.get("kind") == "tracepoint" and line["name"] == name)


def counter_off(clock: str) -> Callable[[list[Line]], None]:
    """By 160 us more than its sandwich: what a write by value leaves open is some hundred ticks."""

    def alter(lines: list[Line]) -> None:
        reading = list(guest_readings(lines))[-1]
        wide = reading["host_counter"][1] - reading["host_counter"][0]
        reading[clock] += wide + 10_000
        if clock == "cntvct":
            reading["cntvct_after"] += wide + 10_000

    return alter


def refused(lines: list[Line]) -> None:
    data = next(d for d in ops(lines, "SetOneReg", "SetMsr") if "error" not in d)
    data.pop("result")
    data["error"] = "EBUSY"


def register_off(lines: list[Line]) -> None:
    registers = (0x6030_0000_0013_DF1A, 0x6030_0000_0013_DF19)  # TIMER_CVAL has CNTVCT's id: read with it
    data = next(d for d in ops(lines, "GetOneReg") if d["op"]["id"] not in registers and "result" in d)
    data["result"] += 10**12


def cval_off(lines: list[Line]) -> None:
    data = list(points(lines, "kvm_timer_restore_state"))[-1]
    data["cval"] += 10**9
    data["text"] = data["text"].replace("CVAL:", "CVAL: 1")


def level_off(lines: list[Line]) -> None:
    data = next(points(lines, "kvm_timer_update_irq"))
    data["text"] = data["text"].replace("level 0", "level 1")
    data["level"] = 1


def point_missing(name: str) -> Callable[[list[Line]], None]:
    def alter(lines: list[Line]) -> None:
        at = next(i for i, line in enumerate(lines) if line.get("name") == name)
        del lines[at]

    return alter


def mul_off(lines: list[Line]) -> None:
    next(iter(guest_readings(lines)))["page"]["tsc_to_system_mul"] += 1


def offset_off(lines: list[Line]) -> None:
    data = list(points(lines, "kvm_write_tsc_offset"))[-1]
    data["next"] += 10**6
    data["text"] = data["text"].replace(f"next={data['next'] - 10**6}", f"next={data['next']}")


ALTERED = (
    ("arm64", counter_off("cntvct"), "cntvct"),
    ("arm64", counter_off("cntpct"), "cntpct"),
    ("arm64", refused, "refusal"),
    ("arm64", register_off, "GetOneReg"),
    ("arm64", cval_off, "kvm_timer_restore_state"),
    ("arm64", level_off, "kvm_timer_update_irq"),
    ("arm64", point_missing("kvm_timer_save_state"), "tracepoints"),
    ("x86_64", refused, "refusal"),
    ("x86_64", mul_off, "tsc_to_system_mul"),
    ("x86_64", offset_off, "kvm_write_tsc_offset"),
    ("x86_64", point_missing("kvm_pvclock_update"), "tracepoints"),
)


@pytest.mark.parametrize(("arch", "alter", "told"), ALTERED)
def test_what_the_kernel_did_not_do_is_told(arch, alter, told, recorded):
    """In every program that has what is altered; there is one at least."""
    session, compared = recorded("6.12", arch)
    seen = 0
    for one in compared:
        lines = deepcopy(one.lines)
        try:
            alter(lines)
        except (StopIteration, IndexError):
            continue
        seen += 1
        differences = "\n".join(map(str, session.judged(one.program, from_lines(lines)).differences))
        assert told in differences, f"seed {one.seed}: {differences}"
    assert seen


# ---- recordings that are none


def test_a_recording_that_is_not_there_or_none_is_told(tmp_path):
    session = Session("6.12", "arm64")
    with pytest.raises(UserError, match=r"gone.gz: cannot be read: No such file"):
        list(session.recorded(tmp_path / "gone.gz"))
    plain = tmp_path / "plain.gz"
    plain.write_text("not gzip")
    with pytest.raises(UserError, match=r"plain.gz: cannot be read: Not a gzipped file"):
        list(session.recorded(plain))
    other = tmp_path / "other.gz"
    other.write_bytes(gzip.compress(b'{"guestclock_trace": 1}\n'))
    with pytest.raises(UserError, match=r"other.gz: no recording of 'guestclock lab compare --record'"):
        list(session.recorded(other))


def test_another_kernels_recording_is_refused():
    with pytest.raises(UserError, match=r"arm64-6.1.gz: is a recording of kernel 6.1 \(arm64\), asked for is 6.12"):
        list(Session("6.12", "arm64").recorded(recording("6.1", "arm64")))


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_recording_that_was_cut_is_told(tmp_path, kept):
    whole = recording("6.12", "x86_64").read_bytes()
    cut = tmp_path / "cut.gz"
    cut.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(UserError, match=r"cut.gz: damaged: "):
        list(Session("6.12").recorded(cut))


def test_an_entry_without_a_program_is_told(tmp_path):
    head = {"guestclock_recording": 1, "arch": "x86_64", "kernel": "6.12"}
    odd = tmp_path / "odd.gz"
    odd.write_bytes(gzip.compress(f"{json.dumps(head)}\n{{}}\n".encode()))
    with pytest.raises(UserError, match=r"odd.gz: damaged: "):
        list(Session("6.12").recorded(odd))


def test_the_command_judges_a_recording_and_keeps_what_differs(tmp_path):
    """By a wrong profile: 3.4 had no masterclock."""
    command = [sys.executable, "-m", "guestclock", "lab", "compare", "6.12", "--out", "out"]
    command += ["--recorded", str(recording("6.12", "x86_64"))]
    right = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (right.returncode, "0 differences" in right.stdout) == (0, True)
    wrong = subprocess.run(
        [*command, "--profile", "linux-3.4"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert wrong.returncode == 1
    assert len(list((tmp_path / "out").iterdir())) == PROGRAMS
