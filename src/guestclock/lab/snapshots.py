"""Machines stopped at one instruction, kept to be run on from there as often as one likes.

A machine boots once, loads KVM, waits for its clocksource, starts Python and imports what it may need; then it stops
itself (see `exchange`) and is copied into the cache: its memory as a sparse file, everything else as QEMU's migration
stream. To run a program is to start a QEMU whose memory is that file, mapped copy-on-write: 30 ms until the first
instruction, and every run begins with the very same bits, whoever made the copy and when.

A snapshot depends on everything that took part in the boot, and its name is a hash of all of it. It gets that name when
it is complete. What was not used for longest is removed when there are too many. About 100 MiB each.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache as memo
from pathlib import Path

from guestclock.errors import UserError
from guestclock.lab import exchange
from guestclock.lab.process import Memory, Process, read_whole
from guestclock.lab.qemu import ICOUNT_SHIFT, Machine
from guestclock.lab.setup import Image
from guestclock.lab.tools import PARTIAL, LabError, remove, workplace

FORMAT = 1
"""Counts changes of what a snapshot is and of how the inside meets it."""

_checked: set[Path] = set()
"""Snapshots that this process has found whole."""

KEPT_BYTES = 4 << 30
BOOT_TIMEOUT_S = 300.0
STOPPED = "GUEST_PANICKED"
"""QEMU's event for a machine that has stopped itself."""

ICOUNT = struct.Struct(">Iqq")
"""How QEMU saves virtual time: version, ns skipped, instructions executed."""

CHUNK = 1 << 16
RAM, STATE, CONSOLE, MANIFEST = "ram", "state", "console.txt", "manifest.json"

Progress = Callable[[str], None]


class Damaged(Exception):
    """A snapshot in the cache that is not what was put there."""


@dataclass(frozen=True)
class Boot:
    """Everything that a machine's state after boot depends on.

    start: how QEMU is started. archives: what the initial file system holds besides the image. device_tree: what
    describes the machine, where QEMU's own description will not do. rom: see `Machine`.
    """

    start: tuple[str, ...]
    machine: Machine
    image: Image
    archives: bytes
    device_tree: bytes = b""
    rom: bytes = b""

    def key(self) -> str:
        kernel = self.image.kernel.stat()
        parts = [
            FORMAT,
            version(self.start),
            self.machine.hardware(),
            self.machine.kernel_command_line(),
            (self.image.package, self.image.recipe, self.image.base_sha256, kernel.st_size, kernel.st_mtime_ns),
            hashlib.sha256(self.archives).hexdigest(),
            hashlib.sha256(self.device_tree).hexdigest(),
            hashlib.sha256(self.rom).hexdigest(),
        ]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a snapshot's manifest says. exchange_at: physical address. ram, state: checksums of the two files."""

    format: int
    about: str
    exchange_at: int
    ram_bytes: int
    ram: int
    state: int


class Snapshot:
    """A snapshot in the cache. It is kept open: it stays usable when it is removed. Use it as a context manager.

    ram: a descriptor. state: QEMU's stream. console: what the machine had written until then.
    """

    def __init__(self, directory: Path) -> None:
        """Raises Damaged where something is missing or cannot be read."""
        self.directory = directory
        with ExitStack() as opened:
            try:
                self.facts = Facts(**json.loads((directory / MANIFEST).read_text()))
                self.console = (directory / CONSOLE).read_text()
                self.ram = os.open(directory / RAM, os.O_RDWR | os.O_CLOEXEC)
                opened.callback(os.close, self.ram)
                self.state = (directory / STATE).read_bytes()
                os.utime(directory)  # the latest used are kept
            except FileNotFoundError as missing:
                raise Damaged(f"{Path(missing.filename).name}: missing") from None
            except (ValueError, TypeError):
                raise Damaged(f"{MANIFEST}: not what was written there") from None
            self._opened = opened.pop_all()

    def check(self) -> None:
        """Raises Damaged where a file is not what was written. Takes a tenth of a second."""
        if os.fstat(self.ram).st_size != self.facts.ram_bytes or ram_checksum(self.ram) != self.facts.ram:
            raise Damaged(f"{RAM}: not what was written there")
        if zlib.crc32(self.state) != self.facts.state:
            raise Damaged(f"{STATE}: not what was written there")

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def find_or_make(boot: Boot, cache: Path, progress: Progress) -> Snapshot:
    """The snapshot of a machine that boots so, checked; made where there is none, or a damaged one.

    Two processes that need the same one take turns. `LabError` where the machine does not come up, `UserError` where
    the image it boots is damaged, OSError where there is no room.
    """
    place = cache / "snapshots" / boot.key()
    found = _found(place, progress)
    if found is not None:
        return found
    with _turn(boot.image.kernel):
        found = _found(place, progress)  # someone else has made it meanwhile
        if found is None:
            progress(f"lab: {boot.image.package} boots once, to be copied")
            _make(boot, place)
            found = Snapshot(place)
    return found


