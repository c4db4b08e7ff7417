"""One case of the suspend thread, made of its setting; and what a case may say must happen in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from guestclock.checks.protocol import Case, Design
from guestclock.checks.suspend.setting import Night, S, Setting
from guestclock.checks.suspend.world import build
from guestclock.errors import UserError
from guestclock.scenario.quantity import Duration
from guestclock.vmm.clocks import ARM64

SLEPT, NOT_SLEPT = "the host has slept", "the host did not sleep"
INJECTED, ADJUSTED = "injected", "the VMM adjusted"
MOVED, PLUGGED, ITSELF, LOST = (
    "the VM was moved", "a vCPU was plugged in", "the guest slept itself", "interrupts were lost",
)  # fmt: skip
NIGHTS = (Night(), Night(least_ns=130 * S, most_ns=130 * S))

LEAST_NS, MOST_NS = 1_000_000, 30 * 24 * 3600 * S
RATES_KHZ = {True: range(1_000, 1_000_001), False: range(500_000, 10_000_001)}
"""Of a host in a case that somebody names: arm64's, x86's."""

OWN = "one of them with a sleep or a rate of the host's counter of your own, as sleep@25s or sleep@90min@2893202kHz"


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendCase(Case):
    """setting: what it was made of."""

    setting: Setting


def case(name: str, about: str, setting: Setting, *must: str, only: tuple[str, ...] = ()) -> SuspendCase:
    return SuspendCase(
        name=name,
        about=about,
        build=build(setting),
        bounds=setting.bounds,
        must=must,
        invariants=only,
        setting=setting,
        khz=setting.guest_khz,
    )


def design(name: str, about: str, source: str, cases: Callable[[], Sequence[Case]], *, broken: bool = False) -> Design:
    """One whose cases may be asked with other sleeps, and on hosts of other rates."""
    return Design(name, about, source, cases, broken, lambda own: named(own, cases()))


def named(own: str, cases: Sequence[Case]) -> Case | None:
    """CASE@T@RATEkHz: a listed case whose sleeps all last T, on a host whose counter has that rate; one will do.

    Raises UserError where neither a duration nor a rate is meant, or one that is out of range.
    """
    base, *changes = own.split("@")
    listed = next((one for one in cases if one.name == base), None)
    if not changes or not isinstance(listed, SuspendCase):
        return None
    setting, about = listed.setting, [listed.about]
    for change in changes:
        rate = re.fullmatch(r"([0-9]+)kHz", change)
        if rate is not None:
            setting = _on_a_host_of(int(rate[1]), setting, own)
            about.append(f"a host of {rate[1]} kHz")
        else:
            ns = _slept(change, own)
            nights = tuple(replace(night, least_ns=ns, most_ns=ns) for night in setting.nights)
            setting = setting.but(nights=nights)
            about.append(f"sleeps of {change}")
    return case(own, ", ".join(about), setting, *listed.must, only=listed.invariants)


def _on_a_host_of(khz: int, setting: Setting, own: str) -> Setting:
    rates = RATES_KHZ[setting.arch == ARM64]
    if khz not in rates:
        raise UserError(f"--case {own}: {khz} kHz: expected {rates.start} to {rates.stop - 1} kHz")
    return setting.but(rate_khz=khz, khz=setting.khz * khz // setting.host_khz)


def _slept(written: str, own: str) -> int:
    try:
        ns = Duration.parse(written, {}).literal
    except ValueError as error:
        raise UserError(f"--case {own}: {error}; or a rate, as 2893202kHz") from None
    if not LEAST_NS <= ns <= MOST_NS:
        raise UserError(f"--case {own}: a sleep of {written}: expected 1 ms to 30 days")
    return ns
