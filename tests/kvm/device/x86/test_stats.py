from __future__ import annotations

import pytest

from guestclock.kvm import api
from guestclock.kvm.device.stats import Stats
from guestclock.kvm.device.x86 import X86DeviceKvm


@pytest.mark.kvm
def test_kvm_counts_what_a_vcpu_does(kvm: X86DeviceKvm) -> None:
    kvm.execute(api.CreateVm())
    kvm.execute(api.CreateVcpu(0))
    vcpu = kvm.vcpu(api.Run(0, 0, ()))
    stats = Stats(vcpu.fd)
    before = stats.read("halt_exits")
    if before is None:
        pytest.skip("this kernel has no binary statistics (before 5.14)")
    for _ in range(3):
        kvm.execute(api.Run(0, 0, (api.ReadClocks(),)))
    assert stats.read("halt_exits") == before + 3
    assert stats.read("exits") is not None
    assert stats.read("no such thing") is None
    stats.close()
    assert stats.read("exits") is None


def test_where_kvm_has_no_statistics_nothing_is_known() -> None:
    assert Stats(-1).read("exits") is None
