"""Layouts of KVM's ioctl arguments on x86-64, as far as clocks and a tiny guest need them.

Source: include/uapi/linux/kvm.h, arch/x86/include/uapi/asm/kvm.h.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from struct import Struct, unpack_from
from typing import ClassVar

_CLOCK_DATA = Struct("<QIIQQ16x")
_MSRS = Struct("<IIIIQ")
_REGS = Struct("<18Q")
_REGION = Struct("<IIQQQ")
_DEVICE_ATTR = Struct("<IIQQ")
_SEGMENT = Struct("<QIH10B")
_CONTROL = Struct("<6Q")
"""cr0, cr2, cr3, cr4, cr8, efer."""

U32_MAX = 2**32 - 1
_CODE_READ_ACCESSED, _DATA_WRITE_ACCESSED = 11, 3
_CR0_LONG_MODE = 0x8001_0033
"""PG, WP, NE, ET, MP, PE."""
_CR4_PAE = 1 << 5
_EFER_LONG_MODE = 1 << 8 | 1 << 10
"""LME, LMA."""


@dataclass(frozen=True, slots=True)
class KvmClockData:
    """struct kvm_clock_data, 48 bytes: clock u64 ns, flags u32, realtime u64 ns, host_tsc u64."""

    clock: int
    flags: int = 0
    realtime: int = 0
    host_tsc: int = 0

    SIZE: ClassVar[int] = _CLOCK_DATA.size

    def pack(self) -> bytes:
        return _CLOCK_DATA.pack(self.clock, self.flags, 0, self.realtime, self.host_tsc)

    @classmethod
    def unpack(cls, raw: bytes) -> KvmClockData:
        clock, flags, _, realtime, host_tsc = _CLOCK_DATA.unpack(raw)
        return cls(clock, flags, realtime, host_tsc)


@dataclass(frozen=True, slots=True)
class KvmOneMsr:
    """struct kvm_msrs with one struct kvm_msr_entry: index u32, data u64."""

    index: int
    data: int = 0

    SIZE: ClassVar[int] = _MSRS.size

    def pack(self) -> bytes:
        return _MSRS.pack(1, 0, self.index, 0, self.data)

    @classmethod
    def unpack(cls, raw: bytes) -> KvmOneMsr:
        _, _, index, _, data = _MSRS.unpack(raw)
        return cls(index, data)


@dataclass(frozen=True, slots=True)
class KvmRegs:
    """struct kvm_regs, 144 bytes, all u64. rflags bit 1 is always 1."""

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = 2

    SIZE: ClassVar[int] = _REGS.size

    def pack(self) -> bytes:
        return _REGS.pack(*(getattr(self, f.name) for f in fields(self)))

    @classmethod
    def unpack(cls, raw: bytes) -> KvmRegs:
        return cls(*_REGS.unpack(raw))


class KvmSregs:
    """struct kvm_sregs, 312 bytes, changed in place: what is not set stays as the reset left it."""

    SIZE: ClassVar[int] = 312
    SEGMENTS: ClassVar[dict[str, int]] = {name: 24 * i for i, name in enumerate(("cs", "ds", "es", "fs", "gs", "ss"))}
    CR0_OFFSET: ClassVar[int] = 24 * 8 + 16 * 2

    def __init__(self, raw: bytes) -> None:
        assert len(raw) == self.SIZE
        self._raw = bytearray(raw)

    def set_real_mode_segment(self, name: str, selector: int) -> None:
        """What loading `selector` in real mode does: base selector * 16; limit and access rights stay."""
        offset = self.SEGMENTS[name]
        base, limit, _, *rights = _SEGMENT.unpack_from(self._raw, offset)
        base = selector << 4
        _SEGMENT.pack_into(self._raw, offset, base, limit, selector, *rights)

    def set_long_mode(self, page_tables: int, ring: int) -> None:
        """64-bit code and flat data, in ring 0 or 3. No GDT and no IDT: nothing may load a segment, nothing may fault.

        page_tables: guest physical address of the PML4. Source: Intel SDM vol. 3A 3.4.5, 10.8.5.
        """
        rights = (1, ring, 0, 1, 1, 1, 0, 0, 0)  # present, dpl, db, s, l, g, avl, unusable, padding
        _SEGMENT.pack_into(self._raw, self.SEGMENTS["cs"], 0, U32_MAX, 0x08 | ring, _CODE_READ_ACCESSED, *rights)
        rights = (1, ring, 1, 1, 0, 1, 0, 0, 0)
        for name in ("ds", "es", "fs", "gs", "ss"):
            _SEGMENT.pack_into(self._raw, self.SEGMENTS[name], 0, U32_MAX, 0x10 | ring, _DATA_WRITE_ACCESSED, *rights)
        _CONTROL.pack_into(self._raw, self.CR0_OFFSET, _CR0_LONG_MODE, 0, page_tables, _CR4_PAE, 0, _EFER_LONG_MODE)

    def segment(self, name: str) -> tuple[int, int, int]:
        """(base, limit, selector)."""
        base, limit, selector, *_ = _SEGMENT.unpack_from(self._raw, self.SEGMENTS[name])
        return base, limit, selector

    def pack(self) -> bytes:
        return bytes(self._raw)


@dataclass(frozen=True, slots=True)
class KvmUserspaceMemoryRegion:
    """struct kvm_userspace_memory_region, 32 bytes."""

    slot: int
    guest_phys_addr: int
    memory_size: int
    userspace_addr: int
    flags: int = 0

    SIZE: ClassVar[int] = _REGION.size

    def pack(self) -> bytes:
        return _REGION.pack(self.slot, self.flags, self.guest_phys_addr, self.memory_size, self.userspace_addr)


@dataclass(frozen=True, slots=True)
class KvmDeviceAttr:
    """struct kvm_device_attr, 24 bytes. addr: where the value is in this process, u64."""

    group: int
    attr: int
    addr: int
    flags: int = 0

    SIZE: ClassVar[int] = _DEVICE_ATTR.size

    def pack(self) -> bytes:
        return _DEVICE_ATTR.pack(self.flags, self.group, self.attr, self.addr)


class KvmRun:
    """Offsets in struct kvm_run, the page shared with the kernel by mmap of a vCPU."""

    IMMEDIATE_EXIT: ClassVar[int] = 1
    EXIT_REASON: ClassVar[int] = 8
    IF_FLAG: ClassVar[int] = 13
    FLAGS: ClassVar[int] = 14
    CR8: ClassVar[int] = 16
    APIC_BASE: ClassVar[int] = 24
    UNION: ClassVar[int] = 32
    INTERNAL_SUBERROR: ClassVar[int] = 32
    FAIL_ENTRY_REASON: ClassVar[int] = 32

    @staticmethod
    def exit_reason(page: bytes) -> int:
        return int(unpack_from("<I", page, KvmRun.EXIT_REASON)[0])


@dataclass(frozen=True, slots=True)
class HvReferenceTscPage:
    """Hyper-V's reference TSC page, the fields at its beginning: sequence u32 (0: invalid), scale u64, offset s64.

    Reference time in 100 ns = ((tsc * scale) >> 64) + offset. Source: include/hyperv/hvgdk.h ms_hyperv_tsc_page.
    """

    sequence: int
    scale: int
    offset: int

    _LAYOUT: ClassVar[Struct] = Struct("<IIQq")
    SIZE: ClassVar[int] = _LAYOUT.size

    def pack(self) -> bytes:
        return self._LAYOUT.pack(self.sequence, 0, self.scale, self.offset)

    @classmethod
    def unpack(cls, raw: bytes) -> HvReferenceTscPage:
        sequence, _, scale, offset = cls._LAYOUT.unpack(raw)
        return cls(sequence, scale, offset)


KVM_XEN_ATTR_TYPE_SHARED_INFO = 1


def pack_xen_shared_info(gfn: int) -> bytes:
    """struct kvm_xen_hvm_attr, 72 bytes, of type SHARED_INFO: the guest frame of the page, u64."""
    return Struct("<H6xQ56x").pack(KVM_XEN_ATTR_TYPE_SHARED_INFO, gfn)
