"""What a VMM means its guest's clocks to do, by name or from a TOML file; and what it forgives them.

tsc      = "freeze"
kvmclock = "advance"

[tolerance]
kvmclock     = "20 us"        # of what the policy asks of this clock
tsc-agrees   = "400 cycles"   # of one property
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guestclock.checks.asks import QUESTIONS
from guestclock.errors import UserError
from guestclock.scenario.quantity import Cycles, did_you_mean
from guestclock.vmm.clocks import CLOCKS, COUNTED, clocks_of

POLICIES = ("run", "freeze", "advance")


@dataclass(frozen=True, slots=True)
class Policy:
    """clocks: what each is meant to do, (clock, policy); a clock left out is not asked about.

    tolerances: (clock or property, ns, cycles), allowed besides what truncation makes.
    """

    clocks: tuple[tuple[str, str], ...]
    tolerances: tuple[tuple[str, int, int], ...] = field(default=())

    def forgives(self, property_: str, unit: str, khz: int) -> int:
        """How much of a property's unit is allowed: its own tolerance, or for a policy's question its clock's."""
        for name, ns, cycles in self.tolerances:
            if name == property_ or (name in CLOCKS and property_.startswith(f"{name}-policy")):
                return cycles + ns * khz // 1_000_000 if unit in COUNTED else ns + cycles * 1_000_000 // khz
        return 0


def policy(given: str | None, default: Mapping[str, str], arch: str) -> Policy:
    """`given`: "run", "freeze" or "advance" for all clocks of that architecture's guests, or a TOML file; None: the
    recipe's own.

    Raises UserError.
    """
    clocks = clocks_of(arch)
    if given is None:
        return Policy(tuple((clock, default[clock]) for clock in clocks if clock in default))
    if given in POLICIES:
        return Policy(tuple((clock, given) for clock in clocks))
    if not given.endswith(".toml"):
        raise UserError(
            f"--policy {given}: expected one of {', '.join(POLICIES)}, or FILE.toml{did_you_mean(given, POLICIES)}"
        )
    return _read(Path(given), clocks)


def _read(path: Path, clocks: tuple[str, ...]) -> Policy:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--policy {path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"--policy {path}: not UTF-8 text (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"--policy {path}: not TOML: {error}") from None
    tolerances = raw.pop("tolerance", {})
    if not isinstance(tolerances, dict):
        raise UserError(f"--policy {path}: tolerance: {tolerances!r}, expected a table like [tolerance]")
    for clock, meant in raw.items():
        if clock not in clocks:
            known = (*clocks, "tolerance")
            raise UserError(
                f"--policy {path}: unknown key {clock!r}{did_you_mean(clock, known)}, expected {', '.join(known)}"
            )
        if meant not in POLICIES:
            raise UserError(f"--policy {path}: {clock}: {meant!r}, expected one of {', '.join(POLICIES)}")
    found = tuple(_tolerance(path, name, written) for name, written in tolerances.items())
    return Policy(tuple((clock, raw[clock]) for clock in clocks if clock in raw), found)


def _tolerance(path: Path, name: str, written: Any) -> tuple[str, int, int]:
    where = f"--policy {path}: tolerance: {name}"
    if name not in CLOCKS and name not in QUESTIONS:
        raise UserError(f"{where}: neither a clock nor a property{did_you_mean(name, (*CLOCKS, *QUESTIONS))}")
    try:
        terms = Cycles.parse(written, {}).terms
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    ns, cycles = (sum(t.factor * t.value for t in terms if t.kind == kind and isinstance(t.value, int))
                  for kind in ("ns", "int"))  # fmt: skip
    if {t.kind for t in terms} - {"ns", "int"} or ns < 0 or cycles < 0:
        raise UserError(f"{where}: {written!r}, expected a duration like '20 us' or an amount like '400 cycles'")
    return name, ns, cycles
