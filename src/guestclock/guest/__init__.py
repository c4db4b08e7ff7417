"""What runs inside a guest: how its kernel turns the counter and the hypervisor's pages into time."""

from guestclock.guest.pvclock import (
    LastValue,
    PvclockReader,
    TimeInfo,
    WallClock,
    kvmclock_ns,
    read_kvmclock,
    tsc_khz,
    vdso_ns,
    wall_clock_ns,
)

__all__ = [
    "LastValue", "PvclockReader", "TimeInfo", "WallClock", "kvmclock_ns", "read_kvmclock", "tsc_khz", "vdso_ns",
    "wall_clock_ns",
]  # fmt: skip
