from __future__ import annotations

from collections.abc import Iterator

import pytest

from guestclock.kvm.device import open_device
from guestclock.kvm.device.x86 import X86DeviceKvm
from guestclock.sim.trace import Trace


@pytest.fixture(scope="session")
def x86_answers(kvm_answers: None) -> None:
    """Skips where the KVM that answers is not an x86-64 machine's."""
    with open_device(lambda event: None, trace=False) as device:
        if not isinstance(device, X86DeviceKvm):
            pytest.skip("not an x86-64 machine")


@pytest.fixture
def kvm(x86_answers: None, trace: Trace) -> Iterator[X86DeviceKvm]:
    with X86DeviceKvm(trace.emit) as device:
        yield device
