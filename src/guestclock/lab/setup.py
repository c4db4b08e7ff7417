"""Make a lab's images: fetch packages, unpack, trim, pack. Once per kernel and machine; then nothing needs the network.
Where there is no QEMU, fetch one.

What is there already is left alone, so it may be called before every use. A run that is cut short leaves nothing
half-made behind: an image gets its name only when it is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from guestclock.errors import UserError
from guestclock.lab import emulator, image, newc
from guestclock.lab.debian import Archive, unpack
from guestclock.lab.tools import cache_dir

DEFAULT_KERNELS = ("6.1", "6.12")


@dataclass(frozen=True)
class Image:
    """A kernel and its base initramfs, ready to boot."""

    directory: Path
    recipe: int
    package: str
    """The Debian kernel package this is."""
    base_sha256: str

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def base(self) -> Path:
        return self.directory / "base.cpio"

    @property
    def python_root(self) -> Path:
        """The unpacked Python packages, for compiling with the interpreter that runs inside."""
        return self.directory / "python"


def setup(
    kernels: Sequence[str] = DEFAULT_KERNELS,
    *,
    progress: Callable[[str], None] = print,
    cache: Path | None = None,
    refresh: bool = False,
) -> list[Image]:
    """Have an image for each of these kernels ("6.1", "6.12", ...), making the missing ones, and a QEMU to run them.

    refresh: look for a newer package even where an image is there.
    """
    for kernel in kernels:
        check_name(kernel)
    cache = cache or cache_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"lab: {cache} cannot be made: {error.strerror}") from None
    made = []
    with _locked(cache / "lock"):
        archive: Archive | None = None
        if emulator.find(cache) is None:
            archive = Archive(cache, progress)
            progress("lab: fetching QEMU and what it depends on (45 MB)")
            progress(f"lab: QEMU ready ({emulator.fetch(archive, cache).package})")
        for kernel in kernels:
            ready = None if refresh else find_image(kernel, cache=cache)
            if ready is None:
                archive = archive or Archive(cache, progress)
                ready = _make(kernel, archive, cache, progress)
            progress(f"lab {kernel}: ready ({ready.package})")
            made.append(ready)
    return made


def find_image(kernel: str, *, cache: Path | None = None) -> Image | None:
    """The image of a kernel, or None where there is none that this version of guestclock can use."""
    directory = (cache or cache_dir()) / "images" / check_name(kernel)
    try:
        found = Image(directory=directory, **json.loads((directory / "manifest.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return found if found.recipe == image.RECIPE else None


def check_name(kernel: str) -> str:
    if not re.fullmatch(r"\d+\.\d+", kernel):
        raise UserError(f"lab: kernel '{kernel}': expected two numbers like 6.12")
    return kernel


def kernel_package_pattern(kernel: str) -> str:
    """Matches the packages of one kernel series, not the meta-package, not the unsigned or debug ones."""
    return rf"linux-image-{re.escape(kernel)}\.\d+(\+[a-z0-9.]+)?(-\d+)?-cloud-amd64"


def _make(kernel: str, archive: Archive, cache: Path, progress: Callable[[str], None]) -> Image:
    package = archive.newest(kernel_package_pattern(kernel))
    images = cache / "images"
    images.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=images, prefix="partial-") as partial:
        made, root, python = Path(partial) / "image", Path(partial) / "root", Path(partial) / "image" / "python"
        for name in (package, *image.PYTHON_PACKAGES):
            progress(f"lab {kernel}: fetching {name}")
            unpack(_fetched(archive, name, cache / "debs"), root if name == package else python)
        shutil.rmtree(python / "usr" / "share", ignore_errors=True)  # documentation
        progress(f"lab {kernel}: packing")
        base = newc.archive(image.base_entries(root, python))
        (made / "base.cpio").write_bytes(base)
        (made / "vmlinuz").write_bytes(image.kernel_image(root))
        result = Image(images / kernel, image.RECIPE, package, hashlib.sha256(base).hexdigest())
        facts = asdict(result)
        del facts["directory"]
        (made / "manifest.json").write_text(json.dumps(facts, indent=2) + "\n")
        old = Path(partial) / "old"
        if result.directory.exists():
            result.directory.rename(old)
        made.rename(result.directory)
    return result


def _fetched(archive: Archive, package: str, debs: Path) -> Path:
    return next(iter(sorted(debs.glob(f"{package}_*.deb"), reverse=True)), None) or archive.fetch(package, debs)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two setups at once (two test runs on one machine) take turns."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
