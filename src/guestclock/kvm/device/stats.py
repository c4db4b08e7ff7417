"""What KVM counts of a vCPU, as KVM_GET_STATS_FD tells it: exits, emulated instructions, ..."""

from __future__ import annotations

import os

from guestclock.abi import ioctl as abi
from guestclock.abi.stats import KvmStatsDesc, KvmStatsHeader
from guestclock.kvm.device.ioctls import IoctlError, call


class Stats:
    """A vCPU's statistics. Kernels before 5.14 have none: then `read` knows nothing."""

    def __init__(self, vcpu_fd: int) -> None:
        self._fd = -1
        self._at: dict[str, int] = {}
        """Where in the file each value is."""
        try:
            self._fd = call(vcpu_fd, abi.KVM_GET_STATS_FD).value
        except IoctlError:
            return
        header = KvmStatsHeader.unpack(os.pread(self._fd, KvmStatsHeader.SIZE, 0))
        size = KvmStatsDesc.FIXED + header.name_size
        raw = os.pread(self._fd, size * header.num_desc, header.desc_offset)
        for start in range(0, len(raw), size):
            desc = KvmStatsDesc.unpack(raw[start : start + size])
            if desc.size == 1:  # histograms say nothing of single events
                self._at[desc.name] = header.data_offset + desc.offset

    def read(self, name: str) -> int | None:
        """One value; None where this kernel or this architecture does not count it."""
        if name not in self._at:
            return None
        return int.from_bytes(os.pread(self._fd, 8, self._at[name]), "little")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd, self._at = -1, {}
