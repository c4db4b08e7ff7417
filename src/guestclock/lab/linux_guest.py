"""A lab whose kernel runs Debian's QEMU on its KVM, and in it a Linux guest: a VMM and a guest that are not ours.

The lab is the usual one, with more memory and one archive more: QEMU with its libraries and firmware, the guest's
kernel, and its initial file system, which is one small program (`guest_init`). QEMU is Debian's package as it lies in
the lab's cache, also where another one on PATH emulates the lab. Inside, `inside_guest` drives it.
"""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guestclock.errors import UserError
from guestclock.lab import emulator, guest_init, newc
from guestclock.lab.boot import Lab, ready
from guestclock.lab.imports import closure
from guestclock.lab.inside_guest import DISK, TOLD
from guestclock.lab.overlay import CODE, EMPTY, PACKAGE
from guestclock.lab.setup import check_name
from guestclock.lab.tools import LabError, Stuck

CLOCKSOURCES = ("kvm-clock", "tsc")
"""What the guest can keep time by."""

MEMORY_MIB = 768
GUEST_MIB = 96
"""Enough for either of Debian's cloud kernels; all of it is saved, which takes its time."""

DIRECTORY = "guest"
FIRMWARE = ("usr/share/seabios/bios-256k.bin", "usr/share/qemu/linuxboot_dma.bin", "usr/share/qemu/kvmvapic.bin")
"""What a PC with KVM that boots a kernel directly needs of QEMU's data."""

RECORDS = 10
TIMEOUT_S = 1800.0
CPU_S, ATTEMPTS = 60, 3
"""Some nested guests hang for good, in virtual time always the same ones; it is seen by the CPU time they use (20 s are
usual), and another one is begun a little later.
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a guest. host: release, tsc_khz and clocksource of the lab's kernel. trace: lines of its trace.

    clocksource, tsc_khz: the guest's, by its own log. records: in the order in which they were told.
    """

    host: dict[str, Any]
    trace: list[str]
    clocksource: str
    tsc_khz: int
    records: list[guest_init.Record]

    @classmethod
    def of(cls, lines: Iterable[Mapping[str, Any]]) -> Ran:
        """From what was emitted inside. Raises LabError where the guest's kernel does not say what it keeps time by."""
        said: dict[str, Any] = {}
        for line in lines:
            said |= line
        clocksource, tsc_khz = by_its_log(said["console"])
        records = list(guest_init.records(bytes.fromhex(said["told"])))
        return cls(said["host"], said["trace"], clocksource, tsc_khz, records)


