"""Clocksources: a counter's rate as the kernel registers it, and what the vDSO and KVM may do with it."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from guestclock.arith import U64_MAX
from guestclock.errors import UserError

VCLOCK_NONE, VCLOCK_TSC, VCLOCK_PVCLOCK, VCLOCK_HVCLOCK = range(4)
"""vdso_clock_mode on x86."""
VCLOCK_ARCHTIMER = 1
"""... and on arm64, where there is only this and none."""

_NSEC_PER_SEC = 1_000_000_000
_MASK_32 = 2**32 - 1

HPET_HZ = 14_318_180
KVM_CLOCK_HZ = 1_000_000_000
HYPERV_HZ = 10_000_000


@dataclass(frozen=True, slots=True)
class Clocksource:
    """struct clocksource, as far as time depends on it.

    name: as in current_clocksource. freq, scale: registered at freq * scale Hz (scale 1000: by kHz). mult (u32) and
    shift: ns = (cycles * mult) >> shift. mask: of the counter's width. rating: the highest valid one is chosen.
    vclock_mode: VCLOCK_*, what may read it without the kernel; KVM's masterclock needs TSC or HVCLOCK.
    """

    name: str
    freq: int
    scale: int
    mult: int
    shift: int
    mask: int
    rating: int
    vclock_mode: int

    @property
    def max_raw_delta(self) -> int:
        """The longest step forward the accumulating side believes, cycles; beyond it, the counter went backwards.

        7/8 of the counter's range since 6.13 (76031d9536a0, and stable 6.12); 1/2 before.
        """
        return (self.mask >> 1) + (self.mask >> 2) + (self.mask >> 3)

    @property
    def max_cycles(self) -> int:
        """The longest delta whose product with mult (plus 11 % of slew) fits 64 bits; readers take 128 bits beyond."""
        cycles = U64_MAX // (self.mult + self.mult * 11 // 100)
        return cycles if cycles < self.mask else self.mask


# name: freq (None: the machine's TSC), scale, mask, rating, vclock mode. Linux reads 32 bits of an HPET, always.
CLOCKSOURCES: dict[str, tuple[int | None, int, int, int, int]] = {
    "tsc": (None, 1000, U64_MAX, 300, VCLOCK_TSC),
    "hpet": (HPET_HZ, 1, _MASK_32, 250, VCLOCK_NONE),
    "kvm-clock": (KVM_CLOCK_HZ, 1, U64_MAX, 400, VCLOCK_PVCLOCK),
    "hyperv": (HYPERV_HZ, 1, U64_MAX, 400, VCLOCK_HVCLOCK),
}


def clocksource(name: str, *, tsc_khz: int) -> Clocksource:
    """The clocksource of that name on a machine whose TSC was calibrated to tsc_khz.

    Raises UserError for a name that is not in CLOCKSOURCES.
    """
    if name not in CLOCKSOURCES:
        close = get_close_matches(name, CLOCKSOURCES, 1)
        meant = f" (did you mean {close[0]!r}?)" if close else ""
        raise UserError(f"clocksource: unknown {name!r}{meant}, expected one of {', '.join(CLOCKSOURCES)}")
    freq, scale, mask, rating, mode = CLOCKSOURCES[name]
    rate = tsc_khz if freq is None else freq
    mult, shift = mult_shift(rate, scale, mask)
    return Clocksource(name, rate, scale, mult, shift, mask, rating, mode)


_MIN_ROLLOVER_SECS = 40 * 365 * 24 * 3600


def arch_sys_counter(counter_hz: int) -> Clocksource:
    """arm64's clocksource: the system counter, registered at counter_hz Hz (u32).

    It is as wide as 40 years at that rate need, 56 bits at least.
    Source: drivers/clocksource/arm_arch_timer.c arch_counter_get_width(), arch_counter_register(), v6.12.
    """
    width = (_MIN_ROLLOVER_SECS * counter_hz - 1).bit_length()
    mask = (1 << (56 if width < 56 else width)) - 1
    mult, shift = mult_shift(counter_hz, 1, mask)
    return Clocksource("arch_sys_counter", counter_hz, 1, mult, shift, mask, 400, VCLOCK_ARCHTIMER)


def mult_shift(freq: int, scale: int, mask: int) -> tuple[int, int]:
    """(mult, shift) of a counter registered at freq * scale Hz.

    mask: of its width. A counter that wraps within 600 s needs to be converted without overflow only until then, so
    a narrow one gets a finer mult than a wide one of the same rate; for 56 bits and more this is
    `arith.clocksource_update_freq_scale()`.
    Source: kernel/time/clocksource.c __clocksource_update_freq_scale(), clocks_calc_mult_shift(), v6.12.
    """
    assert 0 < freq < 2**32, freq
    assert scale in (1, 1000), scale
    seconds = mask // freq // scale or 1
    if seconds > 600 and mask > _MASK_32:
        seconds = 600
    mult, shift = calc_mult_shift(freq, _NSEC_PER_SEC // scale, seconds * scale)
    while mult + mult * 11 // 100 > _MASK_32:
        mult >>= 1
        shift -= 1
    return mult, shift


def calc_mult_shift(from_hz: int, to_hz: int, seconds: int) -> tuple[int, int]:
    """(mult, shift) that turn a count at from_hz into one at to_hz: the finest that holds for so many seconds.

    Rates in one unit (both Hz, both kHz). mult is rounded to nearest.
    Source: kernel/time/clocksource.c clocks_calc_mult_shift(), v6.12.
    """
    room = 32 - (seconds * from_hz >> 32).bit_length()
    mult, shift = 0, 0
    for shift in range(32, 0, -1):
        mult = ((to_hz << shift) + from_hz // 2) // from_hz
        if mult >> room == 0:
            break
    return mult, shift
