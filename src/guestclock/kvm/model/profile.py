"""What kernel profiles of every architecture have: a name, and how one is made of another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Self

from guestclock.errors import UserError
from guestclock.machine import Machine


@dataclass(frozen=True, kw_only=True)
class AnyProfile:
    """KVM of one kernel; an architecture's Profile adds its hook points and facts."""

    name: str
    about: str

    @property
    def arch(self) -> str:
        """ "x86_64" or "arm64", as a scenario's host says it."""
        raise NotImplementedError

    def but(self, **changes: Any) -> Self:
        """The same kernel with other rules or facts: how one kernel's profile is made from its predecessor's.

        Raises UserError for what is neither a hook point nor a fact.
        """
        for name in changes:
            if name not in self.__dataclass_fields__:
                near = get_close_matches(name, self.__dataclass_fields__)
                meant = f"did you mean {' or '.join(map(repr, near))}?" if near else "expected a hook point or a fact"
                raise UserError(f"a profile has no {name!r} ({meant})")
        return replace(self, **changes)


def on_its_architecture(profile: AnyProfile, machine: Machine) -> None:
    """Raises UserError for a kernel that this machine cannot run."""
    if profile.arch != machine.arch:
        raise UserError(
            f"kernel {profile.name!r} is a kernel of {profile.arch}, this machine is {machine.arch}: expected one of "
            f"that architecture (`guestclock list kernels`)"
        )
