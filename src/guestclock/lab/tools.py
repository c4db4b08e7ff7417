"""The programs the lab drives, where it keeps what it fetched, and its one kind of failure."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from guestclock.errors import UserError

CACHE_VARIABLE = "GUESTCLOCK_LAB_CACHE"

PACKAGE_OF = {
    "apt-cache": "apt",
    "apt-get": "apt",
    "dpkg": "dpkg",
    "dpkg-deb": "dpkg",
    "qemu-system-x86_64": "qemu-system-x86",
}


class LabError(Exception):
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

    $GUESTCLOCK_LAB_CACHE, else $XDG_CACHE_HOME/guestclock/lab, else ~/.cache/guestclock/lab.
    """
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guestclock" / "lab"
