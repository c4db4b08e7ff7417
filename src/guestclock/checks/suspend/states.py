"""What the guest's kernel keeps besides its clocks, after each write of its timekeeper: for I5, I16 and I18."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from guestclock.arith.affine import Symbol
from guestclock.checks.suspend.setting import Outcome
from guestclock.linux import Ntp


@dataclass(frozen=True, slots=True)
class NtpSeen:
    """What adjtimex() would say. freq: time_freq, ns per second << 32; offset: time_offset, ns per tick << 32."""

    status: int
    maxerror_us: int
    freq: int
    offset: int

    @classmethod
    def of(cls, ntp: Ntp) -> NtpSeen:
        return cls(ntp.time_status, ntp.time_maxerror_us, ntp.time_freq, ntp.time_offset)


@dataclass(frozen=True, slots=True)
class GuestState:
    """After the step `step`, number `number`. parted: the tick's copy is another than the timekeeper.

    offs_real_ns, offs_boot_ns and their twins (guest.suspend_time.GuestTimekeeper). injections: since the kernel
    booted, and their sum injected_ns, as the guest has taken it from its record. wall_bases, boot_bases: how often
    clock_was_set() was called with those bases. kernel: which one, counted.
    """

    number: int
    step: str
    opened: Symbol
    parted: bool
    ntp: NtpSeen
    offs_real_ns: Any
    offs_boot_ns: Any
    wall_to_monotonic_ns: Any
    monotonic_to_boot_ns: Any
    tai_less_real_ns: Any
    tai_offset: int
    injections: int
    injected_ns: Any
    wall_bases: int
    boot_bases: int
    asleep: bool
    kernel: int


class States:
    """Looks after each step whether the timekeeper was written in it."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.seen: list[GuestState] = []
        self._version = -1
        outcome.world.after_step(self._look)

    def _look(self, number: int) -> None:
        guest = self.outcome.guest
        tk = guest.tk
        if tk is None or guest.version == self._version:
            return
        self._version = guest.version
        event = self.outcome.world.events[number]
        self.seen.append(
            GuestState(
                number, event.name, event.end, tk.shadow is not None, NtpSeen.of(tk.ntp), tk.offs_real_ns,
                tk.offs_boot_ns, tk.wall_to_monotonic_ns, tk.monotonic_to_boot_ns,
                tk.offs_tai_kept_ns - tk.offs_real_ns, tk.tai_offset, guest.injections, guest.injected_ns,
                guest.wall_bases, guest.boot_bases, guest.asleep, self.outcome.tracker.kernel,
            )
        )  # fmt: skip


__all__ = ["GuestState", "NtpSeen", "States"]
