"""The process, with a small program in QEMU's place: it knows how to greet, and does what it is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from guestclock.lab import LabError, process
from guestclock.lab.process import Memory, Process
from guestclock.lab.tools import Stuck

FAKE = """
import json, os, socket, sys, time
words = sys.argv
monitor = socket.socket(fileno=int(next(w for w in words if "id=monitor" in w).rpartition("=")[2]))
console = open(next(w for w in words if "id=console" in w).rpartition("=")[2], "w")
def say(message): monitor.sendall(json.dumps(message).encode() + b"\\n")
def greet():
    say({"QMP": {}})
    monitor.recv(65536)
    say({"return": {}})
"""


def fake(tmp_path: Path, then: str) -> list[str]:
    place = tmp_path / "fake.py"
    place.write_text(FAKE + textwrap.dedent(then))
    return [sys.executable, str(place)]


def begun(command: list[str], timeout_s: float = 30) -> Process:
    return Process(command, fds=(), timeout_s=timeout_s)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_one_that_hangs_is_told_with_its_console_and_ended(tmp_path):
    command = fake(
        tmp_path, "greet(); print('booting', flush=True, file=console); say({'event': 'ON'}); time.sleep(60)"
    )
    with begun(command, 5) as qemu:
        assert qemu.event().name == "ON"
        with pytest.raises(LabError, match=r"still running after 5 s\n  \| booting"):
            qemu.event()
        pid = qemu.pid
    assert not alive(pid)


def test_one_that_uses_up_its_cpu_time_is_stuck(tmp_path):
    """However long that takes."""
    command = fake(tmp_path, """
        greet()
        print('booting', flush=True, file=console)
        while True: pass
    """)  # fmt: skip
    with Process(command, fds=(), timeout_s=120, cpu_s=1) as qemu:
        with pytest.raises(Stuck, match=r"not done after 1 s of CPU time\n  \| booting"):
            qemu.event()
        pid = qemu.pid
    assert not alive(pid)


def test_one_that_only_waits_uses_none(tmp_path):
    command = fake(tmp_path, "greet(); time.sleep(1.5); say({'event': 'ON'})")
    with Process(command, fds=(), timeout_s=30, cpu_s=1) as qemu:
        assert qemu.event().name == "ON"


def test_one_that_does_not_even_greet_is_ended(tmp_path):
    (tmp_path / "pid").touch()
    with pytest.raises(LabError, match="still running after 2 s"):
        begun(fake(tmp_path, f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(60)"), 2)
    assert not alive(int((tmp_path / "pid").read_text()))


def test_one_that_fails_is_quoted(tmp_path):
    command = fake(tmp_path, "greet(); print('no such thing', file=sys.stderr); sys.exit(3)")
    with begun(command) as qemu, pytest.raises(LabError, match=r"QEMU failed \(status 3\): no such thing"):
        qemu.event()


def test_one_that_powers_off_is_told_with_its_console(tmp_path):
    command = fake(tmp_path, "greet(); print('one\\n\\ntwo  ', file=console); sys.exit(0)")
    with begun(command) as qemu, pytest.raises(LabError, match=r"powered off: .*\n  \| one\n  \| two$"):
        qemu.event()


def test_one_that_closes_its_monitor_and_stays_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "GRACE_S", 0.2)
    command = fake(tmp_path, "greet(); monitor.close(); time.sleep(60)")
    with begun(command) as qemu, pytest.raises(LabError, match=r"QEMU failed \(status -9\)"):
        qemu.event()


def test_a_command_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LabError, match=r"nothing-here: No such file or directory"):
        begun([str(tmp_path / "nothing-here")])


def test_all_are_ended_at_once_from_another_thread(tmp_path):
    with begun(fake(tmp_path, "greet(); time.sleep(60)")) as qemu:
        process.end_all()
        with pytest.raises(LabError, match=r"QEMU failed \(status -9\)"):
            qemu.event()


def test_it_ends_when_we_are_killed(tmp_path):
    """Nobody is left who could end it."""
    ours = tmp_path / "ours.py"
    command = fake(tmp_path, "greet(); say({'event': 'ON'}); time.sleep(60)")
    ours.write_text(
        "import sys, time\n"
        "from guestclock.lab.process import Process\n"
        f"with Process({command!r}, fds=(), timeout_s=60) as qemu:\n"
        "    qemu.event()\n"
        "    print(qemu.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, ours], stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        pid = int(killed.stdout.readline())
        assert alive(pid)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(pid)


def test_no_descriptor_is_left_behind(tmp_path):
    before = sorted(os.listdir("/proc/self/fd"))
    with begun(fake(tmp_path, "greet(); time.sleep(60)")):
        assert sorted(os.listdir("/proc/self/fd")) != before
    with pytest.raises(LabError):
        begun([str(tmp_path / "nothing-here")])
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_memory_is_as_large_as_asked_and_begins_with_its_content():
    with Memory("m", b"abc", size=10) as memory:
        assert memory.read(10) == b"abc" + bytes(7)
        assert Path(memory.path).read_bytes() == b"abc" + bytes(7)
        assert memory.read(2, at=1) == b"bc"