def _found(place: Path, progress: Progress) -> Snapshot | None:
    if not place.is_dir():
        return None
    try:
        with ExitStack() as opened:
            snapshot = opened.enter_context(Snapshot(place))
            if place not in _checked:
                snapshot.check()
                _checked.add(place)
            opened.pop_all()
            return snapshot
    except Damaged as damage:
        if place.is_dir():  # else another process has just removed it
            progress(f"lab: {place}: damaged ({damage}), is made again")
            remove(place)
        return None


@contextmanager
def _turn(kernel: Path) -> Iterator[None]:
    """One at a time boots a kernel for a snapshot of it."""
    with kernel.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(boot: Boot, place: Path) -> None:
    damaged = boot.image.damage()
    if damaged is not None:
        raise UserError(f"lab: {damaged}: damaged: run 'guestclock lab setup', which makes it again")
    base = boot.image.base.read_bytes()
    place.parent.mkdir(parents=True, exist_ok=True)
    _prune(place.parent, KEPT_BYTES)
    ram_bytes = boot.machine.memory_mib << 20
    with (
        workplace(place.parent) as partial,
        Memory("ram", size=ram_bytes) as ram,
        Memory("exchange", size=exchange.SIZE) as shared,
        Memory("state") as state,
        Memory("initrd", base + boot.archives) as initrd,
        Memory("device-tree", boot.device_tree) as tree,
        Memory("rom", boot.rom) as rom,
    ):
        made = partial / "made"
        made.mkdir()
        arguments = [*boot.machine.hardware(), *devices(boot.machine, ram.path, shared.path, share=True)]
        arguments += boot.machine.boots(
            kernel=str(boot.image.kernel),
            initrd=initrd.path,
            device_tree=tree.path if boot.device_tree else None,
            rom=rom.path if boot.rom else None,
        )
        fds, on_one_cpu = (ram.fd, shared.fd, initrd.fd, tree.fd, rom.fd), boot.machine.deterministic
        with Process([*boot.start, *arguments], fds=fds, timeout_s=BOOT_TIMEOUT_S, on_one_cpu=on_one_cpu) as qemu:
            while qemu.event().name != STOPPED:
                pass
            save_state(qemu, state.fd)
            (made / CONSOLE).write_text(qemu.console())
        try:
            exchange_at = exchange.address(shared.read(exchange.HEADER.size))
        except ValueError as trouble:
            raise LabError(f"lab: {trouble}") from None
        stream = counted_from_0(read_whole(state.fd))
        (made / STATE).write_bytes(stream)
        checksum = copy_ram(ram.fd, made / RAM)
        facts = Facts(FORMAT, f"{boot.image.package}", exchange_at, ram_bytes, checksum, zlib.crc32(stream))
        (made / MANIFEST).write_text(json.dumps(asdict(facts), indent=2) + "\n")
        made.rename(place)


def devices(machine: Machine, ram: str, shared: str, *, share: bool) -> list[str]:
    """QEMU's words for a machine whose memory is a file, and for the inside's two devices.

    share: whether what is written there comes into the files.
    """
    on = "on" if share else "off"
    objects = [("ram", machine.memory_mib << 20, ram), ("exchange", exchange.SIZE, shared)]
    words = ["-machine", "memory-backend=ram"]
    for name, size, path in objects:
        words += ["-object", f"memory-backend-file,id={name},size={size},share={on},mem-path={path}"]
    words += ["-device", "ivshmem-plain,memdev=exchange,master=on", "-device", "pvpanic-pci"]
    return [*words, "-action", "panic=pause"]


