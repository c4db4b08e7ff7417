"""Every byte of machine code, disassembled: what the guest and the native calls really do."""

from __future__ import annotations

import capstone
import pytest

from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.kvm.device import native
from guestclock.kvm.device.x86 import guest


def disassemble(code: bytes, bits: int) -> list[str]:
    """Instructions as text, jump targets as label names where they are the guest's."""
    machine = capstone.Cs(capstone.CS_ARCH_X86, bits)
    listing = list(machine.disasm(code, 0))
    assert sum(i.size for i in listing) == len(code), "capstone stopped before the end"
    names = {f"{hex(at) if at > 9 else at}": name for name, at in guest.LABELS.items()}
    lines = []
    for i in listing:
        operand = i.op_str
        if i.mnemonic.startswith(("j", "call")) and bits == capstone.CS_MODE_16:
            operand = names[operand]
        lines.append(f"{i.mnemonic} {operand}".strip())
    return lines


PAGE_COPY = [
    line
    for offset in range(0, 32, 4)
    for line in (
        f"mov eax, dword ptr es:[di{f' + {hex(offset) if offset > 9 else offset}' if offset else ''}]",
        f"mov dword ptr [si + {hex(0x20 + offset)}], eax",
    )
]

GUEST = [
    ("start", ["mov si, 0x40"]),
    (
        "next",
        [
            "mov ax, word ptr [si]",
            "cmp al, 1", "je read",
            "cmp al, 2", "je wrmsr",
            "cmp al, 3", "je rdmsr",
            "cmp al, 4", "je clear",
            "cmp al, 5", "je spin",
            "hlt", "jmp start",
        ],
    ),
    ("read", ["call copy"]),
    ("done", ["add si, 0x40", "jmp next"]),
    (
        "wrmsr",
        [
            "mov ecx, dword ptr [si + 4]",
            "mov eax, dword ptr [si + 8]",
            "mov edx, dword ptr [si + 0xc]",
            "wrmsr", "jmp done",
        ],
    ),
    (
        "rdmsr",
        [
            "mov ecx, dword ptr [si + 4]",
            "rdmsr",
            "mov dword ptr [si + 0x18], eax",
            "mov dword ptr [si + 0x1c], edx",
            "jmp done",
        ],
    ),
    (
        "clear",
        [
            "les di, ptr [si + 4]",
            "mov al, byte ptr es:[di + 0x1d]",
            "mov byte ptr [si + 0x10], al",
            "test al, 2", "je done",
            "and al, 0xfd",
            "mov byte ptr es:[di + 0x1d], al",
            "jmp done",
        ],
    ),
    (
        "spin",
        [
            "call copy",
            "inc dword ptr [4]",
            "cmp dword ptr [0], 0", "je spin",
            "mov dword ptr [0], 0", "jmp start",
        ],
    ),
    ("fault", ["add sp, 6", "mov dword ptr [si + 0x14], 1", "jmp done"]),
    ("copy", ["les di, ptr [si + 4]", "xor ecx, ecx"]),
    (
        "again",
        [
            "mov ebx, dword ptr es:[di]",
            "and bl, 0xfe",
            "pushf", "push cs", "call return",
            "rdtsc",
            "mov dword ptr [si + 0x18], eax",
            "mov dword ptr [si + 0x1c], edx",
            *PAGE_COPY,
            "cmp ebx, dword ptr es:[di]", "je copied",
            "inc ecx", "jmp again",
        ],
    ),
    ("copied", ["mov dword ptr [si + 0x10], ecx", "ret"]),
    ("return", ["iret"]),
]  # fmt: skip


def test_the_guest_is_these_instructions() -> None:
    assert disassemble(guest.CODE, capstone.CS_MODE_16) == [line for _, lines in GUEST for line in lines]


def test_labels_are_where_the_listing_has_them() -> None:
    machine = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16)
    addresses = [i.address for i in machine.disasm(guest.CODE, 0)]
    at, expected = 0, {}
    for name, lines in GUEST:
        expected[name] = addresses[at]
        at += len(lines)
    assert expected == guest.LABELS


@pytest.mark.parametrize("at", range(0, len(guest.CODE), 7))
def test_the_comparison_sees_a_changed_byte(at: int) -> None:
    code = bytearray(guest.CODE)
    code[at] ^= 0x10
    with pytest.raises((AssertionError, KeyError)):
        assert disassemble(bytes(code), capstone.CS_MODE_16) == [line for _, lines in GUEST for line in lines]


def test_native_calls_are_these_instructions() -> None:
    stamp = ["lfence", "rdtsc", "shl rdx, 0x20", "or rax, rdx"]
    assert disassemble(native.X86_64["counter"], capstone.CS_MODE_64) == [*stamp, "ret"]
    assert disassemble(native.X86_64["sandwich"], capstone.CS_MODE_64) == [
        "mov r10, rcx", "mov r9, rdx",
        *stamp, "mov qword ptr [r10], rax",
        "mov rdx, r9", "mov eax, 0x10", "syscall", "mov r9, rax",
        *stamp, "mov qword ptr [r10 + 8], rax",
        "mov rax, r9", "ret",
    ]  # fmt: skip
    assert disassemble(native.X86_64["call"], capstone.CS_MODE_64) == [
        "push rbx", "mov rbx, rcx", "mov r9, rdx",
        *stamp, "mov qword ptr [rbx], rax",
        "mov rdx, r9", "xor eax, eax", "call r8", "mov r9, rax",
        *stamp, "mov qword ptr [rbx + 8], rax",
        "mov rax, r9", "pop rbx", "ret",
    ]  # fmt: skip
    assert disassemble(native.X86_64["ignore"], capstone.CS_MODE_64) == ["ret"]


def test_nothing_in_the_guests_memory_overlaps() -> None:
    assert guest.CODE_GPA + len(guest.CODE) <= guest.WALL_CLOCK_GPA
    assert guest.COMMANDS + (guest.MAX_COMMANDS + 1) * guest.COMMAND_SIZE <= guest.STACK_TOP - guest.COMMAND_SIZE
    assert guest.NO_PAGE + PvclockVcpuTimeInfo.SIZE <= guest.COMMANDS
    last = guest.MAX_VCPUS - 1
    assert guest.system_time_gpa(last) + guest.PAGE <= guest.MEMORY_SIZE
    assert guest.segment(last) << 4 == guest.mailbox_gpa(last)
    assert len({guest.system_time_gpa(i) & ~0xFFF for i in range(guest.MAX_VCPUS)}) == guest.MAX_VCPUS


def test_a_mailbox_gives_back_what_the_guest_left() -> None:
    memory = memoryview(bytearray(guest.MEMORY_SIZE))
    mailbox = guest.Mailbox(memory, 3)
    mailbox.put([mailbox.reader(guest.READ, guest.system_time_gpa(3)), guest.Command(guest.RDMSR, 0x10)])
    first, second = mailbox.take(2)
    assert (first.index >> 16) * 16 + (first.index & 0xFFFF) == guest.system_time_gpa(3)
    assert second == guest.Command(guest.RDMSR, 0x10)
    assert mailbox.take(3)[2].command == guest.HALT
    assert memory[guest.mailbox_gpa(3) + guest.STOP] == 1


def test_a_page_that_stays_odd_comes_back_odd() -> None:
    memory = memoryview(bytearray(64))
    odd = PvclockVcpuTimeInfo(3, 1, 2, 3, 0, 0)
    memory[32:64] = odd.pack()
    assert guest.read_page(memory, 32) == odd
