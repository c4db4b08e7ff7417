"""The program of a Linux guest: what it tells is understood, and nothing else is."""

from __future__ import annotations

import platform
import struct
import subprocess
import time

import pytest

from guestclock.lab.guest_init import CLOCKS, DEVICE, MARK, RECORD_BYTES, program, records


def record(number: int, *, again: int | None = None) -> bytes:
    clocks = b"".join(struct.pack("<QQQQ", 100 * i, i, number, 100 * i + 50) for i in range(len(CLOCKS)))
    return MARK + struct.pack("<Q", number) + clocks + struct.pack("<Q", number if again is None else again)


def test_a_record_is_read_as_it_was_written():
    (read,) = records(record(7))
    assert read.number == 7
    assert list(read.readings) == list(CLOCKS)
    boottime = read.readings["BOOTTIME"]
    assert (boottime.before, boottime.value_ns, boottime.after) == (100, 1_000_000_007, 150)


def test_what_a_loaded_snapshot_cut_in_two_is_left_out():
    """The first part of the record that was under way when it was loaded, the second of the one when it was saved."""
    for cut in range(1, RECORD_BYTES):
        told = record(9) + record(10)[:cut] + record(5)[cut:] + record(6)
        whole = list(records(told))
        assert [whole[0].number, whole[-1].number] == [9, 6]
        for read in whole:  # a record tells its number in all that it tells: none is of two
            assert {reading.value_ns % 10**9 for reading in read.readings.values()} == {read.number}
        assert len(whole) == 2 + (cut <= len(MARK) or cut > RECORD_BYTES - 8)  # one was there whole all the same


def test_what_comes_after_a_record_does_not_spoil_it():
    told = b"end of an older one" + record(1) + record(2)[50:] + record(3)[:-1]
    assert [read.number for read in records(told)] == [1]


@pytest.mark.skipif((platform.system(), platform.machine()) != ("Linux", "x86_64"), reason="it is x86-64 Linux's code")
def test_the_program_reads_clocks_between_two_readings_of_the_tsc(tmp_path):
    """On this machine, into a file in the place of the serial port."""
    name = b"told.bytes"
    assert len(name) == len(DEVICE) + 1
    init, told = tmp_path / "init", tmp_path / name.decode()
    init.write_bytes(program().replace(f"/{DEVICE}".encode(), name))
    init.chmod(0o755)
    told.touch()
    process = subprocess.Popen([init], cwd=tmp_path)
    try:
        begun = time.monotonic()
        while told.stat().st_size < 5 * RECORD_BYTES and time.monotonic() < begun + 10:
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    read = list(records(told.read_bytes()))
    assert [one.number for one in read[:5]] == [1, 2, 3, 4, 5]
    now_ns = {name: time.clock_gettime_ns(number) for name, number in CLOCKS.items()}
    for name in CLOCKS:
        values = [one.readings[name].value_ns for one in read]
        assert values == sorted(set(values))
        assert 0 < now_ns[name] - values[-1] < 60 * 10**9
        assert all(one.readings[name].before < one.readings[name].after for one in read)
    for one in read:
        stamps = [stamp for reading in one.readings.values() for stamp in (reading.before, reading.after)]
        assert stamps == sorted(stamps)
