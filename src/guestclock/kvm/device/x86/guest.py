"""The guest: some hundred bytes of real-mode code that copies clocks into a mailbox, and its memory.

It only copies; all arithmetic is done outside, by `guestclock.arith`. One code page serves all vCPUs, each of which has
a segment of two pages: its mailbox, and its system-time page. The host writes commands into the mailbox, runs the vCPU,
and finds the answers when the guest has halted.

    0x00000  interrupt vectors: a fault in WRMSR or RDMSR is noted in the command
    0x01000  code
    0x02000  wall clock
    0x03000  Xen shared_info
    0x10000  vCPU 0's mailbox, stack at its end; 0x11000 its system-time page; vCPU 1's from 0x12000, ...
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, pack_into, unpack_from

from guestclock.abi.pvclock import PvclockVcpuTimeInfo, PvclockWallClock
from guestclock.kvm.device.x86.assembler import Assembler

MEMORY_SIZE = 0x10_0000
CODE_GPA = 0x1000
WALL_CLOCK_GPA = 0x2000
XEN_SHARED_INFO_GPA = 0x3000
VCPU_GPA = 0x1_0000
VCPU_SIZE = 0x2000
PAGE = 0x1000
MAX_VCPUS = (MEMORY_SIZE - VCPU_GPA) // VCPU_SIZE

# ---- mailbox header
STOP = 0x00  # u32, host: leave the spin; the guest clears it
SPINS = 0x04  # u32, guest: rounds of the spin so far, wraps
NO_PAGE = 0x10  # 32 bytes of zero: what is read while no page is registered

# ---- commands, from COMMANDS on, COMMAND_SIZE bytes each, ended by HALT
COMMANDS = 0x40
COMMAND_SIZE = 0x40
STACK_TOP = PAGE
MAX_COMMANDS = (PAGE - COMMANDS) // COMMAND_SIZE - 2  # one for HALT, one for the stack

HALT, READ, WRMSR, RDMSR, CLEAR_STOPPED, SPIN = range(6)

_COMMAND = Struct("<IIQIIQ32s")
_FAULT_VECTORS = (6, 13)  # #UD, #GP


@dataclass(frozen=True, slots=True)
class Command:
    """One entry of the mailbox. The guest fills in `count`, `fault`, `tsc` and `page`.

    command u32; index u32: MSR, or the far pointer to the page (segment << 16 | offset); value u64: for WRMSR;
    count u32: retries of the version protocol, or the flags byte that CLEAR_STOPPED found; fault u32: 1 if the
    instruction faulted; tsc u64: RDTSC, or what RDMSR read; page: 32 bytes.
    """

    command: int
    index: int = 0
    value: int = 0
    count: int = 0
    fault: int = 0
    tsc: int = 0
    page: bytes = bytes(32)

    def pack(self) -> bytes:
        return _COMMAND.pack(self.command, self.index, self.value, self.count, self.fault, self.tsc, self.page)

    @classmethod
    def unpack(cls, raw: bytes) -> Command:
        return cls(*_COMMAND.unpack(raw))


def _assemble() -> tuple[bytes, dict[str, int]]:
    """The guest's code. DS and SS are the vCPU's segment; SI points to the command being carried out."""
    a = Assembler()
    a.label("start")
    a.emit("be 40 00")  # mov si, COMMANDS
    a.label("next")
    a.emit("8b 04")  # mov ax, [si]
    for command, target in (
        (READ, "read"), (WRMSR, "wrmsr"), (RDMSR, "rdmsr"), (CLEAR_STOPPED, "clear"), (SPIN, "spin"),
    ):  # fmt: skip
        a.emit(f"3c {command:02x}")  # cmp al, command
        a.jump("74", target)  # je target
    a.emit("f4")  # hlt
    a.jump("eb", "start")  # jmp start

    a.label("read")
    a.jump("e8", "copy", 2)  # call copy
    a.label("done")
    a.emit("83 c6 40")  # add si, COMMAND_SIZE
    a.jump("eb", "next")  # jmp next

    a.label("wrmsr")
    a.emit("66 8b 4c 04")  # mov ecx, [si + index]
    a.emit("66 8b 44 08")  # mov eax, [si + value]
    a.emit("66 8b 54 0c")  # mov edx, [si + value + 4]
    a.emit("0f 30")  # wrmsr
    a.jump("eb", "done")  # jmp done

    a.label("rdmsr")
    a.emit("66 8b 4c 04")  # mov ecx, [si + index]
    a.emit("0f 32")  # rdmsr
    a.emit("66 89 44 18")  # mov [si + tsc], eax
    a.emit("66 89 54 1c")  # mov [si + tsc + 4], edx
    a.jump("eb", "done")  # jmp done

    a.label("clear")  # not atomic against the host, as in the guest kernel
    a.emit("c4 7c 04")  # les di, [si + index]
    a.emit("26 8a 45 1d")  # mov al, es:[di + flags]
    a.emit("88 44 10")  # mov [si + count], al
    a.emit("a8 02")  # test al, GUEST_STOPPED
    a.jump("74", "done")  # je done
    a.emit("24 fd")  # and al, ~GUEST_STOPPED
    a.emit("26 88 45 1d")  # mov es:[di + flags], al
    a.jump("eb", "done")  # jmp done

    a.label("spin")
    a.jump("e8", "copy", 2)  # call copy
    a.emit("66 ff 06 04 00")  # inc dword [SPINS]
    a.emit("66 83 3e 00 00 00")  # cmp dword [STOP], 0
    a.jump("74", "spin")  # je spin
    a.emit("66 c7 06 00 00 00 00 00 00")  # mov dword [STOP], 0
    a.jump("eb", "start")  # jmp start       the commands are new ones by now

    a.label("fault")  # IP, CS and FLAGS are on the stack; real mode pushes no error code
    a.emit("83 c4 06")  # add sp, 6
    a.emit("66 c7 44 14 01 00 00 00")  # mov dword [si + fault], 1
    a.jump("eb", "done")  # jmp done

    a.label("copy")
    a.emit("c4 7c 04")  # les di, [si + index]
    a.emit("66 31 c9")  # xor ecx, ecx       retries
    a.label("again")
    a.emit("26 66 8b 1d")  # mov ebx, es:[di]
    a.emit("80 e3 fe")  # and bl, 0xfe       an odd version never equals it below
    a.emit("9c")  # pushf        IRET serialises: rdtsc shall not overtake the load of the version. No LFENCE,
    a.emit("0e")  # push cs      since KVM's emulator has none, and it runs real mode where there is no VMX or SVM
    a.jump("e8", "return", 2)  # call return
    a.emit("0f 31")  # rdtsc
    a.emit("66 89 44 18")  # mov [si + tsc], eax
    a.emit("66 89 54 1c")  # mov [si + tsc + 4], edx
    for offset in range(0, PvclockVcpuTimeInfo.SIZE, 4):
        a.emit(f"26 66 8b 45 {offset:02x}")  # mov eax, es:[di + offset]
        a.emit(f"66 89 44 {0x20 + offset:02x}")  # mov [si + page + offset], eax
    a.emit("26 66 3b 1d")  # cmp ebx, es:[di]
    a.jump("74", "copied")  # je copied
    a.emit("66 41")  # inc ecx
    a.jump("eb", "again")  # jmp again
    a.label("copied")
    a.emit("66 89 4c 10")  # mov [si + count], ecx
    a.emit("c3")  # ret
    a.label("return")
    a.emit("cf")  # iret
    return a.finish(), a.labels


CODE, LABELS = _assemble()


def segment(index: int) -> int:
    """Real-mode segment of a vCPU's two pages."""
    return (VCPU_GPA + index * VCPU_SIZE) >> 4


