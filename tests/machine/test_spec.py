"""What a machine may be made of."""

from __future__ import annotations

from fractions import Fraction

import pytest

from guestclock.errors import UserError
from guestclock.machine import Arm64Spec, HostSpec


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tsc_khz": 0}, "host: tsc_khz: 0, expected 1 to 4294967295 kHz"),
        ({"tsc_khz": 2.5e6}, "host: tsc_khz: 2500000.0, expected"),
        ({"tsc_khz": "2596122"}, "host: tsc_khz: '2596122', expected"),
        ({"tsc_hz": 0}, "host: tsc_hz: 0, expected a positive"),
        ({"tsc_hz": 2.5e9}, "host: tsc_hz: 2500000000.0, expected a positive int or Fraction"),
        ({"cpus": 0}, "host: cpus: 0, expected 1 to 8192 CPUs"),
        ({"cpus": 2, "skew": (1,)}, "host: skew: 1 values, expected one per CPU (2)"),
        ({"clocksource": "hpte"}, "clocksource: unknown 'hpte' (did you mean 'hpet'?)"),
        ({"clocksources": ("tcs",)}, "clocksource: unknown 'tcs' (did you mean 'tsc'?)"),
        ({"clocksources": ()}, "host: clocksources: nothing to fall back to, expected one besides 'tsc'"),
        ({"tsc_unstable": True}, "host: clocksource: 'tsc', expected another one where tsc_unstable is set"),
        ({"hz": 60}, "host: hz: 60, expected one of 100, 250, 300, 1000"),
        ({"tsc_scaling": "VMX"}, "host: tsc_scaling: 'VMX', expected 'vmx', 'svm' or nothing"),
        ({"tsc_tolerance_ppm": -1}, "host: tsc_tolerance_ppm: -1, expected 0 to 1000000 ppm"),
        (
            {"tsc_at_start": 2**64},
            "host: tsc_at_start: 18446744073709551616, expected 0 to 18446744073709551615 cycles",
        ),
        ({"realtime_ns": 5}, "host: realtime_ns: 5, expected"),
        ({"rtc_grain_ns": -1}, "host: rtc_grain_ns: -1, expected"),
    ],
)
def test_what_cannot_be_is_refused_at_once_in_one_line(wrong, message):
    with pytest.raises(UserError) as told:
        HostSpec(**wrong)
    assert str(told.value).startswith(message)
    assert "\n" not in str(told.value)


def test_the_ordinary_server():
    spec = HostSpec()
    assert (spec.tsc_khz, spec.true_hz, spec.clocksource, spec.constant_tsc) == (2_596_122, 2_596_122_000, "tsc", True)
    assert spec.first_tsc == 1000 * 2_596_122_000
    assert not spec.has_tsc_control


def test_fields_are_given_by_name_and_do_not_change():
    with pytest.raises(TypeError):
        HostSpec(2_596_122)
    with pytest.raises(AttributeError):
        HostSpec().tsc_khz = 1


def test_a_true_rate_may_be_a_fraction():
    assert HostSpec(tsc_hz=Fraction(10**10, 3)).true_hz == Fraction(10**10, 3)


@pytest.mark.parametrize(
    ("scaling", "bits", "ratio", "khz"),
    [(None, 0, 0, 0), ("vmx", 48, 2**64 - 1, 2**31 - 1), ("svm", 32, 2**40 - 1, 256 * 2_596_122 - 1)],
)
def test_scaling(scaling, bits, ratio, khz):
    spec = HostSpec(tsc_scaling=scaling)
    assert (spec.tsc_scaling_frac_bits, spec.max_tsc_scaling_ratio) == (bits, ratio)
    assert spec.max_guest_tsc_khz == khz
    assert spec.has_tsc_control == (scaling is not None)


def test_the_clocksource_in_use_is_one_of_those_to_choose_from():
    assert HostSpec(clocksource="kvm-clock").all_clocksources == ("tsc", "hpet", "kvm-clock")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"counter_hz": 1000}, "host: counter_hz: 1000, expected 1000000 to 4294967295 Hz"),
        ({"counter_hz": 62.5e6}, "host: counter_hz: 62500000.0, expected"),
        ({"true_hz": 0}, "host: true_hz: 0, expected a positive int or Fraction, ticks per second"),
        ({"true_hz": 2.5}, "host: true_hz: 2.5, expected a positive"),
        ({"counter_at_start": 2**64}, "host: counter_at_start: 18446744073709551616, expected 0 to"),
        ({"cpus": 0}, "host: cpus: 0, expected 1 to 8192 CPUs"),
        ({"vhe": 1}, "host: vhe: 1, expected true or false"),
        ({"ecv": "yes"}, "host: ecv: 'yes', expected true or false"),
        ({"hz": 60}, "host: hz: 60, expected one of 100, 250, 300, 1000"),
        ({"uptime_ns": -1}, "host: uptime_ns: -1, expected 0 to"),
        ({"realtime_ns": 5}, "host: realtime_ns: 5, expected"),
    ],
)
def test_what_cannot_be_on_arm64_is_refused_too(wrong, message):
    with pytest.raises(UserError) as told:
        Arm64Spec(**wrong)
    assert str(told.value).startswith(message)


def test_an_arm64_counter_counts_from_power_on_unless_told():
    assert Arm64Spec(uptime_ns=2 * 10**9).first_counter == 125_000_000
    assert Arm64Spec(counter_at_start=5).first_counter == 5
