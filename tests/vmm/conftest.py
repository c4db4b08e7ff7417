from __future__ import annotations

from collections.abc import Iterator

import pytest

from guestclock.errors import UserError
from guestclock.kvm.device import DeviceKvm


@pytest.fixture
def kvm() -> Iterator[DeviceKvm]:
    """This machine's KVM; skips, with the reason, where none answers."""
    try:
        device = DeviceKvm(lambda event: None, trace=False)
    except UserError as missing:
        pytest.skip(str(missing))
    with device:
        yield device
