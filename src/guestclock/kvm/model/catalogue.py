"""Finding a profile by name: kernels, versions, and overlays written with `+`."""

from __future__ import annotations

from difflib import get_close_matches

from guestclock.errors import UserError
from guestclock.kvm.model.kernels import KERNELS
from guestclock.kvm.model.overlays import OVERLAYS
from guestclock.kvm.model.profile import Profile


def lookup(name: str) -> Profile:
    """The profile of "linux-6.12", "6.12", "pvm" or "linux-6.12+exact5+periodic-masterclock=60s".

    Raises UserError that names what is unknown and what comes close.
    """
    kernel, *overlays = name.split("+")
    profile = _kernel(kernel.strip())
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


def _kernel(name: str) -> Profile:
    profile = KERNELS.get(name) or KERNELS.get(f"linux-{name}")
    if profile is None:
        raise UserError(f"kernel {name!r} is unknown{_close(name, list(KERNELS))}")
    return profile


def _close(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known) or get_close_matches(f"linux-{name}", known)
    meant = " or ".join(repr(n) for n in near)
    return f" (did you mean {meant}?)" if near else f", expected one of {', '.join(known)}"
