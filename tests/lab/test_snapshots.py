"""Snapshots and forks, with a small program in QEMU's place."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from guestclock.errors import UserError
from guestclock.lab import LabError, fork, snapshots
from guestclock.lab.process import Memory, write_whole
from guestclock.lab.qemu import X86Machine
from guestclock.lab.setup import Image
from guestclock.lab.snapshots import Boot, copy_ram, counted_from_0, find_or_make, ram_checksum
from guestclock.lab.tools import remove

FAKE = (sys.executable, str(Path(__file__).parent / "fake_qemu.py"))
MACHINE = X86Machine(smp=1, tsc_khz=None, memory_mib=16, deterministic=True, extra_cmdline="")


class Place:
    """A cache, and an image in it."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        directory = cache / "images" / "6.99"
        directory.mkdir(parents=True)
        (directory / "vmlinuz").write_bytes(b"kernel one")
        (directory / "base.cpio").write_bytes(b"base")
        self.image = Image(directory, 1, "linux-image-6.99", hashlib.sha256(b"base").hexdigest())
        self.told: list[str] = []

    def boot(self, machine: X86Machine = MACHINE, archives: bytes = b"code") -> Boot:
        return Boot(FAKE, machine, self.image, archives)

    def ran(self, program: str = "p", boot: Boot | None = None) -> dict:
        boot = boot or self.boot()
        with find_or_make(boot, self.cache, self.told.append) as snapshot:
            ((answer,), _) = fork.run(boot, snapshot, {"program": program}, timeout_s=30)
        return answer

    @property
    def boots(self) -> int:
        return len((self.image.directory / "boots").read_text())

    @property
    def kept(self) -> list[str]:
        return sorted(path.name for path in (self.cache / "snapshots").iterdir())


@pytest.fixture
def place(tmp_path, monkeypatch) -> Place:
    monkeypatch.setattr(snapshots, "_checked", set())
    return Place(tmp_path)


def test_a_machine_boots_once_and_every_program_meets_it_as_it_was(place):
    for program in ("one", "two", "three"):
        assert place.ran(program) == {"booted": "kernel one", "asked": {"program": program}}
    assert place.boots == 1
    assert len(place.told) == 1


def test_whatever_took_part_in_the_boot_tells_snapshots_apart(place):
    boots = [place.boot(), place.boot(archives=b"other code")]
    boots.append(place.boot(X86Machine(smp=1, tsc_khz=None, memory_mib=17, deterministic=True, extra_cmdline="")))
    boots.append(place.boot(X86Machine(smp=1, tsc_khz=5, memory_mib=16, deterministic=True, extra_cmdline="")))
    boots.append(Boot((*FAKE, "of another version"), MACHINE, place.image, b"code"))
    keys = [boot.key() for boot in boots]
    place.image.kernel.write_bytes(b"kernel two")
    os.utime(place.image.kernel, (1, 1))
    keys.append(boots[0].key())
    assert len(set(keys)) == 6
    assert place.boot().key() == keys[-1]


def test_two_that_need_one_take_turns_and_one_boots(place):
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(place.ran, "abcd"))
    assert [answer["asked"]["program"] for answer in answers] == list("abcd")
    assert place.boots == 1


def test_one_that_is_removed_while_it_is_used_stays_usable(place):
    boot = place.boot()
    with find_or_make(boot, place.cache, print) as snapshot:
        remove(snapshot.directory)
        assert place.kept == []
        ((answer,), _) = fork.run(boot, snapshot, {}, timeout_s=30)
    assert answer["booted"] == "kernel one"


@pytest.mark.parametrize("name", ["ram", "state", "manifest.json", "console.txt"])
@pytest.mark.parametrize("how", ["gone", "shorter", "changed"])
def test_a_damaged_one_is_told_and_made_again(place, name, how, monkeypatch):
    place.ran()
    (kept,) = place.kept
    file = place.cache / "snapshots" / kept / name
    content = file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "shorter":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    monkeypatch.setattr(snapshots, "_checked", set())
    assert place.ran()["booted"] == "kernel one"
    harmless = name == "console.txt" and how != "gone"  # it is only shown
    assert place.boots == (1 if harmless else 2)
    assert any(f"damaged ({name}: " in line for line in place.told) != harmless
    assert len(place.kept) == 1


def test_a_damaged_image_is_told(place):
    place.image.base.write_bytes(b"bass")
    with pytest.raises(UserError, match=r"^lab: \S*/base\.cpio: damaged: run 'guestclock lab setup', .* again$"):
        place.ran()
    assert not (place.image.directory / "boots").exists()


