"""struct timekeeper field by field, as it lies in memory after a write section, and what must hold of it.

A snapshot of a guest, or a timekeeper frozen for a migration, is this and the vDSO's data (`linux.readout`).
"""

from __future__ import annotations

from dataclasses import dataclass

from guestclock.linux.accumulation import NSEC_PER_SEC
from guestclock.linux.ntp import NTP_SCALE_SHIFT
from guestclock.linux.timekeeper import Timekeeper

Timespec = tuple[int, int]
"""(s, ns), ns from 0 to below 10^9."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseImage:
    """struct tk_read_base: clock, cycle_last, mult, shift, xtime_nsec (ns << shift), base and base_real (ns)."""

    clock: str
    cycle_last: int
    mult: int
    shift: int
    xtime_nsec: int
    base_ns: int
    base_real_ns: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """struct timekeeper, v6.12; next_leap_ns: MONOTONIC at which a second will be inserted, None: KTIME_MAX."""

    tkr_mono: BaseImage
    tkr_raw: BaseImage
    xtime_sec: int
    ktime_sec: int
    wall_to_monotonic: Timespec
    offs_real_ns: int
    offs_boot_ns: int
    offs_tai_ns: int
    tai_offset: int
    clock_was_set_seq: int
    cs_was_changed_seq: int
    next_leap_ns: int | None
    raw_sec: int
    monotonic_to_boot: Timespec
    cycle_interval: int
    xtime_interval: int
    xtime_remainder: int
    raw_interval: int
    ntp_tick: int
    ntp_error: int
    ntp_error_shift: int
    ntp_err_mult: int
    skip_second_overflow: bool


def image(tk: Timekeeper) -> Image:
    """What the kernel's fields hold where the model keeps sums.

    xtime is REALTIME at cycle_last, in seconds and shifted nanoseconds; MONOTONIC is xtime + wall_to_monotonic, and of
    that the part without xtime's nanoseconds is tkr_mono.base. Nothing is rounded on the way.
    """
    shift, name = tk.clock.shift, tk.clock.name
    wtm = timespec(-tk.offs_real_ns)
    xtime_sec, xtime_nsec = tk.xtime_sec, tk.xtime_nsec
    seconds = xtime_sec + wtm[0]
    base_ns = seconds * NSEC_PER_SEC + wtm[1]
    raw_sec = tk.raw_snsec // tk.second_snsec
    leap_ns = tk.ntp.next_leap_ns()
    return Image(
        tkr_mono=BaseImage(
            clock=name,
            cycle_last=tk.cycle_last,
            mult=tk.mono_mult,
            shift=shift,
            xtime_nsec=xtime_nsec,
            base_ns=base_ns,
            base_real_ns=base_ns + tk.offs_real_ns,
        ),
        tkr_raw=BaseImage(
            clock=name,
            cycle_last=tk.cycle_last,
            mult=tk.raw_mult,
            shift=shift,
            xtime_nsec=tk.raw_snsec - raw_sec * tk.second_snsec,
            base_ns=raw_sec * NSEC_PER_SEC,
        ),
        xtime_sec=xtime_sec,
        ktime_sec=seconds + (1 if wtm[1] + (xtime_nsec >> shift) >= NSEC_PER_SEC else 0),
        wall_to_monotonic=wtm,
        offs_real_ns=tk.offs_real_ns,
        offs_boot_ns=tk.offs_boot_ns,
        offs_tai_ns=tk.offs_tai_ns,
        tai_offset=tk.tai_offset,
        clock_was_set_seq=tk.clock_was_set_seq,
        cs_was_changed_seq=tk.cs_was_changed_seq,
        next_leap_ns=None if leap_ns is None else leap_ns - tk.offs_real_ns,
        raw_sec=raw_sec,
        monotonic_to_boot=timespec(tk.offs_boot_ns),
        cycle_interval=tk.cycle_interval,
        xtime_interval=tk.cycle_interval * tk.mono_mult,
        xtime_remainder=tk.xtime_remainder,
        raw_interval=tk.cycle_interval * tk.raw_mult,
        ntp_tick=tk.ntp_tick,
        ntp_error=tk.ntp_error,
        ntp_error_shift=NTP_SCALE_SHIFT - shift,
        ntp_err_mult=tk.ntp_err_mult,
        skip_second_overflow=tk.skip_second_overflow,
    )


def broken(image: Image) -> tuple[str, ...]:
    """Which of the identities E1 to E8 an image breaks, by name; none of a sound one, whoever made it.

    E9 (sequences even, the tick's copy equal) is about more than one object: `linux.readout`.
    """
    mono, raw = image.tkr_mono, image.tkr_raw
    wtm_sec, wtm_nsec = image.wall_to_monotonic
    holds = {
        "E1": image.offs_real_ns == -(wtm_sec * NSEC_PER_SEC + wtm_nsec) and 0 <= wtm_nsec < NSEC_PER_SEC,
        "E2": image.offs_tai_ns == image.offs_real_ns + image.tai_offset * NSEC_PER_SEC,
        "E3": image.monotonic_to_boot == timespec(image.offs_boot_ns),
        "E4": mono.base_ns == (image.xtime_sec + wtm_sec) * NSEC_PER_SEC + wtm_nsec,
        "E5": raw.base_ns == image.raw_sec * NSEC_PER_SEC and mono.base_real_ns == mono.base_ns + image.offs_real_ns,
        "E6": mono.cycle_last == raw.cycle_last,
        "E7": 0 <= mono.xtime_nsec < NSEC_PER_SEC << mono.shift,
        "E8": image.xtime_interval == image.cycle_interval * mono.mult,
    }
    return tuple(name for name, held in holds.items() if not held)


def timespec(ns: int) -> Timespec:
    """ns as a normalised struct timespec64."""
    sec = ns // NSEC_PER_SEC
    return sec, ns - sec * NSEC_PER_SEC
