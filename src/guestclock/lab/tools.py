"""The programs the lab drives, where it keeps what it fetched, and its one kind of failure."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from guestclock.errors import Failure, UserError

CACHE_VARIABLE = "GUESTCLOCK_LAB_CACHE"

PACKAGE_OF = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "dpkg": "dpkg",
    "dpkg-deb": "dpkg",
    "qemu-system-aarch64": "qemu-system-arm",
    "qemu-system-x86_64": "qemu-system-x86",
}


class LabError(Failure):
    """A lab did not do its work: the kernel died, the time was up, the program inside failed.

    The message ends with the last lines of the console, which say more than we could.
    """


def require(tool: str) -> str:
    """Path of a program that must be there; a `UserError` naming its Debian package where it is not."""
    found = shutil.which(tool)
    if found is None:
        raise UserError(f"lab: {tool} not found (Debian package {PACKAGE_OF[tool]})")
    return found


def cache_dir() -> Path:
    """Where packages and images are kept: outside the tree, shared by all checkouts of a user.

    $GUESTCLOCK_LAB_CACHE, else $XDG_CACHE_HOME/guestclock/lab, else ~/.cache/guestclock/lab. Raises `UserError` where
    that is something else than a directory.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    place = Path(chosen) if chosen else caches / "guestclock" / "lab"
    if os.path.lexists(place) and not os.path.isdir(place):
        raise UserError(f"lab: {place}: expected a directory for kernels and QEMU (${CACHE_VARIABLE} names it)")
    return place
