"""What others read: the C file compiles, the trace has the form that viewers open, the mail keeps to 72 columns."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from guestclock.report.exports import writer
from tests.report.violations import CASES, retold, violation

STUB = Path(__file__).parent / "selftest_stub"


def exported(name: str, to: str) -> str:
    file = violation(name)
    return writer(to)(file, retold(file), f"{name}.json")


@pytest.mark.parametrize("name", CASES)
def test_the_selftest_compiles(name: str, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "test.c").write_text(exported(name, "selftest-c"))
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    command = [compiler, "-std=gnu11", *warnings, "-fsyntax-only", "-I", str(STUB), str(tmp_path / "test.c")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_compiler_would_see_a_call_that_there_is_not(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (tmp_path / "test.c").write_text(exported("by-value", "selftest-c").replace("vcpu_set_msr(", "vcpu_set_msrs("))
    command = [compiler, "-std=gnu11", "-Wall", "-Werror", "-fsyntax-only", "-I", str(STUB), str(tmp_path / "test.c")]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_the_selftest_makes_the_calls_in_order_and_asserts() -> None:
    text = exported("by-value", "selftest-c")
    calls = re.findall(r"vcpu_set_msr\(vcpus\[0\]\[(\d)\], (\w+),|(wait_until)\(\d+ull\)|(KVM_SET_CLOCK), &clock", text)
    assert [call for call in calls if call[1]] == [("0", "MSR_IA32_TSC", "", ""), ("1", "MSR_IA32_TSC", "", "")]
    assert calls[-1][3] == "KVM_SET_CLOCK"
    assert "TEST_ASSERT(tsc_offset(" in text


def test_the_selftest_waits_as_long_as_the_run_did() -> None:
    text = exported("pause", "selftest-c")
    assert [int(ns) for ns in re.findall(r"wait_until\((\d+)ull\)", text)]


@pytest.mark.parametrize("name", CASES)
def test_the_trace_is_what_viewers_open(name: str) -> None:
    trace = json.loads(exported(name, "perfetto"))
    events = trace["traceEvents"]
    assert {event["ph"] for event in events} >= {"M", "X", "i", "C"}
    for event in events:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        assert isinstance(event["ts"], int | float)
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] > 0
        if event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values())
    assert any("true time" in event["name"] for event in events if event["ph"] == "C")


@pytest.mark.parametrize("name", CASES)
def test_the_mail_keeps_to_72_columns_of_ascii(name: str) -> None:
    text = exported(name, "mail")
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 72
    assert text.startswith("Subject: ")
    assert f"guestclock replay {name}.json" in text
