"""The only program of a Linux guest in the lab, its /init: it reads the guest's clocks and tells them to a serial port.

Both ends are here: the machine code that runs in the guest, and what its records say. A record is the mark, a number,
for each of `CLOCKS` four u64 (the guest's TSC before, seconds, nanoseconds, the TSC after), and the number again.
Clocks are read by system call: by the guest kernel's own timekeeper.

A program of the guest cannot write to a port itself: iopl() or not, QEMU's emulation of SVM refuses IN and OUT outside
ring 0 of a nested guest (7.2; a busy TSS, as KVM loads it, is none to its check). So the kernel's serial driver tells.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from guestclock.kvm.device.x86.assembler import Assembler

CLOCKS = {"MONOTONIC": 1, "BOOTTIME": 7, "REALTIME": 0, "MONOTONIC_RAW": 4}
"""By name, clock_gettime's numbers, in the order of a record."""

DEVICE, DEVICE_NUMBERS = "dev/ttyS1", (4, 65)

PERIOD_NS = 20_000_000
"""The guest sleeps that long between records, by its own clocks."""

MARK = b"gclkread"
_HEAD = struct.Struct("<8sQ")
_CLOCK = struct.Struct("<QQQQ")
_TAIL = struct.Struct("<Q")
RECORD_BYTES = _HEAD.size + _CLOCK.size * len(CLOCKS) + _TAIL.size

_BASE = 0x400000
_HEADERS_BYTES = 64 + 56
_TERMIOS = struct.pack("<IIII20x", 0, 0, 0o10002 | 0o60 | 0o200 | 0o4000, 0)
"""Every byte as it is: B115200 | CS8 | CREAD | CLOCAL."""
_READ_TSC = "0f ae e8 0f 31 48 c1 e2 20 48 09 d0"  # lfence; rdtsc; shl rdx, 32; or rax, rdx


@dataclass(frozen=True, slots=True)
class Reading:
    """One clock: its value, and the guest's TSC before and after it was read."""

    before: int
    value_ns: int
    after: int


@dataclass(frozen=True, slots=True)
class Record:
    """number: counts up from 1, in the guest's memory: where it goes back, so did the guest. readings: by clock."""

    number: int
    readings: dict[str, Reading]


def records(told: bytes) -> Iterator[Record]:
    """What the guest told, in order. What a snapshot that was loaded cut in two is left out."""
    parts = told.split(MARK)
    for part in parts[1:]:  # before the first mark there is nothing of ours
        record = MARK + part
        if len(record) < RECORD_BYTES:
            continue
        _, number = _HEAD.unpack_from(record)
        if _TAIL.unpack_from(record, RECORD_BYTES - _TAIL.size) != (number,):
            continue
        readings = {}
        for index, name in enumerate(CLOCKS):
            before, sec, nsec, after = _CLOCK.unpack_from(record, _HEAD.size + index * _CLOCK.size)
            readings[name] = Reading(before, sec * 10**9 + nsec, after)
        yield Record(number, readings)


def program() -> bytes:
    """The program: ELF header, one segment, code. It needs no library, and memory from 4 MiB on."""
    code = _assemble()
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    entry, size = _BASE + _HEADERS_BYTES, _HEADERS_BYTES + len(code)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, size, size, 0x1000)
    return ident + header + segment + code


def _assemble() -> bytes:
    """64-bit code, entered at its first byte."""
    a = Assembler()
    addresses: dict[int, str] = {}

    def address(opcode: str, name: str) -> None:
        a.emit(opcode)
        addresses[len(a.code)] = name
        a.emit("00 00 00 00")

    address("bf", "device")  # mov edi, device
    a.emit("be 01 00 00 00 b8 02 00 00 00 0f 05")  # mov esi, 1; mov eax, 2; syscall      open(device, O_WRONLY)
    a.emit("89 c5 89 c7 be 02 54 00 00")  # mov ebp, eax; mov edi, eax; mov esi, TCSETS
    address("ba", "termios")  # mov edx, termios
    a.emit("b8 10 00 00 00 0f 05")  # mov eax, 16; syscall      ioctl
    address("bb", "record")  # mov ebx, record
    a.emit("45 31 e4")  # xor r12d, r12d

    a.label("again")
    a.emit("49 ff c4 4c 89 63 08")  # inc r12; mov [rbx + 8], r12
    a.emit("4c 8d 6b 10")  # lea r13, [rbx + 16]
    address("41 be", "clocks")  # mov r14d, clocks
    a.label("clock")
    a.emit(_READ_TSC)
    a.emit("49 89 45 00")  # mov [r13], rax
    a.emit("41 0f b6 3e 49 8d 75 08")  # movzx edi, byte [r14]; lea rsi, [r13 + 8]
    a.emit("b8 e4 00 00 00 0f 05")  # mov eax, 228; syscall      clock_gettime
    a.emit(_READ_TSC)
    a.emit("49 89 45 18")  # mov [r13 + 24], rax
    a.emit("49 83 c5 20 49 ff c6")  # add r13, 32; inc r14
    address("49 81 fe", "clocks' end")  # cmp r14, clocks' end
    a.jump("75", "clock")  # jne clock
    a.emit("4d 89 65 00")  # mov [r13], r12
    a.emit("89 ef 48 89 de")  # mov edi, ebp; mov rsi, rbx
    a.emit("ba" + RECORD_BYTES.to_bytes(4, "little").hex())  # mov edx, RECORD_BYTES
    a.emit("b8 01 00 00 00 0f 05")  # mov eax, 1; syscall      write
    address("bf", "period")  # mov edi, period
    a.emit("31 f6 b8 23 00 00 00 0f 05")  # xor esi, esi; mov eax, 35; syscall      nanosleep
    a.jump("eb", "again")  # jmp again

    a.label("clocks")
    a.code += bytes(CLOCKS.values())
    a.label("clocks' end")
    a.label("period")
    a.code += struct.pack("<QQ", *divmod(PERIOD_NS, 10**9))
    a.label("termios")
    a.code += _TERMIOS
    a.label("device")
    a.code += f"/{DEVICE}".encode() + b"\0"
    a.label("record")
    a.code += MARK.ljust(RECORD_BYTES, b"\0")
    code = bytearray(a.finish())
    for at, name in addresses.items():
        code[at : at + 4] = (_BASE + _HEADERS_BYTES + a.labels[name]).to_bytes(4, "little")
    return bytes(code)
