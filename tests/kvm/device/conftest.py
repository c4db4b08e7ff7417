from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from guestclock.errors import UserError
from guestclock.kvm.device import DeviceKvm, open_device
from guestclock.kvm.device.ioctls import open_kvm
from guestclock.sim.trace import Trace


def why_no_kvm() -> str | None:
    try:
        with open_device(lambda event: None, trace=False):
            return None
    except UserError as missing:
        return str(missing)


@pytest.fixture(scope="session")
def kvm_answers() -> None:
    """Skips, with the reason, where this machine has no KVM that answers."""
    reason = why_no_kvm()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def kvm_fd(kvm_answers: None) -> Iterator[int]:
    fd = open_kvm()
    yield fd
    os.close(fd)


@pytest.fixture
def trace() -> Trace:
    return Trace()


@pytest.fixture
def kvm(kvm_answers: None, trace: Trace) -> Iterator[DeviceKvm]:
    with open_device(trace.emit) as device:
        yield device
