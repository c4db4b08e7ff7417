"""Overlays: single rules that can be laid over any kernel of their architecture, written `linux-6.12+exact5`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Overlay:
    """A change to a kernel. lay: (profile, value) -> profile. parameter: its unit if it takes `=value`, else empty."""

    name: str
    about: str
    lay: Callable[[Any, str], Any]
    parameter: str = ""


def plain(name: str, about: str, **changes: object) -> Overlay:
    """An overlay that puts other rules and facts into a profile."""
    return Overlay(name, about, lambda profile, _: profile.but(**changes))
