"""Finding a profile by name: kernels, versions, files of the user's own, and overlays written with `+`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from guestclock.errors import UserError
from guestclock.kvm.model.architectures import ARCHITECTURES, Architecture
from guestclock.kvm.model.executor import ModelKvm, Spawner
from guestclock.kvm.model.patch import load
from guestclock.kvm.model.profile import AnyProfile, on_its_architecture
from guestclock.machine import Machine
from guestclock.sim import Emit

_FILE = re.compile(r"(?P<path>.+?\.py)(?P<overlays>\+.*)?", re.DOTALL)
"""A file's path may have a `+` in it."""


def lookup(name: str) -> Any:
    """The profile of "linux-6.12", "6.12-arm64", "pvm", "my_patch.py" or "linux-6.12+exact5+periodic-masterclock=60s".

    A profile's name looks itself up: a file's is its path as given here, the name that the file gives is in `about`.
    Answers the Profile of its architecture. Raises UserError that names what is unknown and what comes close.
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
    arch = ARCHITECTURES[profile.arch]
    for text in overlays:
        key, _, value = text.strip().partition("=")
        overlay = arch.overlays.get(key)
        if overlay is None:
            raise UserError(f"kernel {name!r}: {_no_overlay(key, arch)}")
        if value and not overlay.parameter:
            raise UserError(f"kernel {name!r}: overlay {key!r} takes no value, got {value!r}")
        profile = overlay.lay(profile, value)
        profile = profile.but(name=f"{profile.name}+{text.strip()}", about=f"{profile.about}; {overlay.about}")
    return profile


def names(arch: str = "") -> dict[str, str]:
    """Each kernel, and each overlay with a leading `+`, with one line about it. arch: of one architecture alone."""
    chosen = [ARCHITECTURES[arch]] if arch else list(ARCHITECTURES.values())
    kernels = {name: profile.about for one in chosen for name, profile in one.kernels.items()}
    return kernels | {f"+{name}": overlay.about for one in chosen for name, overlay in one.overlays.items()}


def model_kvm(
    machine: Machine, profile: AnyProfile, scheduler: Spawner, emit: Emit | None = None, options: Any = None
) -> ModelKvm[Any, Any]:
    """The KVM of a kernel on a machine of its architecture. options: that architecture's KvmOptions, or None.

    Raises UserError for a kernel of another architecture.
    """
    on_its_architecture(profile, machine)
    kvm: Any = ARCHITECTURES[profile.arch].kvm
    return kvm(machine, profile, scheduler, emit, options)  # type: ignore[no-any-return]


def _kernel(name: str) -> AnyProfile:
    known = [kernel for arch in ARCHITECTURES.values() for kernel in arch.kernels]
    for arch in ARCHITECTURES.values():
        profile = arch.kernels.get(name) or arch.kernels.get(f"linux-{name}")
        if profile is not None:
            return profile
    raise UserError(f"kernel {name!r} is unknown{_close(name, known)}")


def _no_overlay(key: str, arch: Architecture) -> str:
    for other in ARCHITECTURES.values():
        if key in other.overlays:
            return f"overlay {key!r} is for {other.name}, this kernel is {arch.name}: expected one of " + ", ".join(
                arch.overlays
            )
    return f"unknown overlay {key!r}{_close(key, list(arch.overlays))}"


def _close(name: str, known: Sequence[str]) -> str:
    near = get_close_matches(name, known) or get_close_matches(f"linux-{name}", known)
    meant = " or ".join(repr(n) for n in near)
    return f" (did you mean {meant}?)" if near else f", expected one of {', '.join(known)}"
