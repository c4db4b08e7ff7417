"""The memory that a program comes in by and its results go out by: a PCI device's, shared with nobody else.

Both ends are here. Inside, a program maps the device's memory as it would any file; no driver is needed, and nothing
interrupts: to the kernel inside there is no input and no output, so virtual time is not touched. Beside it stands a
second device, one byte, whose writing stops the whole machine at that very instruction: once to be copied (see
`snapshots`), and once more when the results are there.

    0   magic
    8   u64: bytes of the program, JSON
    16  u64: bytes of the results, JSON lines; NONE until they are complete
    24  u64: where this memory is in the machine, a physical address; told by the inside
    PROGRAM_AT, RESULTS_AT: the two texts

Standard library only.
"""

from __future__ import annotations

import mmap
import os
import struct

MAGIC = int.from_bytes(b"gclklab1", "little")
SIZE = 32 << 20
PROGRAM_AT = 4096
RESULTS_AT = 8 << 20
PROGRAM_ROOM = RESULTS_AT - PROGRAM_AT
RESULTS_ROOM = SIZE - RESULTS_AT
NONE = 2**64 - 1

HEADER = struct.Struct("<QQQQ")

MEMORY_DEVICE = (0x1AF4, 0x1110, 2)
"""ivshmem: vendor, device, and which of its resources."""

STOP_DEVICE = (0x1B36, 0x0011, 0)
"""pvpanic: a byte 1 written there pauses the machine (-action panic=pause)."""

DEVICES = "/sys/bus/pci/devices"


# ---- outside


def with_program(program: bytes) -> bytes:
    """The first bytes of the memory that a program is found in. Raises ValueError where there is no room for it."""
    if len(program) > PROGRAM_ROOM:
        raise ValueError(f"{len(program)} bytes, there is room for {PROGRAM_ROOM}")
    header = HEADER.pack(MAGIC, len(program), NONE, 0)
    return header.ljust(PROGRAM_AT, b"\0") + program


def address(header: bytes) -> int:
    """Where the memory is in the machine, by its first bytes. Raises ValueError."""
    magic, _, _, found = HEADER.unpack_from(header)
    if magic != MAGIC or not found:
        raise ValueError("the program inside did not begin")
    return int(found)


def results_length(header: bytes) -> int | None:
    """Bytes of the results, by the memory's first bytes; None where they are not complete."""
    magic, _, length, _ = HEADER.unpack_from(header)
    return length if magic == MAGIC and length <= RESULTS_ROOM else None


# ---- inside


class Exchange:
    """The inside's end."""

    def __init__(self, devices: str = DEVICES) -> None:
        """Raises RuntimeError where one of the two devices is missing."""
        where, self._stop = _mapped(devices, *STOP_DEVICE)
        where, self._memory = _mapped(devices, *MEMORY_DEVICE)
        HEADER.pack_into(self._memory, 0, MAGIC, 0, NONE, where)

    def stop(self) -> None:
        """The machine stops here, and goes on from here, perhaps in another process, on another day."""
        self._stop[0] = 1

    def program(self) -> bytes:
        magic, length, _, _ = HEADER.unpack_from(self._memory)
        assert magic == MAGIC, "no program was put here"
        return self._memory[PROGRAM_AT : PROGRAM_AT + length]

    def put(self, results: bytes) -> None:
        """Raises ValueError where there is no room for them."""
        if len(results) > RESULTS_ROOM:
            raise ValueError(f"results of {len(results)} bytes, there is room for {RESULTS_ROOM}")
        self._memory[RESULTS_AT : RESULTS_AT + len(results)] = results
        struct.pack_into("<Q", self._memory, 16, len(results))


def _mapped(devices: str, vendor: int, device: int, resource: int) -> tuple[int, mmap.mmap]:
    """(Physical address, the memory) of a PCI device's resource."""
    for name in sorted(os.listdir(devices)):
        place = f"{devices}/{name}"
        if (_number(f"{place}/vendor"), _number(f"{place}/device")) == (vendor, device):
            with open(f"{place}/enable", "w", encoding="ascii") as file:
                file.write("1")
            with open(f"{place}/resource", encoding="ascii") as file:
                first = file.read().splitlines()[resource].split()[0]
            fd = os.open(f"{place}/resource{resource}", os.O_RDWR | os.O_CLOEXEC)
            try:
                return int(first, 16), mmap.mmap(fd, os.fstat(fd).st_size)
            finally:
                os.close(fd)
    raise RuntimeError(f"lab: no PCI device {vendor:04x}:{device:04x}")


def _number(path: str) -> int:
    with open(path, encoding="ascii") as file:
        return int(file.read(), 16)
