"""KVM's binary statistics: the header, and one descriptor for each value, behind the file that KVM_GET_STATS_FD opens.

Source: include/uapi/linux/kvm.h struct kvm_stats_header, struct kvm_stats_desc, v6.12; since 5.14 (cb082bfab59a).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar

_HEADER = Struct("<6I")
_DESC = Struct("<IhHII")


@dataclass(frozen=True, slots=True)
class KvmStatsHeader:
    """struct kvm_stats_header, 24 bytes, all u32: how long names are, how many values there are, what begins where."""

    flags: int
    name_size: int
    num_desc: int
    id_offset: int
    desc_offset: int
    data_offset: int

    SIZE: ClassVar[int] = _HEADER.size

    @classmethod
    def unpack(cls, raw: bytes) -> KvmStatsHeader:
        return cls(*_HEADER.unpack(raw))


@dataclass(frozen=True, slots=True)
class KvmStatsDesc:
    """struct kvm_stats_desc, 16 bytes and the name: a value of `size` u64s, `offset` bytes behind the data's start.

    flags u32: type, unit and base. exponent s16: of the base. bucket_size u32: of a linear histogram.
    """

    flags: int
    exponent: int
    size: int
    offset: int
    bucket_size: int
    name: str

    FIXED: ClassVar[int] = _DESC.size

    @classmethod
    def unpack(cls, raw: bytes) -> KvmStatsDesc:
        """raw: the fixed part, and as many bytes of name as the header says, padded with zeros."""
        flags, exponent, size, offset, bucket_size = _DESC.unpack_from(raw)
        name = raw[_DESC.size :].split(b"\0", 1)[0].decode("ascii")
        return cls(flags, exponent, size, offset, bucket_size, name)
