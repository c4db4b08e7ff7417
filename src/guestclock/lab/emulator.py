"""Where QEMU is: the one on PATH, else one of our own, fetched from Debian and run from the lab's cache.

Our own is qemu-system-x86 with everything it depends on, down to libc, unpacked and never installed: it is started
through its own dynamic loader, so that it takes nothing from the machine around it. That needs a Linux on x86-64, and
apt. One on PATH is preferred. Two QEMUs of one version give the same virtual time to the last bit, others need not.

The loader is copied beside the program: QEMU asks the kernel which file it was started from, and finds its modules (the
emulation itself is one) and its firmware from there.
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from guestclock.errors import UserError
from guestclock.lab.debian import Archive, unpack
from guestclock.lab.tools import PACKAGE_OF, cache_dir

PROGRAM = "qemu-system-x86_64"
PACKAGES = ("qemu-system-x86", "seabios")
LOADER = "ld-linux-x86-64.so.2"

RECIPE = 1
"""Counts changes of what is kept of the packages."""

KEPT = (f"usr/bin/{PROGRAM}", "lib", "lib64", "usr/lib/x86_64-linux-gnu", "usr/share/qemu", "usr/share/seabios")
DATA = ("usr/share/qemu", "usr/share/seabios")


@dataclass(frozen=True)
class Fetched:
    """A QEMU in the lab's cache. libraries: directories of its shared libraries; all paths below `directory`."""

    directory: Path
    recipe: int
    package: str
    libraries: list[str]

    def command(self) -> list[str]:
        """How it is started."""
        path = ":".join(str(self.directory / name) for name in self.libraries)
        program = self.directory / "usr/bin"
        data = [word for name in DATA for word in ("-L", str(self.directory / name))]
        return [str(program / LOADER), "--library-path", path, str(program / PROGRAM), *data]


def command(cache: Path | None = None) -> list[str]:
    """How QEMU is started here: the words before its own arguments. `UserError` where there is none."""
    found = find(cache)
    if found is None:
        raise UserError(
            f"lab: {PROGRAM} not found (Debian package {PACKAGE_OF[PROGRAM]}): install it, "
            "or have it fetched: run 'guestclock lab setup'"
        )
    return found


def find(cache: Path | None = None) -> list[str] | None:
    """As `command`, but None where there is none."""
    on_path = shutil.which(PROGRAM)
    if on_path is not None:
        return [on_path]
    ours = find_fetched(cache)
    return None if ours is None else ours.command()


def find_fetched(cache: Path | None = None) -> Fetched | None:
    """The one in the cache, or None where there is none that this version of guestclock can use."""
    directory = (cache or cache_dir()) / "qemu"
    try:
        found = Fetched(directory=directory, **json.loads((directory / "manifest.json").read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return found if found.recipe == RECIPE else None


def fetch(archive: Archive, cache: Path) -> Fetched:
    """Fetch and unpack QEMU; it gets its name only when it is complete."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        what = f"{PROGRAM} not found (Debian package {PACKAGE_OF[PROGRAM]})"
        raise UserError(f"lab: {what}, and it can be fetched for Linux on x86-64 only")
    with tempfile.TemporaryDirectory(dir=cache, prefix="partial-") as partial:
        debs, root, made = (Path(partial) / name for name in ("debs", "root", "made"))
        packages = archive.fetch_with_dependencies(PACKAGES, debs)
        for deb in packages:
            unpack(deb, root)
        for name in KEPT:
            if (root / name).exists():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).rename(made / name)
        loader = next(path for path in sorted(made.rglob(LOADER)) if not path.is_symlink())
        shutil.copy(loader, made / "usr/bin" / LOADER)
        libraries = sorted({str(path.parent.relative_to(made)) for path in made.rglob("lib*.so.*")})
        package = next(deb.stem for deb in packages if deb.name.startswith(f"{PACKAGES[0]}_"))
        facts = asdict(Fetched(cache / "qemu", RECIPE, package.replace("%3a", ":"), libraries))
        del facts["directory"]
        (made / "manifest.json").write_text(json.dumps(facts, indent=2) + "\n")
        if (cache / "qemu").exists():
            (cache / "qemu").rename(Path(partial) / "old")
        made.rename(cache / "qemu")
    fetched = find_fetched(cache)
    assert fetched is not None
    return fetched
