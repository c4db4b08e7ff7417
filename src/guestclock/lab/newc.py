"""The cpio format of an initramfs ("newc"), written so that the same files always give the same bytes.

A lab's virtual time depends on every byte of its initramfs (lab-x86.md section 5): entries are sorted, owners and times
are 0, inode numbers are positions. Archives may be concatenated; the kernel unpacks one after the other, the last wins.
Format: Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
HEADER_BYTES = 110


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, directory or device node of an archive."""

    path: str
    data: bytes = b""
    mode: int = stat.S_IFREG | 0o644
    device: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or self.path.startswith("/") or ".." in parts or str(PurePosixPath(self.path)) != self.path:
            raise ValueError(f"{self.path!r}: expected a relative path in its shortest form")


def directory(path: str) -> Entry:
    return Entry(path, mode=stat.S_IFDIR | 0o755)


def executable(path: str, data: bytes) -> Entry:
    return Entry(path, data, mode=stat.S_IFREG | 0o755)


def character_device(path: str, major: int, minor: int) -> Entry:
    return Entry(path, mode=stat.S_IFCHR | 0o600, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive of these entries and of every directory they need."""
    by_path: dict[str, Entry] = {}
    for entry in entries:
        if entry.path in by_path:
            raise ValueError(f"{entry.path!r}: twice in one archive")
        by_path[entry.path] = entry
    for path in list(by_path):
        for parent in PurePosixPath(path).parents:
            if str(parent) != ".":
                by_path.setdefault(str(parent), directory(str(parent)))
    out = bytearray()
    for inode, path in enumerate(sorted(by_path, key=lambda path: PurePosixPath(path).parts), start=1):
        _append(out, inode, by_path[path])
    _append(out, 0, Entry(TRAILER, mode=0))
    return bytes(out)


def read(data: bytes) -> Iterator[Entry]:
    """The entries of one or more concatenated archives, in order."""
    at = 0
    while at < len(data):
        if data[at : at + 1] == b"\0":  # padding between archives
            at += 1
            continue
        if data[at : at + len(MAGIC)] != MAGIC:
            raise ValueError(f"offset {at}: not a newc archive")
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, major, minor, name_size = fields[1], fields[6], fields[9], fields[10], fields[11]
        name = data[at + HEADER_BYTES : at + HEADER_BYTES + name_size - 1].decode()
        start = _aligned(at + HEADER_BYTES + name_size)
        at = _aligned(start + size)
        if name != TRAILER:
            yield Entry(name, data[start : start + size], mode, (major, minor))


def _append(out: bytearray, inode: int, entry: Entry) -> None:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    out += MAGIC + b"".join(b"%08x" % field for field in fields) + name
    out += bytes(_aligned(len(out)) - len(out))
    out += entry.data
    out += bytes(_aligned(len(out)) - len(out))


def _aligned(offset: int) -> int:
    return (offset + 3) & ~3
