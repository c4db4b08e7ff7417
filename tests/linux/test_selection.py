"""TSC or kvm-clock: who is chosen, on whose word, and who is dropped later."""

from __future__ import annotations

import pytest

from guestclock.errors import UserError
from guestclock.linux import clocksource
from guestclock.linux.frequency import PIT_ERROR_PPM, Learnt, TscSources, native_calibrate_tsc, tsc_khz
from guestclock.linux.selection import MARGIN_NS, ClocksourceWatchdog, TscTrust, choose

KHZ = 2_596_122
TSC, KVM, HPET = (clocksource(name, tsc_khz=KHZ) for name in ("tsc", "kvm-clock", "hpet"))


@pytest.mark.parametrize(
    ("invtsc", "unstable", "chosen"),
    [(True, False, "tsc"), (False, False, "kvm-clock"), (True, True, "kvm-clock"), (False, True, "kvm-clock")],
)
def test_an_invariant_tsc_is_what_makes_a_guest_leave_kvm_clock(invtsc, unstable, chosen):
    trust = TscTrust(constant=invtsc, nonstop=invtsc)
    ratings = {"kvm-clock": trust.kvm_clock_rating(unstable)} | ({"tsc": 0} if unstable else {})
    assert choose([HPET, TSC, KVM], ratings).name == chosen


def test_a_tsc_found_unstable_later_hands_over_to_kvm_clock_at_its_low_rating():
    ratings = {"kvm-clock": TscTrust().kvm_clock_rating(), "tsc": 0}
    assert ratings["kvm-clock"] == 299
    assert choose([HPET, TSC, KVM], ratings).name == "kvm-clock"
    assert choose([HPET, TSC], {"tsc": 0}).name == "hpet"


def test_the_command_line_overrides_ratings_but_not_instability():
    assert choose([HPET, TSC, KVM], {}, override="hpet").name == "hpet"
    assert choose([HPET, TSC, KVM], {"tsc": 0}, override="tsc").name == "kvm-clock"


def test_whom_the_watchdog_watches():
    assert not TscTrust().watched
    assert TscTrust(tsc_adjust=False).watched, "QEMU's guests without CPUID 7.0 EBX bit 1"
    assert TscTrust(packages=5).watched
    assert not TscTrust(packages=5, reliable=True).watched
    assert TscTrust(constant=False, nonstop=False, intel=False, packages=2).unsynchronized
    assert not TscTrust(constant=False, nonstop=False, packages=2).unsynchronized


def looks(*pairs, **kw):
    """What the watchdog says of the TSC at each (TSC ns, kvm-clock ns)."""
    dog = ClocksourceWatchdog()
    return [dog.look(TSC, tsc * KHZ // 10**6, KVM, kvm, **kw) for tsc, kvm in pairs]


HALF = 500_000_000


def test_two_clocks_that_agree():
    assert looks((0, 0), (HALF, HALF), (2 * HALF, 2 * HALF + MARGIN_NS - 1000)) == ["begun", "ok", "ok"]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_tsc_that_is_off_by_more_than_both_margins_in_half_a_second(sign):
    """1000 ppm; one bit less and it stays. Once unstable, always."""
    off = sign * (MARGIN_NS + 1000)
    assert looks((0, 0), (HALF + off, HALF), (2 * HALF, 2 * HALF)) == ["begun", "unstable", "unstable"]


def test_a_jump_in_one_of_them_alone_is_not_judged_where_it_is_longer_than_a_second():
    """The host slept 600 s and only kvmclock tells (TSC reset, or hidden): skipped, and judged anew from there."""
    assert looks((0, 0), (HALF, HALF + 600 * 2 * HALF), (2 * HALF, 601 * 2 * HALF)) == ["begun", "skipped", "ok"]
    # A jump of 0.4 s is long enough to be seen, and short enough to be judged.
    assert looks((0, 0), (HALF, HALF + 400_000_000)) == ["begun", "unstable"]


def test_a_tsc_that_went_back_reads_as_no_time_at_all():
    assert looks((600 * 10**9, 0), (0, HALF)) == ["begun", "unstable"]


def test_guest_stopped_begins_anew():
    dog = ClocksourceWatchdog()
    dog.look(TSC, 0, KVM, 0)
    assert dog.look(TSC, 0, KVM, 400_000_000, touched=True) == "begun"
    assert dog.look(TSC, KHZ * 500, KVM, 900_000_000) == "begun"
    assert dog.look(TSC, KHZ * 1000, KVM, 1_400_000_000) == "ok"


# ---- what its rate is believed to be

PAGE = (0xC5379CA5, -1)  # 2 596 122 kHz


@pytest.mark.parametrize(
    ("sources", "learnt"),
    [
        (TscSources(kvmclock=PAGE, cpuid_15=(2, 216, 24_000_000)), Learnt(2_596_122, "kvmclock", True)),
        (TscSources(cpuid_15=(2, 216, 24_000_000)), Learnt(2_592_000, "cpuid", True)),
        # Skylake's client parts do not tell the crystal: 24.074 MHz comes out, and the refinement mends it.
        (TscSources(cpuid_15=(2, 216, 0), cpuid_16_mhz=2600), Learnt(2_599_992, "cpuid", False)),
        (
            TscSources(cpuid_15=(2, 216, 0), cpuid_16_mhz=2600, refined_khz=2_592_003),
            Learnt(2_592_003, "refined", False),
        ),
        (TscSources(cpuid_15=(2, 216, 24_000_000), refined_khz=2_592_003), Learnt(2_592_000, "cpuid", True)),
        (TscSources(intel=False, cpuid_15=(2, 216, 24_000_000), pit_khz=2_591_000), Learnt(2_591_000, "pit", False)),
        (TscSources(msr_khz=1_600_000, pit_khz=5), Learnt(1_600_000, "msr", True)),
        (TscSources(hyperv_hz=2_596_122_999, kvmclock=PAGE), Learnt(2_596_122, "hyperv", True)),
        (TscSources(tsc_early_khz=1_023_457, refined_khz=1_000_000), Learnt(1_023_457, "tsc_early_khz", False)),
        (TscSources(tsc_early_khz=1_000_003, refined_khz=1_000_000), Learnt(1_000_000, "refined", False)),
    ],
)
def test_who_is_believed(sources, learnt):
    assert tsc_khz(sources) == learnt


def test_through_kvmclock_only_even_rates_can_be_learnt_from_2_to_4_ghz():
    """An odd kHz on the host is 1 kHz less in the guest: at 2.5 GHz 0.4 us in every second, for good."""
    from guestclock.arith import kvm_get_time_scale

    for khz, expected in ((2_499_999, 2_499_998), (2_500_000, 2_500_000), (1_999_999, 1_999_999)):
        shift, mul = kvm_get_time_scale(10**9, khz * 1000)
        assert tsc_khz(TscSources(kvmclock=(mul, shift))).khz == expected


def test_a_calibration_by_the_pit_may_be_500_ppm_off():
    true = 2_596_122
    off = true * PIT_ERROR_PPM // 10**6
    assert tsc_khz(TscSources(pit_khz=true - off)).khz == true - off
    assert off == 1298


def test_a_kernel_that_nobody_tells():
    with pytest.raises(UserError, match="no source answers"):
        tsc_khz(TscSources())
    assert native_calibrate_tsc(TscSources(cpuid_15=(0, 216, 24_000_000))) == (0, False)
