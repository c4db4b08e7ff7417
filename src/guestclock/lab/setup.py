"""Make a lab's images: fetch packages, unpack, trim, pack. Once per kernel and machine; then nothing needs the network.
Where there is no QEMU, fetch one.

What is there already is left alone, so it may be called before every use. A run that is cut short leaves nothing
half-made behind: an image gets its name only when it is complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import platform
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from guestclock.errors import UserError
from guestclock.lab import emulator, image, newc
from guestclock.lab.arch import X86, Arch, arch_of
from guestclock.lab.debian import Archive, unpack
from guestclock.lab.tools import cache_dir, no_room, workplace

DEFAULT_KERNELS = ("6.1", "6.12")
SPARE = "spare"
"""Directory of an image in which there is another Python, of this machine's architecture, where it takes that one to
compile for the one inside.
"""


@dataclass(frozen=True)
class Image:
    """A kernel and its base initramfs, ready to boot."""

    directory: Path
    recipe: int
    package: str
    """The Debian kernel package this is."""
    base_sha256: str
    arch: str = X86.name
    kernel_sha256: str = ""
    """Empty in images that were made before it was kept."""

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def base(self) -> Path:
        return self.directory / "base.cpio"

    def damage(self) -> Path | None:
        """The file that is not what was put there; None where all is well."""
        for path, sha256 in ((self.base, self.base_sha256), (self.kernel, self.kernel_sha256)):
            try:
                if sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                    return path
            except FileNotFoundError:
                return path
        return None

    @property
    def python_root(self) -> Path:
        """The unpacked Python packages, for compiling with the interpreter that runs inside."""
        return self.directory / "python"

    @property
    def compiler(self) -> list[str] | None:
        """See `image.interpreter`."""
        return image.interpreter(arch_of(self.arch), self.python_root, self.directory / SPARE)


def setup(
    kernels: Sequence[str] = DEFAULT_KERNELS,
    *,
    arch: Arch = X86,
    progress: Callable[[str], None] = print,
    cache: Path | None = None,
    refresh: bool = False,
    linux_guest: bool = False,
) -> list[Image]:
    """Have an image for each of these kernels ("6.1", "6.12", ...) of an architecture, making the missing ones, and a
    QEMU to run them.

    refresh: look for a newer package even where an image is there. linux_guest: have a QEMU of Debian's in the cache as
    well, whatever is on PATH: one that is taken inside (see `linux_guest`).
    """
    for kernel in kernels:
        check_name(kernel)
    cache = cache or cache_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"lab: {cache} cannot be made: {error.strerror}") from None
    try:
        with _locked(cache / "lock"):
            return _set_up(kernels, arch, progress, cache, refresh, linux_guest)
    except OSError as error:
        raise no_room(error, cache) from None


def _set_up(
    kernels: Sequence[str],
    arch: Arch,
    progress: Callable[[str], None],
    cache: Path,
    refresh: bool,
    linux_guest: bool,
) -> list[Image]:
    made = []
    archives = Archives(cache, progress)
    to_be_taken_inside = linux_guest and emulator.find_fetched(cache, arch) is None
    if to_be_taken_inside or emulator.find(cache, arch) is None:
        progress(f"lab: fetching {arch.qemu} and what it depends on (45 MB)")
        progress(f"lab: QEMU ready ({emulator.fetch(archives.of(X86), cache, arch).package})")
    for kernel in kernels:
        ready = None if refresh else find_image(kernel, cache=cache, arch=arch)
        if ready is not None and (damaged := ready.damage()) is not None:
            progress(f"lab {arch.kept(kernel)}: {damaged}: damaged, is made again")
            ready = None
        if ready is None:
            ready = _make(kernel, arch, archives, cache, progress)
        progress(f"lab {arch.kept(kernel)}: ready ({ready.package})")
        made.append(ready)
    return made


class Archives:
    """Debian's packages by architecture; what knows them is made when the first is asked for."""

    def __init__(self, cache: Path, progress: Callable[[str], None]) -> None:
        self._cache, self._progress = cache, progress
        self._made: dict[str, Archive] = {}

    def of(self, arch: Arch) -> Archive:
        if arch.name not in self._made:
            self._made[arch.name] = Archive(self._cache, self._progress, arch.debian)
        return self._made[arch.name]


def find_image(kernel: str, *, cache: Path | None = None, arch: Arch = X86) -> Image | None:
    """The image of a kernel, or None where there is none that this version of guestclock can use."""
    directory = (cache or cache_dir()) / "images" / arch.kept(check_name(kernel))
    try:
        found = Image(directory=directory, **json.loads((directory / "manifest.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return found if found.recipe == image.RECIPE else None


def check_name(kernel: str) -> str:
    if not re.fullmatch(r"\d+\.\d+", kernel):
        raise UserError(f"lab: kernel '{kernel}': expected two numbers like 6.12")
    return kernel


def kernel_package_pattern(kernel: str, arch: Arch = X86) -> str:
    """Matches the packages of one kernel series, not the meta-package, not the unsigned or debug ones."""
    return rf"linux-image-{re.escape(kernel)}\.\d+(\+[a-z0-9.]+)?(-\d+)?-cloud-{arch.debian}"


def _make(kernel: str, arch: Arch, archives: Archives, cache: Path, progress: Callable[[str], None]) -> Image:
    archive = archives.of(arch)
    package = archive.newest(kernel_package_pattern(kernel, arch))
    images = cache / "images"
    images.mkdir(exist_ok=True)
    with workplace(images) as partial:
        made, root = partial / "image", partial / "root"
        python, spare = made / "python", made / SPARE
        for name in (package, *image.PYTHON_PACKAGES, image.BUSYBOX_PACKAGE):
            progress(f"lab {arch.kept(kernel)}: fetching {name}")
            unpack(_fetched(archive, name, cache / "debs"), root if name == package else python)
        if image.interpreter(arch, python, spare) is None and platform.machine() == X86.machine:
            for name in image.PYTHON_PACKAGES:
                progress(f"lab {arch.kept(kernel)}: fetching {name} for this machine, which has no Python 3.11")
                unpack(_fetched(archives.of(X86), name, cache / "debs"), spare)
        for place in (python, spare):
            shutil.rmtree(place / "usr" / "share", ignore_errors=True)  # documentation
        progress(f"lab {arch.kept(kernel)}: packing")
        base = newc.archive(image.base_entries(root, python, arch, image.interpreter(arch, python, spare)))
        booted = image.kernel_image(root)
        (made / "base.cpio").write_bytes(base)
        (made / "vmlinuz").write_bytes(booted)
        place = images / arch.kept(kernel)
        base_sha256, kernel_sha256 = (hashlib.sha256(content).hexdigest() for content in (base, booted))
        result = Image(place, image.RECIPE, package, base_sha256, arch.name, kernel_sha256)
        facts = asdict(result)
        del facts["directory"]
        (made / "manifest.json").write_text(json.dumps(facts, indent=2) + "\n")
        if place.exists():
            place.rename(partial / "old")
        made.rename(place)
    return result


def _fetched(archive: Archive, package: str, debs: Path) -> Path:
    kept = sorted(debs.glob(f"{package}_*_{archive.architecture}.deb"), reverse=True)
    return kept[0] if kept else archive.fetch(package, debs)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two setups at once (two test runs on one machine) take turns."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
