"""Sequences of TSC writes that turn the masterclock on and off (kvm-x86.md 9.3): bookkeeping that even a host shows
which ignores the offsets themselves.

The probe is KVM_SET_CLOCK, which takes a new snapshot and decides, then KVM_GET_CLOCK's flags: 14 on, 0 off.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from guestclock.abi import ioctl as abi
from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import CreateVcpu, CreateVm, GetClock, GetTscKhz, KvmError, SetClock, SetMsr, SetTscOffset
from guestclock.kvm.device.x86 import X86DeviceKvm

pytestmark = pytest.mark.kvm

A, B = 0, 1


class Pair:
    """Two vCPUs that never run."""

    def __init__(self, kvm: X86DeviceKvm, vcpus: int = 2) -> None:
        self.kvm = kvm
        self.vm: int = kvm.execute(CreateVm())
        for _ in range(vcpus):
            self.create()
        self.khz: int = kvm.execute(GetTscKhz(self.vm, A))

    def create(self) -> None:
        self.kvm.execute(CreateVcpu(self.vm))

    def on(self) -> bool:
        self.kvm.execute(SetClock(self.vm, 10**9))
        return bool(self.kvm.execute(GetClock(self.vm)).flags & abi.KVM_CLOCK_TSC_STABLE)

    def tsc(self, vcpu: int, seconds: float) -> bool:
        self.kvm.execute(SetMsr(self.vm, vcpu, MSR_IA32_TSC, int(seconds * self.khz * 1000)))
        return self.on()

    def offset(self, vcpu: int, cycles: int) -> bool:
        self.kvm.execute(SetTscOffset(self.vm, vcpu, cycles))
        return self.on()


@pytest.fixture
def pair(kvm: X86DeviceKvm) -> Callable[..., Pair]:
    if not Pair(kvm).on():
        pytest.skip("this host gives guests no masterclock (clocksource is not tsc)")
    return lambda vcpus=2: Pair(kvm, vcpus)


def test_values_within_a_second_of_where_the_last_one_should_be_match(pair: Callable[..., Pair]) -> None:
    p = pair()
    told = [p.on(), p.tsc(A, 5), p.tsc(B, 5.5), p.tsc(B, 7), p.tsc(A, 6.5), p.tsc(B, 0), p.tsc(A, 7)]
    assert told == [True, False, True, False, True, True, False]


def test_a_young_first_write_opens_a_generation_since_6_7_and_matched_before(pair: Callable[..., Pair]) -> None:
    p = pair()
    told = [p.tsc(A, 0.25), p.tsc(B, 0.25)]
    assert told in ([False, True], [True, True])


def test_a_creation_between_two_equal_writes_spoils_the_match(pair: Callable[..., Pair]) -> None:
    """The new vCPU's write of 0 is what the next value is compared with (kvm-x86.md 3.1)."""
    p = pair(1)
    alone = p.tsc(A, 5)
    p.create()
    assert [alone, p.tsc(B, 5.01)] == [True, False]


def test_offsets_match_only_the_last_one_written(pair: Callable[..., Pair]) -> None:
    p = pair()
    try:
        told = [p.offset(A, 123), p.offset(B, 123), p.offset(B, 124), p.offset(A, 124)]
    except KvmError as refusal:
        pytest.skip(f"no KVM_VCPU_TSC_OFFSET before 5.16 ({refusal})")
    assert told == [False, True, False, True]