def save_state(qemu: Process, fd: int) -> None:
    """Everything of a stopped machine but its shared memory, into a file."""
    _migrate(qemu, "migrate", fd)


def load_state(qemu: Process, fd: int) -> None:
    """The opposite, into a machine that was started with `-incoming defer`; the file is read from where it stands."""
    _migrate(qemu, "migrate-incoming", fd)


def _migrate(qemu: Process, command: str, fd: int) -> None:
    wanted = [{"capability": name, "state": True} for name in ("events", "x-ignore-shared")]
    qemu.command("migrate-set-capabilities", capabilities=wanted)
    qemu.command("getfd", fds=[fd], fdname="state")
    qemu.command(command, uri="fd:state")
    while True:
        event = qemu.event()
        if event.name == "MIGRATION" and event.data["status"] in ("completed", "failed"):
            break
    if event.data["status"] == "failed":
        why = qemu.command("query-migrate").get("error-desc", "no reason given")
        raise LabError(f"lab: QEMU's state was not copied: {why}")


def counted_from_0(stream: bytes) -> bytes:
    """A machine's state with the instructions executed so far counted as time that was skipped: the same virtual time.

    A recorded run takes its first step from 0 to the instructions executed, in 32 bits with a sign (7.2), and ends
    itself where that comes out negative. Without virtual time there is no such count, and nothing is changed.
    """
    name = b"\x05\x0ctimer/icount"  # the mark of a subsection, and a string with its length
    before, found, after = stream.partition(name)
    if not found:
        return stream
    version, skipped_ns, instructions = ICOUNT.unpack_from(after)
    if version != 1 or name in after:
        raise LabError("lab: this QEMU saves virtual time in a way that is not known here")
    counted = ICOUNT.pack(version, skipped_ns + (instructions << ICOUNT_SHIFT), 0)
    return before + found + counted + after[ICOUNT.size :]


def copy_ram(fd: int, to: Path) -> int:
    """A sparse copy of a machine's memory; its checksum."""
    size, checksum = os.fstat(fd).st_size, 0
    with to.open("wb") as file:
        file.truncate(size)
        for at, chunk in _chunks(fd):
            file.seek(at)
            file.write(chunk)
            checksum = _checksum(checksum, at, chunk)
    return checksum


def ram_checksum(fd: int) -> int:
    """Of what is not zero and where it is: the same whether a file has holes there or zeros."""
    checksum = 0
    for at, chunk in _chunks(fd):
        checksum = _checksum(checksum, at, chunk)
    return checksum


def _checksum(checksum: int, at: int, chunk: bytes) -> int:
    return zlib.crc32(chunk, zlib.crc32(at.to_bytes(8, "little"), checksum))


def _chunks(fd: int) -> Iterator[tuple[int, bytes]]:
    """Position and content of all that is not zero."""
    zeros, at = bytes(CHUNK), 0
    while True:
        try:
            data = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole is left
            return
        end = os.lseek(fd, data, os.SEEK_HOLE)
        at = max(at, data // CHUNK * CHUNK)
        while at < end:
            chunk = os.pread(fd, CHUNK, at)
            if chunk != zeros:
                yield at, chunk
            at += CHUNK


def _prune(directory: Path, keep_bytes: int) -> None:
    """Removes snapshots, those that were used last excepted. Other processes may do the same at the same time."""
    kept: list[tuple[float, int, Path]] = []
    for path in directory.iterdir():
        if not path.name.startswith(PARTIAL):
            with suppress(FileNotFoundError):
                size = sum(file.stat().st_blocks * 512 for file in path.iterdir())
                kept.append((path.stat().st_mtime, size, path))
    for _, size, path in sorted(kept, reverse=True):
        keep_bytes -= size
        if keep_bytes < 0:
            remove(path)


@memo
def version(start: tuple[str, ...]) -> str:
    """What QEMU says it is."""
    done = subprocess.run([*start, "--version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"lab: QEMU failed (status {done.returncode}): {done.stderr.strip()}")
    return done.stdout
