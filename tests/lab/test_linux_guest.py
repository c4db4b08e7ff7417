"""What a lab with a Linux guest is made of. The guest itself is in tests/judges."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from guestclock.abi import ioctl
from guestclock.errors import UserError
from guestclock.lab import LabError, linux_guest, newc
from guestclock.lab.inside_guest import CALLS
from guestclock.lab.linux_guest import by_its_log, empty_disk, initial_files, run
from guestclock.lab.tools import Stuck

LOG = """\
[    0.000000] tsc: Detected 2596.122 MHz processor
[    0.101010] clocksource: Switched to clocksource kvm-clock
"""


def test_the_guest_s_log_says_what_it_keeps_time_by():
    assert by_its_log(LOG) == ("kvm-clock", 2_596_122)
    refined = "[    2.0] tsc: Refined TSC clocksource calibration: 2595.001 MHz\n"
    assert by_its_log(f"{LOG}{refined}[    3.0] clocksource: Switched to clocksource tsc\n") == ("tsc", 2_595_001)


@pytest.mark.parametrize("log", ["", LOG.partition("\n")[0], LOG.partition("\n")[2]])
def test_a_guest_that_does_not_say_so_is_no_guest(log):
    with pytest.raises(LabError, match="does not say what it keeps time by"):
        by_its_log(log)


def test_the_disk_is_an_empty_qcow2():
    disk, cluster = empty_disk(), 1 << 16
    magic, version, _, _, bits, size, _, tables, table, counts, _, snapshots, _ = struct.unpack_from(
        ">4sIQIIQIIQQIIQ", disk
    )
    assert (magic, version, 1 << bits, size, tables, snapshots) == (b"QFI\xfb", 2, cluster, 1 << 20, 1, 0)
    assert len(disk) == 4 * cluster
    assert struct.unpack_from(">Q", disk, table) == (0,)  # nothing of the disk is there
    (block,) = struct.unpack_from(">Q", disk, counts)
    assert struct.unpack_from(">5H", disk, block) == (1, 1, 1, 1, 0)


def test_the_guest_s_files_are_a_program_and_two_devices():
    entries = {entry.path: entry for entry in newc.read(initial_files())}
    assert set(entries) == {"init", "dev", "dev/console", "dev/ttyS1"}
    assert entries["dev/ttyS1"].device == (4, 65)
    assert entries["init"].mode & 0o111


def test_calls_are_known_by_the_kernel_s_numbers():
    assert all(getattr(ioctl, name) == number for number, name in CALLS.items())


def test_without_a_qemu_in_the_cache_one_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("GUESTCLOCK_LAB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"there is no QEMU to run inside: run 'guestclock lab setup --linux-guest'"):
        run("6.12", "6.12", "kvm-clock", away_ns=10**9)


def test_a_clocksource_that_it_cannot_be_told_is_bad_input():
    with pytest.raises(UserError, match="clocksource 'hpet': expected kvm-clock or tsc"):
        run("6.12", "6.12", "hpet", away_ns=10**9)


@pytest.mark.parametrize("hanging", [0, 1, 2, 3])
def test_a_guest_that_hangs_is_begun_again_but_not_for_ever(hanging, monkeypatch):
    attempts, told = [], []

    class SomeHang:
        def __init__(self, *_: object, **given: object) -> None:
            assert given["cpu_s"] == linux_guest.CPU_S

        def run(self, program: dict, **_: object) -> list[dict]:
            attempts.append(program["attempt"])
            if program["attempt"] < hanging:
                raise Stuck("lab: not done")
            return [{"attempt": program["attempt"]}]

    monkeypatch.setattr(linux_guest, "Lab", SomeHang)
    monkeypatch.setattr(linux_guest, "ready", lambda kernel: (SimpleNamespace(kernel=Path("/dev/null")), []))
    monkeypatch.setattr(linux_guest.emulator, "find_fetched", lambda: SimpleNamespace())
    monkeypatch.setattr(linux_guest, "archive", lambda *_: b"")
    monkeypatch.setattr(linux_guest, "command", lambda *_: [])

    def emitted() -> list[dict]:
        return linux_guest.emitted("6.12", "6.12", "tsc", away_ns=1, progress=told.append)

    if hanging < linux_guest.ATTEMPTS:
        assert emitted() == [{"attempt": hanging}]
        assert attempts == list(range(hanging + 1))
    else:
        with pytest.raises(Stuck):
            emitted()
        assert attempts == list(range(linux_guest.ATTEMPTS))
    assert sum("hangs" in line for line in told) == min(hanging, linux_guest.ATTEMPTS - 1)
