"""Finding a profile by name: kernels, versions, files of the user's own, and overlays written with `+`."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

from guestclock.errors import UserError
from guestclock.kvm.model.executor import ModelKvm, Spawner
from guestclock.kvm.model.patch import load
from guestclock.kvm.model.x86.kernels import KERNELS
from guestclock.kvm.model.x86.kvm import X86Kvm
from guestclock.kvm.model.x86.overlays import OVERLAYS
from guestclock.kvm.model.x86.profile import Profile
from guestclock.machine import Machine
from guestclock.sim import Emit

_FILE = re.compile(r"(?P<path>.+?\.py)(?P<overlays>\+.*)?", re.DOTALL)
"""A file's path may have a `+` in it."""


def lookup(name: str) -> Profile:
    """The profile of "linux-6.12", "6.12", "pvm", "my_patch.py" or "linux-6.12+exact5+periodic-masterclock=60s".

    A profile's name looks itself up: a file's is its path as given here, the name that the file gives is in `about`.
    Raises UserError that names what is unknown and what comes close.
    """
    file = _FILE.fullmatch(name)
    if file is None:
        kernel, *overlays = name.split("+")
        profile = _kernel(kernel.strip())
    else:
        overlays = (file["overlays"] or "").split("+")[1:]
        path = file["path"].strip()
        profile = load(path)
        profile = profile.but(name=path, about=f"{profile.name}: {profile.about}")
    for text in overlays:
        key, _, value = text.strip().partition("=")
        overlay = OVERLAYS.get(key)
        if overlay is None:
            raise UserError(f"kernel {name!r}: unknown overlay {key!r}{_close(key, list(OVERLAYS))}")
        if value and not overlay.parameter:
            raise UserError(f"kernel {name!r}: overlay {key!r} takes no value, got {value!r}")
        profile = overlay.lay(profile, value)
        profile = profile.but(name=f"{profile.name}+{text.strip()}", about=f"{profile.about}; {overlay.about}")
    return profile


def names() -> dict[str, str]:
    """Each kernel, and each overlay with a leading `+`, with one line about it."""
    kernels = {name: profile.about for name, profile in KERNELS.items()}
    return kernels | {f"+{name}": overlay.about for name, overlay in OVERLAYS.items()}


def model_kvm(
    machine: Machine, profile: Profile, scheduler: Spawner, emit: Emit | None = None, options: Any = None
) -> ModelKvm[Any, Any]:
    """The KVM of a kernel on a machine of its architecture. options: that architecture's KvmOptions, or None."""
    return X86Kvm(machine, profile, scheduler, emit, options)


def _kernel(name: str) -> Profile:
    profile = KERNELS.get(name) or KERNELS.get(f"linux-{name}")
    if profile is None:
        raise UserError(f"kernel {name!r} is unknown{_close(name, list(KERNELS))}")
    return profile


def _close(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known) or get_close_matches(f"linux-{name}", known)
    meant = " or ".join(repr(n) for n in near)
    return f" (did you mean {meant}?)" if near else f", expected one of {', '.join(known)}"
