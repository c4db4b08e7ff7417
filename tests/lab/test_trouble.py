"""What a user meets whose disk is full, whose kernel does not boot, whose files are damaged: one line, nothing left."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from guestclock.errors import UserError
from guestclock.lab import Lab, LabError, emulator, image, overlay, snapshots
from guestclock.lab.setup import Image, find_image, setup
from guestclock.lab.snapshots import find_or_make
from guestclock.lab.tools import cache_dir, no_room
from tests.lab.test_snapshots import Place

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many bytes. Only root may."""
    mounted: list[Path] = []

    def mount(size: int) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    if os.geteuid() != 0:
        pytest.skip("a file system of a given size can be mounted by root only")
    yield mount
    for place in mounted:
        subprocess.run(["umount", place], check=True)


def left_behind(cache: Path) -> list[Path]:
    return list(cache.rglob("partial-*"))


FULL = r"^lab: \S+: No space left on device: make room, or name another place by \$GUESTCLOCK_LAB_CACHE$"


# ---- a full disk


def test_a_disk_too_small_for_a_snapshot_is_told(disk, monkeypatch):
    monkeypatch.setattr(snapshots, "_checked", set())
    place = Place(disk(MIB // 2))  # the copy has 1 MiB
    monkeypatch.setattr("guestclock.lab.boot.cache_dir", lambda: place.cache)
    monkeypatch.setattr(Lab, "boot", lambda lab, machine: place.boot())
    with pytest.raises(UserError, match=FULL):
        Lab("6.99").run({"program": "p"})
    assert place.boots == 1
    assert place.kept == []


def test_a_disk_too_small_for_compiled_code_is_told(disk, monkeypatch):
    cache = disk(MIB // 4)
    (cache / "image").mkdir()
    monkeypatch.setattr(Image, "compiler", None)
    chosen = Image(cache / "image", image.RECIPE, "linux-image-6.99", "00")
    with pytest.raises(OSError, match="No space left on device") as raised:
        overlay.overlay(on=chosen, cache=cache)
    assert str(no_room(raised.value, cache)).startswith(f"lab: {cache}: No space left")
    assert not left_behind(cache)


FAKE_TOOLS = {
    "apt-cache": 'case "$*" in *pkgnames*) echo linux-image-6.99.1+deb12-cloud-amd64;; *) echo "Package: x";; esac',
    "apt-get": 'for name; do :; done; head -c 3000000 /dev/zero > "${name}_1_amd64.deb"',
    "dpkg": "echo amd64",
    "dpkg-deb": 'mkdir -p "$3/usr/bin"; head -c 3000000 /dev/zero > "$3/usr/bin/tool"',
    "qemu-system-x86_64": "echo 'fake 1.0'",
}


@pytest.mark.parametrize("size", [MIB, 4 * MIB])
def test_a_disk_too_small_for_a_package_or_what_is_in_it_is_told(disk, monkeypatch, tmp_path, size):
    cache, tools = disk(size), tmp_path / "tools"
    tools.mkdir()
    for name, script in FAKE_TOOLS.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    with pytest.raises(UserError, match=FULL):
        setup(["6.99"], cache=cache / "lab", progress=lambda line: None)
    assert not left_behind(cache)
    assert find_image("6.99", cache=cache / "lab") is None


def test_a_damaged_package_is_told_and_not_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    scripts = FAKE_TOOLS | {"dpkg-deb": 'echo "dpkg-deb: error: not a Debian archive" >&2; exit 2'}
    for name, script in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(UserError) as raised:
        setup(["6.99"], cache=tmp_path / "lab", progress=lambda line: None)
    name = "linux-image-6.99.1+deb12-cloud-amd64_1_amd64.deb"
    assert str(raised.value) == f"lab: {name}: damaged: dpkg-deb: error: not a Debian archive"
    assert list((tmp_path / "lab" / "debs").iterdir()) == []


# ---- files that are not what was put there


def an_image(cache: Path, kernel: bytes, base: bytes = b"base") -> Image:
    place = cache / "images" / "6.99"
    place.mkdir(parents=True)
    (place / "vmlinuz").write_bytes(kernel)
    (place / "base.cpio").write_bytes(base)
    sums = (hashlib.sha256(content).hexdigest() for content in (base, kernel))
    made = Image(place, image.RECIPE, "linux-image-6.99", next(sums), "x86", next(sums))
    facts = asdict(made)
    del facts["directory"]
    (place / "manifest.json").write_text(json.dumps(facts))
    return made


@pytest.mark.parametrize("name", ["vmlinuz", "base.cpio"])
def test_a_damaged_image_is_seen_and_made_again_by_setup(tmp_path, monkeypatch, name):
    made = an_image(tmp_path, b"kernel")
    monkeypatch.setattr(emulator, "find", lambda cache, arch: ["qemu"])
    told: list[str] = []
    setup(["6.99"], cache=tmp_path, progress=told.append)
    assert told == ["lab 6.99: ready (linux-image-6.99)"]
    (made.directory / name).write_bytes(b"other")
    assert made.damage() == made.directory / name
    monkeypatch.setattr("guestclock.lab.setup._make", lambda *_: made)
    setup(["6.99"], cache=tmp_path, progress=told.append)
    assert told[1] == f"lab 6.99: {made.directory / name}: damaged, is made again"
    (made.directory / name).unlink()
    assert made.damage() == made.directory / name


# ---- kernels that do not boot (QEMU is needed, a kernel is not)


def kernel_that(code: bytes) -> bytes:
    """A bzImage whose setup, entered in real mode at its second sector, is these few bytes."""
    setup_sectors = 4
    image = bytearray(512 * (1 + setup_sectors + 4))
    image[0x1F1] = setup_sectors
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x200:0x202] = b"\xeb\x7e"  # jmp 0x280
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = b"\x03\x02"  # protocol 2.03
    image[0x211] = 1  # the rest of it is loaded high
    image[0x22C:0x230] = b"\xff\xff\xff\x37"  # how high an initrd may be
    image[0x280 : 0x280 + len(code)] = code
    return bytes(image)


HANGS = bytes.fromhex("ebfe")  # jmp to itself
DIES = bytes.fromhex("2e0f011ec000cc")  # lidt cs:[0xc0], an empty table; int3


@pytest.fixture
def real_qemu(tmp_path, monkeypatch) -> Path:
    if emulator.find() is None:
        pytest.skip("there is no QEMU here")
    if shutil.which(emulator.X86.qemu) is None:
        (tmp_path / "qemu").symlink_to(cache_dir() / "qemu")
    monkeypatch.setenv("GUESTCLOCK_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(Image, "compiler", None)
    return tmp_path


@pytest.mark.lab
@pytest.mark.parametrize(
    ("code", "told"), [(HANGS, "lab: still running after 3 s"), (DIES, "lab: the machine powered off: ")]
)
def test_a_kernel_that_does_not_boot_is_told_and_leaves_nothing(real_qemu, monkeypatch, code, told):
    monkeypatch.setattr(snapshots, "BOOT_TIMEOUT_S", 3)
    an_image(real_qemu, kernel_that(code))
    with pytest.raises(LabError) as raised:
        Lab("6.99").run({"program": "probe"})
    assert str(raised.value).startswith(told)
    assert list((real_qemu / "snapshots").iterdir()) == []


@pytest.mark.lab
def test_a_program_that_hangs_is_ended(monkeypatch):
    setup(["6.12"])
    sleep = {"actor": "vmm", "do": "wait", "say": "wait", "value": [["ns", 10**9]]}
    program = {"program": "steps", "vcpus": 1, "boot": False, "look": False, "steps": [sleep] * 100_000}
    lab = Lab("6.12")
    boot = lab.boot()
    with find_or_make(boot, cache_dir(), print):
        before = qemus()
        with pytest.raises(LabError, match="still running after 2 s"):
            lab.run(program, timeout_s=2)
    assert qemus() == before


def qemus() -> set[str]:
    """Children of this very process that are QEMU."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.partition(":\t")[::2] for line in status.read_text().splitlines())
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(lines["PPid"]) == os.getpid() and lines["Name"].startswith(("qemu", "ld-linux")):
            found.add(lines["Pid"])
    return found


@pytest.mark.lab
def test_a_lab_s_qemu_ends_when_we_are_killed():
    setup(["6.12"])
    code = (
        "from guestclock.lab import Lab\n"
        "sleep = {'actor': 'vmm', 'do': 'wait', 'say': 'wait', 'value': [['ns', 10**9]]}\n"
        "steps = {'program': 'steps', 'vcpus': 1, 'boot': False, 'look': False, 'steps': [sleep] * 100_000}\n"
        "lab = Lab('6.12')\n"
        "lab.run({'program': 'probe'})\n"
        "print('begins', flush=True)\n"
        "lab.run(steps)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as ours:
        assert ours.stdout is not None
        assert ours.stdout.readline() == "begins\n"
        child = wait_for(lambda: children(ours.pid))
        ours.kill()
        ours.wait()
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in child))


def children(pid: int) -> list[str]:
    found = [Path(path).read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [child for task in found for child in task]


def wait_for(what: Callable[[], object]) -> object:
    deadline = time.monotonic() + 30
    while not (answer := what()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return answer
