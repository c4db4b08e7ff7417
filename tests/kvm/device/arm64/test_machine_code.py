"""Every word of machine code, disassembled: what the guest and the native calls really do."""

from __future__ import annotations

from struct import unpack_from

import capstone
import pytest

from guestclock.abi import arm64 as abi
from guestclock.kvm.device import native
from guestclock.kvm.device.arm64 import guest


def disassemble(code: bytes) -> list[str]:
    """Instructions as text, branch targets as label names where they are the guest's."""
    machine = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM)
    listing = list(machine.disasm(code, 0))
    assert 4 * len(listing) == len(code), "capstone stopped before the end"
    names = {f"#{at:#x}" if at > 9 else f"#{at}": name for name, at in guest.LABELS.items()}
    lines = []
    for i in listing:
        operands = i.op_str
        if i.mnemonic in ("b", "cbz", "adr") or i.mnemonic.startswith("b."):
            *registers, target = operands.split(", ")
            operands = ", ".join([*registers, names[target]])
        lines.append(f"{i.mnemonic} {operands}".strip())
    return lines


COUNTERS = ["isb", "mrs x4, cntvct_el0", "isb", "mrs x5, cntpct_el0", "isb", "mrs x6, cntvct_el0"]

GUEST = [
    ("start", ["nop"]),
    ("begin", ["add x21, x19, #0x40"]),
    (
        "next",
        [
            "ldr w9, [x21]",
            "cmp w9, #1", "b.eq read",
            "cmp w9, #2", "b.eq mrs",
            "cmp w9, #3", "b.eq msr",
            "cmp w9, #4", "b.eq hvc",
            "cmp w9, #5", "b.eq spin",
            "strb w9, [x20]", "b begin",
        ],
    ),
    ("read", [*COUNTERS, "stp x4, x5, [x21, #0x10]", "str x6, [x21, #0x20]"]),
    ("done", ["add x21, x21, #0x40", "b next"]),
    (
        "mrs",
        ["mov x4, xzr", "ldr w9, [x21, #4]", "adr x10, reads", "add x10, x10, x9, lsl #3", "isb", "br x10"],
    ),
    ("store", ["str x4, [x21, #0x10]", "b done"]),
    ("msr", ["ldr x4, [x21, #0x10]", "ldr w9, [x21, #4]", "adr x10, writes", "add x10, x10, x9, lsl #3", "br x10"]),
    ("written", ["isb", "b done"]),
    (
        "hvc",
        [
            "ldp x0, x1, [x21, #0x10]", "ldp x2, x3, [x21, #0x20]",
            "hvc #0",
            "stp x0, x1, [x21, #0x10]", "stp x2, x3, [x21, #0x20]",
            "b done",
        ],
    ),
    (
        "spin",
        [
            "ldr w9, [x19, #4]", "add w9, w9, #1", "str w9, [x19, #4]",
            "dmb ishst",
            *COUNTERS, "stp x4, x5, [x19, #0x10]", "str x6, [x19, #0x20]",
            "dmb ishst",
            "add w9, w9, #1", "str w9, [x19, #4]",
            "mov w9, #0x3e8",
        ],
    ),
    ("delay", ["subs w9, w9, #1", "b.ne delay", "yield", "ldr w9, [x19]", "cbz w9, spin", "str wzr, [x19]", "b begin"]),
    (
        "fault",
        ["mrs x9, esr_el1", "str w9, [x21, #8]", "mrs x9, elr_el1", "add x9, x9, #4", "msr elr_el1, x9", "eret"],
    ),
    ("reads", [line for name in abi.GUEST_SYSREGS for line in (f"mrs x4, {name.lower()}", "b store")]),
    # the counters and their frequency cannot be written, and have no name as what is written
    (
        "writes",
        [
            line
            for name in abi.GUEST_SYSREGS
            for line in (
                f"msr {name.lower()}, x4".replace("cntpct_el0", "s3_3_c14_c0_1").replace("cntvct_el0", "s3_3_c14_c0_2"),
                "b written",
            )
        ],
    ),
]  # fmt: skip


def test_the_guest_is_these_instructions() -> None:
    assert disassemble(guest.CODE) == [line for _, lines in GUEST for line in lines]


def test_labels_are_where_the_listing_has_them() -> None:
    at, expected = 0, {}
    for name, lines in GUEST:
        expected[name] = at
        at += 4 * len(lines)
    assert expected == guest.LABELS


