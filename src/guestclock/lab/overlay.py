"""What a lab's kernel finds besides the base: /init and our own code. A second archive behind the first.

Only what imports with the standard library alone may go inside (there is nothing else); `INSIDE` says where to begin.
Its bytecode is kept in the cache by content, so that two boots get the very same bytes.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import guestclock
from guestclock.lab import image, newc
from guestclock.lab.arch import X86
from guestclock.lab.imports import closure
from guestclock.lab.setup import Image
from guestclock.lab.tools import PARTIAL, remove, workplace

PACKAGE = Path(guestclock.__file__).parent
INSIDE = (
    "lab/inside.py", "lab/inside_x86.py", "lab/inside_arm64.py", "lab/inside_clocks.py", "lab/inside_race.py",
    "kvm/device", "vmm", "inspect",
)  # fmt: skip
"""What may be asked for inside, where it exists. What these import of guestclock comes with them."""

EMPTY = ("lab/__init__.py",)
"""Files that are there inside, but empty: this one imports the host side."""

CODE = "lab/guestclock"
KEPT_COMPILATIONS = 8


def overlay(*, on: Image, cache: Path) -> bytes:
    """The archive. The same code gives the same bytes."""
    entries = [newc.executable("init", (PACKAGE / "lab" / "init.sh").read_bytes())]
    if on.arch == X86.name:
        entries.append(newc.executable("bin/yielder", yielder()))
    code = _compiled(on, cache)
    entries += [newc.Entry(f"{CODE}/{p.relative_to(code)}", p.read_bytes()) for p in code.rglob("*") if p.is_file()]
    return newc.archive(entries)


def yielder() -> bytes:
    """A program that executes a PAUSE every few microseconds, for ever (see `init.sh`): one ELF header, one segment.

    Not more often: every PAUSE makes QEMU switch CPUs, which costs as much as thousands of instructions.
    """
    base = 0x400000
    code = bytes.fromhex(
        "b910270000"  # 1: mov $10000, %ecx
        "ffc9"  #       2: dec %ecx
        "75fc"  #          jnz 2b
        "f390"  #          pause
        "ebf3"  #          jmp 1b
    )
    header_bytes, segment_bytes = 64, 56
    size = header_bytes + segment_bytes + len(code)
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    entry = base + header_bytes + segment_bytes
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, header_bytes, 0, 0, header_bytes, segment_bytes, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return ident + header + segment + code


def sources() -> Iterator[tuple[str, bytes]]:
    """Path and content of every source file that goes inside."""
    for path in map(str, closure(PACKAGE, INSIDE, empty=EMPTY)):
        yield path, b"" if path in EMPTY else (PACKAGE / path).read_bytes()


def _compiled(on: Image, cache: Path) -> Path:
    """Directory with the sources and their bytecode, made once per content.

    Bytecode of one source can differ between two compilations (the marshal format records which objects were shared),
    and with it a lab's virtual time; so the first to finish wins, and everyone uses that one.
    """
    files = dict(sources())
    key = hashlib.sha256(repr(sorted(files.items())).encode() + on.base_sha256.encode()).hexdigest()[:24]
    kept = cache / "code" / key
    if kept.exists():
        os.utime(kept)
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    _prune(kept.parent, KEPT_COMPILATIONS - 1)
    with workplace(kept.parent) as partial:
        tree = partial / "guestclock"
        for name, data in files.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes(data)
        image.compile_tree(on.compiler, tree, f"/{CODE}", in_place=False)
        try:
            os.rename(tree, kept)
        except OSError:  # someone else was first
            if not kept.exists():
                raise
    return kept


def _prune(directory: Path, keep: int) -> None:
    """Removes compiled code but for the latest used: every change of a source file leaves one behind."""
    compiled = [path for path in directory.iterdir() if not path.name.startswith(PARTIAL)]
    for old in sorted(compiled, key=lambda path: path.stat().st_mtime, reverse=True)[keep:]:
        remove(old)
