from __future__ import annotations

from pathlib import Path

import pytest

from guestclock.lab import exchange
from guestclock.lab.exchange import Exchange


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """Two PCI devices as sysfs shows them, and one that is neither."""
    for name, (vendor, device, resource), size in (
        ("0000:00:00.0", (0x8086, 0x1237, 0), 16),
        ("0000:00:02.0", exchange.MEMORY_DEVICE, exchange.SIZE),
        ("0000:00:03.0", exchange.STOP_DEVICE, 4096),
    ):
        place = tmp_path / name
        place.mkdir()
        (place / "vendor").write_text(f"{vendor:#06x}\n")
        (place / "device").write_text(f"{device:#06x}\n")
        (place / "enable").write_text("0\n")
        lines = [f"{0xFC00_0000 + i:#018x} {0xFDFF_FFFF:#018x} 0x0\n" for i in range(6)]
        (place / "resource").write_text("".join(lines))
        with (place / f"resource{resource}").open("wb") as file:
            file.truncate(size)
    return tmp_path


def memory(devices: Path) -> Path:
    return devices / "0000:00:02.0" / "resource2"


def test_a_program_goes_in_and_results_come_out(devices):
    inside = Exchange(str(devices))
    header = memory(devices).read_bytes()[: exchange.HEADER.size]
    assert exchange.address(header) == 0xFC00_0002
    assert exchange.results_length(header) is None
    with memory(devices).open("r+b") as file:
        file.write(exchange.with_program(b'{"program": "probe"}'))
    assert inside.program() == b'{"program": "probe"}'
    inside.put(b"one\ntwo")
    after = memory(devices).read_bytes()
    assert exchange.results_length(after) == 7
    assert after[exchange.RESULTS_AT :][:7] == b"one\ntwo"


def test_stopping_is_a_byte_to_the_other_device(devices):
    inside = Exchange(str(devices))
    stop = devices / "0000:00:03.0" / "resource0"
    assert stop.read_bytes()[0] == 0
    inside.stop()
    assert stop.read_bytes()[0] == 1
    assert (devices / "0000:00:03.0" / "enable").read_text() == "1"


def test_what_has_no_room_is_refused(devices):
    inside = Exchange(str(devices))
    with pytest.raises(ValueError, match=r"results of 25165825 bytes, there is room for 25165824"):
        inside.put(bytes(exchange.RESULTS_ROOM + 1))
    with pytest.raises(ValueError, match=r"8384513 bytes, there is room for 8384512"):
        exchange.with_program(bytes(exchange.PROGRAM_ROOM + 1))


def test_a_machine_without_the_devices_is_told(tmp_path):
    with pytest.raises(RuntimeError, match="no PCI device 1b36:0011"):
        Exchange(str(tmp_path))


def test_memory_that_nobody_wrote_is_no_program_s():
    with pytest.raises(ValueError, match="did not begin"):
        exchange.address(bytes(exchange.HEADER.size))
    assert exchange.results_length(bytes(exchange.HEADER.size)) is None
