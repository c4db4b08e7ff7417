"""The base of a lab: one Debian kernel with its KVM modules, busybox, and a bare Python 3.11.

Taken from packages, never installed. Everything that differs between runs (our own code, the program) comes in a second
archive, see `overlay`. What is left out is left out to be small: the kernel unpacks the archive under emulation.

Traps (lab-x86.md sections 1, 4, 6): keep the bzImage (a bare vmlinux boots faster, but cannot wake from S3); gzip costs
1.8 s of boot, no compression costs nothing; the cloud kernels have no 9p, so an initramfs is the only way in; their
modules are .ko.xz in 6.12 and later, and busybox's insmod wants .ko. Debian's arm64 kernels are raw images, which QEMU
starts as they are; KVM is built in.
"""

from __future__ import annotations

import lzma
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from guestclock.errors import UserError
from guestclock.lab import newc
from guestclock.lab.arch import Arch

RECIPE = 2
"""Counts changes of what goes into an image: images of another number are built anew."""

PYTHON_PACKAGES = (
    "python3.11-minimal",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libc6",
    "zlib1g",
    "libexpat1",
    "libffi8",
)
BUSYBOX_PACKAGE = "busybox-static"

LIBRARIES = ("libc.so.6", "libm.so.6", "libz.so.1", "libexpat.so.1", "libffi.so.8")
PYTHON = "usr/bin/python3.11"
STDLIB = "usr/lib/python3.11"

EXTENSIONS = ("_asyncio", "_contextvars", "_ctypes", "_decimal", "_json", "_queue", "mmap", "resource", "termios")

# fmt: off
NEVER_INSIDE = frozenset((
    "__pycache__", "test", "unittest", "pydoc_data", "lib2to3", "idlelib", "tkinter", "ensurepip",
    "distutils", "turtledemo", "venv", "dbm", "curses", "sqlite3", "xml", "xmlrpc", "html", "http", "email",
    "wsgiref", "multiprocessing",
    "turtle.py", "pydoc.py", "doctest.py", "tarfile.py", "zipfile.py", "pickletools.py", "ftplib.py",
    "imaplib.py", "nntplib.py", "smtplib.py", "smtpd.py", "poplib.py", "telnetlib.py", "mailbox.py", "cgi.py",
    "_pydecimal.py", "_pyio.py", "pdb.py", "webbrowser.py", "antigravity.py", "this.py",
))
# fmt: on
"""Parts of the standard library nothing inside imports."""

ENCODINGS = frozenset(("__init__", "aliases", "ascii", "latin_1", "utf_8", "idna"))


def base_entries(kernel: Path, python: Path, arch: Arch, compiler: Sequence[str] | None) -> list[newc.Entry]:
    """Everything of the base archive.

    kernel, python: where the kernel's package and Python's packages (with libraries and busybox) were unpacked.
    compiler: see `interpreter`.
    """
    entries = [
        newc.executable("bin/busybox", _one(python, "busybox").read_bytes()),
        newc.executable(PYTHON, (python / PYTHON).read_bytes()),
        newc.executable(arch.loader, _one(python, Path(arch.loader).name).read_bytes()),
        newc.character_device("dev/console", 5, 1),
    ]
    entries += [newc.executable(f"lib/{arch.triplet}/{name}", _one(python, name).read_bytes()) for name in LIBRARIES]
    entries += [newc.directory(name) for name in ("proc", "sys", "tmp", "run")]
    entries += [newc.Entry(path, data) for path, data in _standard_library(python, compiler)]
    modules = load_order(kernel, arch.modules)
    entries.append(newc.Entry("modules/order", "".join(f"{name}\n" for name in modules).encode()))
    modules |= load_order(kernel, arch.other_modules)
    entries += [newc.Entry(f"modules/{name}.ko", data) for name, data in modules.items()]
    return entries


def kernel_image(root: Path) -> bytes:
    images = sorted((root / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise UserError(f"lab: expected one kernel in the package, found {[image.name for image in images]}")
    return images[0].read_bytes()


def load_order(root: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """These modules and those they need, each after its needs; what this kernel has built in is left out."""
    ordered: dict[str, bytes] = {}
    for name in wanted:
        data = _module(root, name)
        if data is not None:
            ordered |= load_order(root, module_dependencies(data))
            ordered[name] = data
    return ordered


def module_dependencies(data: bytes) -> list[str]:
    """Names a module says it needs loaded first (its .modinfo `depends=`)."""
    found = re.search(rb"\0depends=([^\0]*)\0", data)
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []


def _module(root: Path, name: str) -> bytes | None:
    for spelled in (name, name.replace("_", "-")):
        for found in sorted(root.rglob(f"{spelled}.ko*")):
            data = found.read_bytes()
            return lzma.decompress(data) if found.suffix == ".xz" else data
    return None


def interpreter(arch: Arch, python: Path, spare: Path) -> list[str] | None:
    """How a Python is started here whose bytecode the one inside takes; None where there is none.

    On the lab's own architecture it is the very one that runs inside, from its packages in `python`. Else any 3.11
    does: bytecode knows no architecture. spare: where the packages of this machine's own were unpacked, or nothing is.
    """
    packages = python if arch.machine == platform.machine() else spare
    if platform.system() == "Linux" and (packages / PYTHON).exists():
        directories = sorted({str(_one(packages, name).parent) for name in LIBRARIES})
        return [str(_one(packages, "ld-linux-*.so.*")), "--library-path", ":".join(directories), str(packages / PYTHON)]
    return [sys.executable] if sys.version_info[:2] == (3, 11) else None


def compile_tree(compiler: Sequence[str] | None, tree: Path, shown_as: str, *, in_place: bool) -> bool:
    """Compile Python files for the interpreter that will run inside; False where this machine cannot do it.

    compiler: see `interpreter`. tree: what to compile. shown_as: its path inside, for tracebacks. in_place: `x.pyc`
    beside `x.py` (works without the source) instead of in `__pycache__`.
    """
    if compiler is None:
        return False
    code = (
        "import compileall, py_compile, sys\n"
        f"done = compileall.compile_dir({str(tree)!r}, quiet=2, force=True, stripdir={str(tree)!r},"
        f" prependdir={shown_as!r}, legacy={in_place},"
        " invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)\n"
    )
    return subprocess.run([*compiler, "-S", "-E", "-c", code], capture_output=True, check=False).returncode == 0


def _standard_library(root: Path, compiler: Sequence[str] | None) -> Iterator[tuple[str, bytes]]:
    compiled = compile_tree(compiler, root / STDLIB, f"/{STDLIB}", in_place=True)
    for path in sorted((root / STDLIB).rglob("*")):
        inside = path.relative_to(root / STDLIB)
        source_name = inside.with_suffix(".py") if path.suffix == ".pyc" else inside
        if not path.is_file() or NEVER_INSIDE.intersection(source_name.parts):
            continue
        if inside.parts[0] == "lib-dynload" and path.name.split(".")[0] not in EXTENSIONS:
            continue
        if inside.parts[0] == "encodings" and source_name.stem not in ENCODINGS:
            continue
        wanted = {".so", ".pyc" if compiled else ".py"}
        if path.suffix in wanted:
            yield f"{STDLIB}/{inside}", path.read_bytes()


def _one(root: Path, name: str) -> Path:
    for found in sorted(root.rglob(name)):
        if found.is_file():
            return found
    raise UserError(f"lab: {name} is in none of the packages fetched")
