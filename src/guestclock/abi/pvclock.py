"""The pvclock page and the wall clock: struct layouts of arch/x86/include/asm/pvclock-abi.h."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar

PVCLOCK_TSC_STABLE_BIT = 1
PVCLOCK_GUEST_STOPPED = 2

_TIME_INFO = Struct("<IIQQIbB2x")
_WALL_CLOCK = Struct("<III")


@dataclass(frozen=True, slots=True)
class PvclockVcpuTimeInfo:
    """struct pvclock_vcpu_time_info, 32 bytes.

    version: u32, odd while being written. tsc_timestamp: u64 guest TSC cycles. system_time: u64 ns.
    tsc_to_system_mul: u32. tsc_shift: s8. flags: u8 (1 TSC_STABLE, 2 GUEST_STOPPED).
    """

    version: int
    tsc_timestamp: int
    system_time: int
    tsc_to_system_mul: int
    tsc_shift: int
    flags: int

    SIZE: ClassVar[int] = _TIME_INFO.size

    def pack(self) -> bytes:
        return _TIME_INFO.pack(
            self.version, 0, self.tsc_timestamp, self.system_time, self.tsc_to_system_mul, self.tsc_shift, self.flags
        )

    @classmethod
    def unpack(cls, raw: bytes) -> PvclockVcpuTimeInfo:
        version, _, tsc_timestamp, system_time, mul, shift, flags = _TIME_INFO.unpack(raw)
        return cls(version, tsc_timestamp, system_time, mul, shift, flags)

    @property
    def stable(self) -> bool:
        return bool(self.flags & PVCLOCK_TSC_STABLE_BIT)


@dataclass(frozen=True, slots=True)
class PvclockWallClock:
    """struct pvclock_wall_clock, 12 bytes: version u32, sec u32 (wraps in 2106), nsec u32."""

    version: int
    sec: int
    nsec: int

    SIZE: ClassVar[int] = _WALL_CLOCK.size

    def pack(self) -> bytes:
        return _WALL_CLOCK.pack(self.version, self.sec, self.nsec)

    @classmethod
    def unpack(cls, raw: bytes) -> PvclockWallClock:
        return cls(*_WALL_CLOCK.unpack(raw))