def mailbox_gpa(index: int) -> int:
    return VCPU_GPA + index * VCPU_SIZE


def system_time_gpa(index: int) -> int:
    """Guest physical address of a vCPU's pvclock page: at the start of a page of its own."""
    return mailbox_gpa(index) + PAGE


def install(memory: memoryview) -> None:
    """Code and fault vectors into a new guest's memory."""
    memory[CODE_GPA : CODE_GPA + len(CODE)] = CODE
    for vector in _FAULT_VECTORS:
        pack_into("<HH", memory, 4 * vector, LABELS["fault"], CODE_GPA >> 4)


class Mailbox:
    """The host's side of one vCPU's mailbox. To be written only while the vCPU is out of the guest."""

    def __init__(self, memory: memoryview, index: int) -> None:
        start = mailbox_gpa(index)
        self._page, self._index = memory[start : start + PAGE], index

    def reader(self, command: int, gpa: int | None) -> Command:
        """A command that reads the pvclock page at `gpa`; None: zeros."""
        offset, base = (NO_PAGE, segment(self._index)) if gpa is None else (gpa & 0xF, gpa >> 4)
        return Command(command, index=base << 16 | offset)

    def put(self, commands: list[Command]) -> None:
        """The commands of the next run. A guest that was kicked out of a spin leaves it before it looks at them."""
        assert len(commands) <= MAX_COMMANDS
        for i, command in enumerate([*commands, Command(HALT)]):
            at = COMMANDS + i * COMMAND_SIZE
            self._page[at : at + COMMAND_SIZE] = command.pack()
        pack_into("<I", self._page, STOP, 1)

    def take(self, count: int) -> list[Command]:
        """The first `count` commands as the guest left them."""
        ends = range(COMMANDS + COMMAND_SIZE, COMMANDS + COMMAND_SIZE * (count + 1), COMMAND_SIZE)
        return [Command.unpack(bytes(self._page[end - COMMAND_SIZE : end])) for end in ends]

    @property
    def spins(self) -> int:
        return int(unpack_from("<I", self._page, SPINS)[0])

    def release(self) -> None:
        self._page.release()


def read_page(memory: memoryview, gpa: int) -> PvclockVcpuTimeInfo:
    """A pvclock page from outside, by the version protocol: an odd or changing version is read again.

    A page that stays odd (nobody has finished writing it) comes back as it is, with its odd version.
    """
    for _ in range(1000):
        before = unpack_from("<I", memory, gpa)[0]
        page = PvclockVcpuTimeInfo.unpack(bytes(memory[gpa : gpa + PvclockVcpuTimeInfo.SIZE]))
        after = unpack_from("<I", memory, gpa)[0]
        if before == page.version == after and not before & 1:
            break
    return page


def read_wall_clock(memory: memoryview, gpa: int = WALL_CLOCK_GPA) -> PvclockWallClock:
    return PvclockWallClock.unpack(bytes(memory[gpa : gpa + PvclockWallClock.SIZE]))
