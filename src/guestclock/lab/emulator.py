"""Where QEMU is: the one on PATH, else one of our own, fetched from Debian and run from the lab's cache.

Our own is Debian's package with everything it depends on, down to libc, unpacked and never installed: it is started
through its own dynamic loader, so that it takes nothing from the machine around it. That needs a Linux on x86-64, and
apt. One on PATH is preferred. Two QEMUs of one version give the same virtual time to the last bit, others need not.

The loader is copied beside the program: QEMU asks the kernel which file it was started from, and finds its modules (the
emulation itself is one) and its firmware from there.
"""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from guestclock.errors import UserError
from guestclock.lab.arch import X86, Arch
from guestclock.lab.debian import Archive, unpack
from guestclock.lab.tools import PACKAGE_OF, cache_dir, workplace

LOADER = "ld-linux-x86-64.so.2"

RECIPE = 1
"""Counts changes of what is kept of the packages."""

KEPT = ("lib", "lib64", "usr/lib/x86_64-linux-gnu")
"""Besides the program and its firmware."""


@dataclass(frozen=True)
class Fetched:
    """A QEMU in the lab's cache. libraries: directories of its shared libraries; all paths below `directory`."""

    arch: Arch
    directory: Path
    recipe: int
    package: str
    libraries: list[str]

    def command(self) -> list[str]:
        """How it is started."""
        path = ":".join(str(self.directory / name) for name in self.libraries)
        program = self.directory / "usr/bin"
        data = [word for name in self.arch.qemu_data for word in ("-L", str(self.directory / name))]
        return [str(program / LOADER), "--library-path", path, str(program / self.arch.qemu), *data]


def command(cache: Path | None = None, arch: Arch = X86) -> list[str]:
    """How QEMU is started here: the words before its own arguments. `UserError` where there is none."""
    found = find(cache, arch)
    if found is None:
        raise UserError(f"lab: {_missing(arch)}: install it, or have it fetched: run '{setup_command(arch)}'")
    return found


def find(cache: Path | None = None, arch: Arch = X86) -> list[str] | None:
    """As `command`, but None where there is none."""
    on_path = shutil.which(arch.qemu)
    if on_path is not None:
        return [on_path]
    ours = find_fetched(cache, arch)
    return None if ours is None else ours.command()


def find_fetched(cache: Path | None = None, arch: Arch = X86) -> Fetched | None:
    """The one in the cache, or None where there is none that this version of guestclock can use."""
    directory = (cache or cache_dir()) / arch.kept("qemu")
    try:
        found = Fetched(arch, directory, **json.loads((directory / "manifest.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return found if found.recipe == RECIPE else None


def fetch(archive: Archive, cache: Path, arch: Arch = X86) -> Fetched:
    """Fetch and unpack QEMU; it gets its name only when it is complete. archive: of x86-64's packages."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise UserError(f"lab: {_missing(arch)}, and it can be fetched for Linux on x86-64 only")
    with workplace(cache) as partial:
        debs, root, made = (partial / name for name in ("debs", "root", "made"))
        packages = archive.fetch_with_dependencies(arch.qemu_packages, debs)
        for deb in packages:
            unpack(deb, root)
        for name in (f"usr/bin/{arch.qemu}", *KEPT, *arch.qemu_data):
            if (root / name).exists():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).rename(made / name)
        loader = next(path for path in sorted(made.rglob(LOADER)) if not path.is_symlink())
        shutil.copy(loader, made / "usr/bin" / LOADER)
        libraries = sorted({str(path.parent.relative_to(made)) for path in made.rglob("lib*.so.*")})
        package = next(deb.stem for deb in packages if deb.name.startswith(f"{arch.qemu_packages[0]}_"))
        facts = {"recipe": RECIPE, "package": package.replace("%3a", ":"), "libraries": libraries}
        (made / "manifest.json").write_text(json.dumps(facts, indent=2) + "\n")
        place = cache / arch.kept("qemu")
        if place.exists():
            place.rename(partial / "old")
        made.rename(place)
    fetched = find_fetched(cache, arch)
    assert fetched is not None
    return fetched


def setup_command(arch: Arch, kernel: str | None = None) -> str:
    """What makes an architecture's emulator and kernel be there."""
    words = ["guestclock lab setup"]
    if arch is not X86:
        words.append(f"--arch {arch.name}")
    if kernel is not None:
        words.append(f"--kernel {kernel}")
    return " ".join(words)


def _missing(arch: Arch) -> str:
    return f"{arch.qemu} not found (Debian package {PACKAGE_OF[arch.qemu]})"
