"""The programs the lab drives, where it keeps what it fetched, and its one kind of failure."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from guestclock.errors import Failure, UserError

CACHE_VARIABLE = "GUESTCLOCK_LAB_CACHE"

PARTIAL = "partial-"
"""How the names of places begin in which something is not finished."""

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


class Stuck(LabError):
    """A machine that used up the CPU time it was given, however busy the host is: it will not get any further."""


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


@contextlib.contextmanager
def workplace(directory: Path) -> Iterator[Path]:
    """A new directory inside `directory` for something half-made; gone at the end, with what was not moved out.

    It is locked while it is in use. Those that are not were left behind by a process that was killed, and go as well.
    """
    for left in directory.glob(f"{PARTIAL}*"):
        abandoned = _lock(left)
        if abandoned is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(abandoned)
    while True:
        place = Path(tempfile.mkdtemp(dir=directory, prefix=PARTIAL))
        ours = _lock(place)
        if ours is not None and place.is_dir():  # else it was taken for one of those
            break
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        os.close(ours)


def remove(place: Path) -> None:
    """A directory is out of the way at once, so that nobody finds half of it. Needs no room; it may be gone already."""
    gone = place.with_name(f"{PARTIAL}{place.name}-{secrets.token_hex(4)}")
    with contextlib.suppress(FileNotFoundError):
        place.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _lock(place: Path) -> int | None:
    """A descriptor that holds the lock of a directory; None where another process holds it, or it is gone."""
    try:
        fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd


def no_room(error: OSError, where: Path) -> UserError:
    """An error of the file system below the cache, in one line that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"lab: {where}: {error.strerror}: make room, or name another place by ${CACHE_VARIABLE}")
    return UserError(f"lab: {error.filename or where}: {error.strerror} (${CACHE_VARIABLE} names another place)")
