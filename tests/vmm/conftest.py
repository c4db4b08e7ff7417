from __future__ import annotations

from collections.abc import Iterator

import pytest

from guestclock.errors import UserError
from guestclock.kvm.device import open_device
from guestclock.kvm.device.x86 import X86DeviceKvm


@pytest.fixture
def kvm() -> Iterator[X86DeviceKvm]:
    """This machine's KVM; skips, with the reason, where none answers, or it is not x86's."""
    try:
        device = open_device(lambda event: None, trace=False)
    except UserError as missing:
        pytest.skip(str(missing))
    with device:
        if not isinstance(device, X86DeviceKvm):
            pytest.skip("not an x86-64 machine")
        yield device
