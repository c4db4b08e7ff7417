"""How an x86 kernel learns what its TSC's rate is, and how wrong it can be.

A guest's timekeeper runs at the rate its kernel believes: an error of 1 kHz of 2.5 GHz is 0.4 us per second for good,
unless NTP makes up for it. Sources in the order in which they are asked; the first that answers is believed.
"""

from __future__ import annotations

from dataclasses import dataclass

from guestclock.arith import pvclock_tsc_khz
from guestclock.errors import UserError

PIT_ERROR_PPM = 500
"""quick_pit_calibrate() goes on until the error it can see is below this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TscSources:
    """What a kernel can ask.

    tsc_early_khz: the kernel parameter, kHz. hyperv_hz: MSR 0x40000022, Hz. kvmclock: (tsc_to_system_mul, tsc_shift)
    of the page. cpuid_15: (denominator, numerator, crystal in Hz); cpuid_16_mhz: base frequency; both are heard on
    Intel alone (`intel`). msr_khz: Atoms' MSR_PLATFORM_INFO. pit_khz: what the PIT or HPET gave: the true rate with
    an error of up to PIT_ERROR_PPM. refined_khz: what the second of refinement gave. 0 or None: not there.
    """

    tsc_early_khz: int = 0
    hyperv_hz: int = 0
    kvmclock: tuple[int, int] | None = None
    intel: bool = True
    cpuid_15: tuple[int, int, int] | None = None
    cpuid_16_mhz: int = 0
    msr_khz: int = 0
    pit_khz: int = 0
    refined_khz: int = 0


@dataclass(frozen=True, slots=True)
class Learnt:
    """khz, which source said so, and whether it counts as known: then no refinement changes it."""

    khz: int
    by: str
    known: bool


def tsc_khz(sources: TscSources) -> Learnt:
    """What the kernel runs with, after the refinement a second after boot.

    Raises UserError where nothing answers: such a kernel marks its TSC unstable ("could not calculate TSC khz").
    Source: arch/x86/kernel/tsc.c determine_cpu_tsc_frequencies(), tsc_refine_calibration_work(), kvmclock.c, v6.12.
    """
    early = _early(sources)
    if early is None:
        raise UserError("tsc_khz: no source answers, expected kvmclock, CPUID, an MSR or a calibration")
    refined = sources.refined_khz
    apart = refined - early.khz
    apart = -apart if apart < 0 else apart
    if early.known or not refined or apart > early.khz // 100:
        return early
    return Learnt(refined, "refined", False)


def _early(sources: TscSources) -> Learnt | None:
    if sources.tsc_early_khz:
        return Learnt(sources.tsc_early_khz, "tsc_early_khz", False)
    if sources.hyperv_hz:
        return Learnt(sources.hyperv_hz // 1000, "hyperv", True)
    if sources.kvmclock is not None:
        return Learnt(pvclock_tsc_khz(*sources.kvmclock), "kvmclock", True)
    khz, known = native_calibrate_tsc(sources)
    if khz:
        return Learnt(khz, "cpuid", known)
    if sources.msr_khz:
        return Learnt(sources.msr_khz, "msr", True)
    if sources.pit_khz:
        return Learnt(sources.pit_khz, "pit", False)
    return None


def native_calibrate_tsc(sources: TscSources) -> tuple[int, bool]:
    """(kHz by CPUID 0x15 and 0x16, or 0; whether it is the hardware's own word).

    The crystal is cut to whole kHz before it is multiplied. Where it is not told, it is reckoned from the base
    frequency, which is in whole MHz, and cut to kHz: 24 MHz * 216 / 2 comes out as 2 599 992 kHz, and is refined later.
    """
    if not sources.intel or sources.cpuid_15 is None:
        return 0, False
    denominator, numerator, crystal_hz = sources.cpuid_15
    if denominator == 0 or numerator == 0:
        return 0, False
    crystal_khz, known = crystal_hz // 1000, crystal_hz >= 1000
    if crystal_khz == 0:
        crystal_khz = sources.cpuid_16_mhz * 1000 * denominator // numerator
    return crystal_khz * numerator // denominator, known and crystal_khz != 0