@pytest.mark.parametrize("at", range(0, len(guest.CODE), 28))
def test_the_comparison_sees_a_changed_bit(at: int) -> None:
    code = bytearray(guest.CODE)
    code[at] ^= 1
    with pytest.raises((AssertionError, KeyError)):
        assert disassemble(bytes(code)) == [line for _, lines in GUEST for line in lines]


def test_native_calls_are_these_instructions() -> None:
    stamp = ["isb", "mrs x9, cntvct_el0"]
    assert disassemble(native.AARCH64["counter"]) == ["isb", "mrs x0, cntvct_el0", "ret"]
    assert disassemble(native.AARCH64["frequency"]) == ["mrs x0, cntfrq_el0", "ret"]
    assert disassemble(native.AARCH64["ignore"]) == ["ret"]
    for name, system_call in (("sandwich", "#0x1d"), ("clock", "#0x71")):
        assert disassemble(native.AARCH64[name]) == [
            *stamp, "str x9, [x3]", f"mov x8, {system_call}", "svc #0", *stamp, "str x9, [x3, #8]", "ret",
        ]  # fmt: skip
    assert disassemble(native.AARCH64["call"]) == [
        "stp x29, x30, [sp, #-0x20]!", "str x19, [sp, #0x10]", "mov x19, x3",
        *stamp, "str x9, [x19]", "blr x4", *stamp, "str x9, [x19, #8]",
        "ldr x19, [sp, #0x10]", "ldp x29, x30, [sp], #0x20", "ret",
    ]  # fmt: skip
    for functions in native.CODE.values():
        assert {"counter", "sandwich", "call", "ignore"} <= set(functions)
        assert all(len(code) <= native._ROOM for code in functions.values())


def test_every_vector_leads_to_the_note_of_the_fault() -> None:
    memory = memoryview(bytearray(guest.MEMORY_SIZE))
    guest.install(memory)
    for at in range(0, 0x800, 0x80):
        assert guest.VECTORS_GPA % 0x800 == 0
        word = unpack_from("<I", memory, guest.VECTORS_GPA - guest.MEMORY_GPA + at)[0]
        [line] = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM).disasm(
            word.to_bytes(4, "little"), guest.VECTORS_GPA + at
        )
        assert (line.mnemonic, line.op_str) == ("b", f"#{guest.CODE_GPA + guest.LABELS['fault']:#x}")


def test_addresses_are_the_guest_s_own_and_the_mmu_knows_both_kinds() -> None:
    memory = memoryview(bytearray(guest.MEMORY_SIZE))
    guest.install(memory)
    device, cacheable = unpack_from("<QQ", memory, guest.TABLE_GPA - guest.MEMORY_GPA)
    for entry, at in ((device, guest.EXIT_GPA), (cacheable, guest.MEMORY_GPA)):
        assert entry & 3 == 1, "a block"
        assert entry & 1 << 10, "else the first access would fault"
        assert entry & 0xFFFF_C000_0000 == at & 0xFFFF_C000_0000
    types = [guest.MAIR_EL1 >> 8 * (entry >> 2 & 7) & 0xFF for entry in (device, cacheable)]
    assert types == [0x00, 0xFF]
    assert (guest.TCR_EL1 & 0x3F, guest.TCR_EL1 >> 14 & 3, guest.TCR_EL1 >> 23 & 1) == (32, 0, 1)


def test_nothing_in_the_guests_memory_overlaps() -> None:
    places = sorted((guest.VECTORS_GPA, guest.CODE_GPA, guest.TABLE_GPA, guest.RECORDS_GPA, guest.VCPU_GPA))
    assert places == [guest.VECTORS_GPA, guest.CODE_GPA, guest.TABLE_GPA, guest.RECORDS_GPA, guest.VCPU_GPA]
    assert guest.CODE_GPA + len(guest.CODE) <= guest.TABLE_GPA
    assert guest.SAMPLE + 24 <= guest.COMMANDS
    assert guest.COMMANDS + (guest.MAX_COMMANDS + 1) * guest.COMMAND_SIZE <= guest.PAGE
    assert guest.mailbox_gpa(guest.MAX_VCPUS) == guest.MEMORY_GPA + guest.MEMORY_SIZE
    assert not guest.MEMORY_GPA <= guest.EXIT_GPA < guest.MEMORY_GPA + guest.MEMORY_SIZE
    assert len(guest.Command(guest.HALT).pack()) == guest.COMMAND_SIZE
