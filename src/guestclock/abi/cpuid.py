"""CPUID leaves that speak of time, and the entry of KVM_GET_SUPPORTED_CPUID / KVM_SET_CPUID2.

Source: arch/x86/include/uapi/asm/kvm.h struct kvm_cpuid_entry2, kvm_para.h; Intel SDM vol. 2A, AMD APM vol. 3.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from struct import Struct
from typing import ClassVar

KVM_CPUID_SIGNATURE = 0x4000_0000
KVM_CPUID_FEATURES = 0x4000_0001
KVM_SIGNATURE = b"KVMKVMKVM\0\0\0"

# bits of leaf 0x40000001, EAX
KVM_FEATURE_CLOCKSOURCE = 0
KVM_FEATURE_CLOCKSOURCE2 = 3
KVM_FEATURE_CLOCKSOURCE_STABLE_BIT = 24

# leaf 1: ECX bit 24 TSC_DEADLINE, EDX bit 4 TSC; leaf 7.0: EBX bit 1 TSC_ADJUST
X86_TSC = 4
X86_TSC_DEADLINE = 24
X86_TSC_ADJUST = 1
# leaf 0x80000001: EDX bit 27 RDTSCP; leaf 0x80000007: EDX bit 8 invariant TSC; leaf 0x8000000a: EDX bit 4 TSC scaling
X86_RDTSCP = 27
X86_INVARIANT_TSC = 8
SVM_TSC_RATE_MSR = 4

_HEADER = Struct("<II")
_ENTRY = Struct("<7I12x")


@dataclass(frozen=True, slots=True)
class CpuidEntry:
    """struct kvm_cpuid_entry2, 40 bytes: leaf, subleaf (valid with flags bit 0) and the four registers, all u32."""

    function: int
    index: int
    flags: int
    eax: int
    ebx: int
    ecx: int
    edx: int

    SIZE: ClassVar[int] = _ENTRY.size


def pack_cpuid(entries: Iterable[CpuidEntry], room: int | None = None) -> bytes:
    """struct kvm_cpuid2 with these entries; `room`: nent, when there is to be place for more (an answer)."""
    body = b"".join(_ENTRY.pack(e.function, e.index, e.flags, e.eax, e.ebx, e.ecx, e.edx) for e in entries)
    nent = len(body) // _ENTRY.size if room is None else room
    return _HEADER.pack(nent, 0) + body.ljust(nent * _ENTRY.size, b"\0")


def unpack_cpuid(raw: bytes) -> list[CpuidEntry]:
    """The entries of a struct kvm_cpuid2 that are valid (its nent)."""
    nent, _ = _HEADER.unpack_from(raw)
    return [CpuidEntry(*_ENTRY.unpack_from(raw, _HEADER.size + i * _ENTRY.size)) for i in range(nent)]


def find(entries: Iterable[CpuidEntry], function: int, index: int = 0) -> CpuidEntry | None:
    """The entry of a leaf and subleaf, or None where the leaf is not offered."""
    for entry in entries:
        if entry.function == function and (not entry.flags & 1 or entry.index == index):
            return entry
    return None