def run(
    kernel: str,
    guest_kernel: str,
    clocksource: str,
    *,
    away_ns: int,
    sleeps: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> Ran:
    """Boots a guest in a lab and has QEMU stop, save and load it, or the lab sleep (see `inside_guest`); half a minute,
    with a boot more at the first time.

    kernel, guest_kernel: as `guestclock lab setup` made them. Raises UserError where something is not set up, LabError
    where something of it did not do its work.
    """
    ran = Ran.of(emitted(kernel, guest_kernel, clocksource, away_ns=away_ns, sleeps=sleeps, progress=progress))
    if ran.clocksource != clocksource:
        raise LabError(f"lab: the guest was told to keep time by {clocksource} and keeps it by {ran.clocksource}")
    return ran


def emitted(
    kernel: str,
    guest_kernel: str,
    clocksource: str,
    *,
    away_ns: int,
    sleeps: bool = False,
    progress: Callable[[str], None],
) -> list[dict[str, Any]]:
    """As `run`, but what was emitted inside as it is."""
    if clocksource not in CLOCKSOURCES:
        raise UserError(f"clocksource {clocksource!r}: expected {' or '.join(CLOCKSOURCES)}")
    check_name(kernel)
    check_name(guest_kernel)
    qemu = emulator.find_fetched()
    if qemu is None:
        raise UserError(
            "lab: there is no QEMU to run inside: run 'guestclock lab setup --linux-guest', which fetches Debian's"
        )
    image, _ = ready(guest_kernel)
    ready(kernel)
    lab = Lab(
        kernel, memory_mib=MEMORY_MIB, more=archive(qemu, image.kernel.read_bytes()), cpu_s=CPU_S, progress=progress
    )
    progress(f"lab:{kernel}: QEMU runs Linux {guest_kernel} on {clocksource}")
    program = {
        "program": "linux-guest",
        "command": command(qemu, clocksource),
        "disk": empty_disk().hex(),
        "records": RECORDS,
        "away_ns": away_ns,
        "sleeps": sleeps,
        "timeout_s": TIMEOUT_S,
    }
    for attempt in range(ATTEMPTS - 1):
        try:
            return lab.run({**program, "attempt": attempt}, timeout_s=TIMEOUT_S)
        except Stuck:
            progress(f"lab:{kernel}: the guest on {clocksource} hangs, as some do in this emulation: another one")
    return lab.run({**program, "attempt": ATTEMPTS - 1}, timeout_s=TIMEOUT_S)


def archive(qemu: emulator.Fetched, kernel: bytes) -> bytes:
    """What the lab finds besides its usual files."""
    entries = [newc.executable(f"{DIRECTORY}/{path.name}", path.read_bytes()) for path in _programs(qemu)]
    entries += [newc.executable(f"{DIRECTORY}/lib/{path.name}", path.read_bytes()) for path in _libraries(qemu)]
    entries += [newc.Entry(f"{DIRECTORY}/{Path(n).name}", (qemu.directory / n).read_bytes()) for n in FIRMWARE]
    entries += [newc.Entry(f"{DIRECTORY}/vmlinuz", kernel), newc.Entry(f"{DIRECTORY}/initrd", initial_files())]
    for path in closure(PACKAGE, ["lab/inside_guest.py"], empty=EMPTY):
        data = b"" if str(path) in EMPTY else (PACKAGE / path).read_bytes()
        entries.append(newc.Entry(f"{CODE}/{path}", data))
    return newc.archive(entries)


def initial_files() -> bytes:
    """All that the guest finds besides its kernel."""
    return newc.archive(
        [
            newc.executable("init", guest_init.program()),
            newc.character_device("dev/console", 5, 1),
            newc.character_device(guest_init.DEVICE, *guest_init.DEVICE_NUMBERS),
        ]
    )


def command(qemu: emulator.Fetched, clocksource: str) -> list[str]:
    """How QEMU is started inside, but for its monitor and the guest's first serial port."""
    loader, program = (f"/{DIRECTORY}/{path.name}" for path in _programs(qemu))
    words = f"console=ttyS0 panic=-1 nokaslr norandmaps nowatchdog tsc=reliable clocksource={clocksource}"
    return [
        loader, "--library-path", f"/{DIRECTORY}/lib", program, "-L", f"/{DIRECTORY}",
        "-nodefaults", "-no-user-config", "-machine", "pc,accel=kvm", "-cpu", "host", "-m", str(GUEST_MIB),
        "-display", "none", "-no-reboot",
        "-kernel", f"/{DIRECTORY}/vmlinuz", "-initrd", f"/{DIRECTORY}/initrd", "-append", words,
        "-chardev", f"file,id=told,path={TOLD}", "-device", "isa-serial,index=1,chardev=told",
        "-drive", f"file={DISK},format=qcow2,if=none,id=disk",
    ]  # fmt: skip


def empty_disk() -> bytes:
    """A qcow2 image (version 2) with room for 1 MiB, of which nothing is used: snapshots go beside it.

    Clusters of 64 KiB: header, table of reference counts, one block of those, table of the disk's clusters.
    Source: docs/interop/qcow2.txt of QEMU's.
    """
    cluster = 1 << 16
    magic, version, bits, size, tables = b"QFI\xfb", 2, 16, 1 << 20, 1
    header = struct.pack(">4sIQIIQIIQQIIQ", magic, version, 0, 0, bits, size, 0, tables, 3 * cluster, cluster, 1, 0, 0)
    counts = struct.pack(">4H", 1, 1, 1, 1)
    clusters = (header, struct.pack(">Q", 2 * cluster), counts, b"")
    return b"".join(content.ljust(cluster, b"\0") for content in clusters)


def by_its_log(console: str) -> tuple[str, int]:
    """(Clocksource, TSC rate in kHz) that a guest's kernel came to use. Raises LabError where it does not say."""
    switched = re.findall(r"clocksource: Switched to clocksource (\S+)", console)
    detected = re.findall(r"tsc: (?:Detected|Refined TSC clocksource calibration:) (\d+)\.(\d{3}) MHz", console)
    if not switched or not detected:
        raise LabError("lab: the guest's kernel does not say what it keeps time by, or how fast its TSC is")
    mhz, khz = detected[-1]
    return switched[-1], int(mhz) * 1000 + int(khz)


def _programs(qemu: emulator.Fetched) -> tuple[Path, Path]:
    """Its dynamic loader, and itself."""
    place = qemu.directory / "usr" / "bin"
    return place / emulator.LOADER, place / qemu.arch.qemu


def _libraries(qemu: emulator.Fetched) -> list[Path]:
    """The shared libraries that it is linked with, by what its loader says."""
    loader, option, path, program = qemu.command()[:4]
    done = subprocess.run([loader, option, path, "--list", program], capture_output=True, text=True, check=False)
    found = re.findall(r"=> (/\S+)", done.stdout)
    if done.returncode != 0 or not found:
        raise LabError(f"lab: {program}: its libraries are not known: {done.stderr.strip()}")
    return [Path(name) for name in found if Path(name).name != emulator.LOADER]