def test_a_kernel_that_hangs_or_dies_is_told_and_leaves_nothing(place, monkeypatch):
    monkeypatch.setattr(snapshots, "BOOT_TIMEOUT_S", 3)
    for mood, message in (("hang", "still running after 3 s"), ("die", "the machine powered off")):
        monkeypatch.setenv("FAKE_QEMU", mood)
        with pytest.raises(LabError, match=rf"(?s){message}.*\| booting"):
            place.ran()
        assert place.kept == []


def test_a_program_that_takes_too_long_is_ended(place, monkeypatch):
    boot = place.boot()
    with find_or_make(boot, place.cache, print) as snapshot:
        monkeypatch.setenv("FAKE_QEMU", "late")
        with pytest.raises(LabError, match="still running after 1 s"):
            fork.run(boot, snapshot, {}, timeout_s=1)


def test_what_was_left_behind_by_one_that_was_killed_is_removed(place):
    left = place.cache / "snapshots" / "partial-left"
    left.mkdir(parents=True)
    (left / "ram").write_bytes(b"half")
    place.ran()
    assert len(place.kept) == 1
    assert not left.exists()


def test_the_latest_used_are_kept_within_bounds(place, monkeypatch):
    for age, name in enumerate("abcd"):
        directory = place.cache / "snapshots" / name
        directory.mkdir(parents=True)
        (directory / "ram").write_bytes(bytes(1 << 20))
        os.utime(directory, (1000 - age, 1000 - age))
    snapshots._prune(place.cache / "snapshots", 5 << 19)
    assert place.kept == ["a", "b"]


def test_a_program_that_is_too_long_is_refused(place):
    with pytest.raises(UserError, match="the program is too long"):
        place.ran("x" * (9 << 20))


# ---- results


def test_results_are_json_lines():
    assert fork.parse_results('{"a": 1}\n{"b": 2}') == [{"a": 1}, {"b": 2}]
    assert fork.parse_results("") == []


def failed(kind: str, message: str) -> str:
    line = {"guestclock_lab": "error", "kind": kind, "message": message, "traceback": f"Traceback\n{kind}: {message}"}
    return json.dumps(line)


def test_a_program_that_failed_is_told():
    with pytest.raises(UserError, match=r"^no such step$"):
        fork.parse_results('{"a": 1}\n' + failed("UserError", "no such step"))
    with pytest.raises(LabError) as raised:
        fork.parse_results('{"a": 1}\n' + failed("KeyError", "'x'"))
    assert str(raised.value).splitlines()[0] == "lab: the program inside failed: KeyError: 'x'"
    assert "| Traceback" in str(raised.value)


# ---- copies


def test_a_copy_has_holes_where_nothing_is_and_the_same_checksum(tmp_path):
    size = 8 << 20
    with Memory("ram", size=size) as memory:
        write_whole(memory.fd, b"begin", 4096 * 3)
        write_whole(memory.fd, b"end", size - 3)
        write_whole(memory.fd, bytes(1 << 20), 2 << 20)  # zeros that are there
        checksum = copy_ram(memory.fd, tmp_path / "ram")
        whole = memory.read(size)
    assert (tmp_path / "ram").read_bytes() == whole
    assert (tmp_path / "ram").stat().st_blocks * 512 <= 2 * snapshots.CHUNK
    (tmp_path / "filled").write_bytes(whole)
    for name in ("ram", "filled"):
        with (tmp_path / name).open("rb") as file:
            assert ram_checksum(file.fileno()) == checksum
    changed = whole[:-1] + b"D"
    less = whole.replace(b"begin", bytes(5))
    moved = bytes(snapshots.CHUNK) + whole[: snapshots.CHUNK] + whole[2 * snapshots.CHUNK :]
    for other in (changed, less, moved):
        (tmp_path / "other").write_bytes(other)
        with (tmp_path / "other").open("rb") as file:
            assert ram_checksum(file.fileno()) != checksum


def test_instructions_counted_become_time_skipped():
    def stream(skipped_ns: int, instructions: int, version: int = 1) -> bytes:
        return b"before\x05\x0ctimer/icount" + struct.pack(">Iqq", version, skipped_ns, instructions) + b"\x7eafter"

    assert counted_from_0(stream(5, 3_000_000_000)) == stream(3_000_000_005, 0)
    assert counted_from_0(b"without virtual time") == b"without virtual time"
    for odd in (stream(5, 6, version=2), stream(5, 6) + stream(5, 6)):
        with pytest.raises(LabError, match="virtual time in a way that is not known"):
            counted_from_0(odd)


def test_one_that_another_process_removes_as_it_is_opened_is_used_all_the_same(place, monkeypatch):
    first = place.ran()
    touched = os.utime

    def removed_first(path: Path) -> None:
        remove(path)
        touched(path)

    monkeypatch.setattr(snapshots.os, "utime", removed_first)
    assert place.ran() == first
    assert (place.boots, place.kept) == (1, [])
