"""The guest: some fifty words of EL1 code that copies counters into a mailbox, and its memory.

It only copies; all arithmetic is done outside, by `guestclock.arith`. One code page serves all vCPUs, each of which has
a page for its mailbox. The host writes commands into the mailbox, runs the vCPU, and finds the answers when the guest
has stored a byte where there is no memory (KVM_EXIT_MMIO). A spinning guest keeps storing what its counters show.

    0x4000_0000  vectors: whatever faults is noted in the command
    0x4000_1000  code
    0x4000_2000  translation table: one to one, the first GiB device memory, the second cacheable
    0x4000_8000  for records of KVM's own (stolen time)
    0x4001_0000  vCPU 0's mailbox; vCPU 1's at 0x4001_1000, ...

Memory must be cacheable on both sides: with its MMU off the guest would go past the caches that the host writes to.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, pack_into, unpack_from

from guestclock.abi.arm64 import GUEST_SYSREGS

MEMORY_GPA = 0x4000_0000
MEMORY_SIZE = 0x10_0000
VECTORS_GPA = MEMORY_GPA
CODE_GPA = MEMORY_GPA + 0x1000
TABLE_GPA = MEMORY_GPA + 0x2000
RECORDS_GPA = MEMORY_GPA + 0x8000
VCPU_GPA = MEMORY_GPA + 0x1_0000
PAGE = 0x1000
MAX_VCPUS = (MEMORY_GPA + MEMORY_SIZE - VCPU_GPA) // PAGE

EXIT_GPA = 0x0900_0000
"""Where a guest that has done its commands stores a byte. No memory is there."""

# ---- mailbox header
STOP = 0x00  # u32, host: leave the spin; the guest clears it
SEQUENCE = 0x04  # u32, guest: odd while it stores the sample, wraps
SAMPLE = 0x10  # 3 * u64, guest: CNTVCT, CNTPCT, CNTVCT of the latest round of the spin

# ---- commands, from COMMANDS on, COMMAND_SIZE bytes each, ended by HALT
COMMANDS = 0x40
COMMAND_SIZE = 0x40
MAX_COMMANDS = (PAGE - COMMANDS) // COMMAND_SIZE - 1

HALT, READ, MRS, MSR, HVC, SPIN = range(6)

SYSREGS = tuple(GUEST_SYSREGS)
"""What the `index` of an MRS or MSR names."""

SPIN_DELAY = 1000
"""Rounds of an empty loop between two samples of the spin: some microseconds, at most."""

_COMMAND = Struct("<IIII4Q16x")
_SAMPLE = Struct("<3Q")
_VECTOR_BYTES, _VECTORS = 0x80, 16

# ---- registers the guest begins with: stage 1 on, caches on, 4 KiB granule, 32 bits of address from TTBR0 alone
SCTLR_EL1 = 0x30D0_0800 | 1 << 12 | 1 << 2 | 1 << 0
TCR_EL1 = 1 << 23 | 3 << 12 | 1 << 10 | 1 << 8 | 32
MAIR_EL1 = 0xFF << 8 | 0x00
_BLOCK, _ACCESSED, _INNER_SHAREABLE, _NEVER_EXECUTED = 1, 1 << 10, 3 << 8, 3 << 53


@dataclass(frozen=True, slots=True)
class Command:
    """One entry of the mailbox. The guest fills in `fault` and `x`.

    command u32; index u32: of `SYSREGS`; fault u32: ESR_EL1 if the instruction faulted, else 0; x: four u64, what an
    MSR writes and an HVC passes, and what an MRS (x0), an HVC or a READ (CNTVCT, CNTPCT, CNTVCT) found.
    """

    command: int
    index: int = 0
    fault: int = 0
    x: tuple[int, int, int, int] = (0, 0, 0, 0)

    def pack(self) -> bytes:
        return _COMMAND.pack(self.command, self.index, self.fault, 0, *self.x)

    @classmethod
    def unpack(cls, raw: bytes) -> Command:
        command, index, fault, _, *x = _COMMAND.unpack(raw)
        return cls(command, index, fault, tuple(x))


class _Assembler:
    """Words with labels: branches leave a hole that `finish` fills."""

    def __init__(self) -> None:
        self.words: list[int] = []
        self.labels: dict[str, int] = {}
        self._holes: list[tuple[int, str, str]] = []

    def label(self, name: str) -> None:
        self.labels[name] = 4 * len(self.words)

    def emit(self, *words: int) -> None:
        self.words += words

    def branch(self, kind: str, target: str) -> None:
        """kind: "b", "b.eq", "b.ne", "cbz w9" or "adr x10"."""
        self._holes.append((len(self.words), kind, target))
        self.words.append(0)

    def finish(self) -> bytes:
        for at, kind, target in self._holes:
            distance = self.labels[target] // 4 - at
            self.words[at] = _branch(kind, distance)
        return b"".join(word.to_bytes(4, "little") for word in self.words)


def _branch(kind: str, distance: int) -> int:
    """The word of a branch over so many words."""
    if kind == "b":
        return 0x1400_0000 | distance & 0x3FF_FFFF
    if kind == "adr x10":
        return 0x1000_000A | (distance & 0x7_FFFF) << 5
    return {"b.eq": 0x5400_0000, "b.ne": 0x5400_0001, "cbz w9": 0x3400_0009}[kind] | (distance & 0x7_FFFF) << 5


def _sysreg(encoding: tuple[int, int, int, int, int]) -> int:
    """The middle of an MRS or MSR word: op0 is 2 or 3, of which only the last bit is there."""
    op0, op1, crn, crm, op2 = encoding
    return (op0 & 1) << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5


NOP = 0xD503_201F
YIELD = 0xD503_203F
ISB = 0xD503_3FDF
DMB_ISHST = 0xD503_3ABF
READ_COUNTERS = (
    ISB,
    0xD53B_E044,  # mrs x4, cntvct_el0
    ISB,
    0xD53B_E025,  # mrs x5, cntpct_el0
    ISB,
    0xD53B_E046,  # mrs x6, cntvct_el0
)


def _assemble() -> tuple[bytes, dict[str, int]]:
    """The guest's code. x19: the mailbox; x20: EXIT_GPA; x21: the command being carried out."""
    a = _Assembler()
    a.label("start")
    a.emit(NOP)  # KVM passes over one instruction where the exit before KVM_ARM_VCPU_INIT was an MMIO
    a.label("begin")
    a.emit(0x9101_0275)  # add x21, x19, COMMANDS
    a.label("next")
    a.emit(0xB940_02A9)  # ldr w9, [x21]
    for command, target in ((READ, "read"), (MRS, "mrs"), (MSR, "msr"), (HVC, "hvc"), (SPIN, "spin")):
        a.emit(0x7100_013F | command << 10)  # cmp w9, command
        a.branch("b.eq", target)
    a.emit(0x3900_0289)  # strb w9, [x20]        the end of this entry
    a.branch("b", "begin")

    a.label("read")
    a.emit(*READ_COUNTERS)
    a.emit(0xA901_16A4)  # stp x4, x5, [x21, x]
    a.emit(0xF900_12A6)  # str x6, [x21, x + 16]
    a.label("done")
    a.emit(0x9101_02B5)  # add x21, x21, COMMAND_SIZE
    a.branch("b", "next")

    a.label("mrs")
    a.emit(0xAA1F_03E4)  # mov x4, xzr           what a read that faults leaves
    a.emit(0xB940_06A9)  # ldr w9, [x21, index]
    a.branch("adr x10", "reads")
    a.emit(0x8B09_0D4A)  # add x10, x10, x9, lsl 3
    a.emit(ISB)  # the counters shall not be read ahead
    a.emit(0xD61F_0140)  # br x10
    a.label("store")
    a.emit(0xF900_0AA4)  # str x4, [x21, x]
    a.branch("b", "done")

    a.label("msr")
    a.emit(0xF940_0AA4)  # ldr x4, [x21, x]
    a.emit(0xB940_06A9)  # ldr w9, [x21, index]
    a.branch("adr x10", "writes")
    a.emit(0x8B09_0D4A)  # add x10, x10, x9, lsl 3
    a.emit(0xD61F_0140)  # br x10
    a.label("written")
    a.emit(ISB)
    a.branch("b", "done")

    a.label("hvc")
    a.emit(0xA941_06A0)  # ldp x0, x1, [x21, x]
    a.emit(0xA942_0EA2)  # ldp x2, x3, [x21, x + 16]
    a.emit(0xD400_0002)  # hvc 0
    a.emit(0xA901_06A0)  # stp x0, x1, [x21, x]
    a.emit(0xA902_0EA2)  # stp x2, x3, [x21, x + 16]
    a.branch("b", "done")

    a.label("spin")
    a.emit(0xB940_0669)  # ldr w9, [x19, SEQUENCE]
    a.emit(0x1100_0529)  # add w9, w9, 1
    a.emit(0xB900_0669)  # str w9, [x19, SEQUENCE]
    a.emit(DMB_ISHST)
    a.emit(*READ_COUNTERS)
    a.emit(0xA901_1664)  # stp x4, x5, [x19, SAMPLE]
    a.emit(0xF900_1266)  # str x6, [x19, SAMPLE + 16]
    a.emit(DMB_ISHST)
    a.emit(0x1100_0529)  # add w9, w9, 1
    a.emit(0xB900_0669)  # str w9, [x19, SEQUENCE]
    a.emit(0x5280_0009 | SPIN_DELAY << 5)  # mov w9, SPIN_DELAY
    a.label("delay")  # where instructions are emulated, these cost the least by far
    a.emit(0x7100_0529)  # subs w9, w9, 1
    a.branch("b.ne", "delay")
    a.emit(YIELD)  # emulated CPUs that take turns: the others need not wait for the end of this one's
    a.emit(0xB940_0269)  # ldr w9, [x19, STOP]
    a.branch("cbz w9", "spin")
    a.emit(0xB900_027F)  # str wzr, [x19, STOP]
    a.branch("b", "begin")  # the commands are new ones by now

    a.label("fault")  # from a vector: the instruction is noted and passed over
    a.emit(0xD538_5209)  # mrs x9, esr_el1
    a.emit(0xB900_0AA9)  # str w9, [x21, fault]
    a.emit(0xD538_4029)  # mrs x9, elr_el1
    a.emit(0x9100_1129)  # add x9, x9, 4
    a.emit(0xD518_4029)  # msr elr_el1, x9
    a.emit(0xD69F_03E0)  # eret

    a.label("reads")  # two words for each of SYSREGS
    for encoding in GUEST_SYSREGS.values():
        a.emit(0xD530_0004 | _sysreg(encoding))  # mrs x4, ...
        a.branch("b", "store")
    a.label("writes")
    for encoding in GUEST_SYSREGS.values():
        a.emit(0xD510_0004 | _sysreg(encoding))  # msr ..., x4
        a.branch("b", "written")
    return a.finish(), a.labels


CODE, LABELS = _assemble()


def mailbox_gpa(index: int) -> int:
    return VCPU_GPA + index * PAGE


def install(memory: memoryview) -> None:
    """Code, vectors and translation table into a new guest's memory."""
    at = CODE_GPA - MEMORY_GPA
    memory[at : at + len(CODE)] = CODE
    fault = CODE_GPA + LABELS["fault"]
    for vector in range(VECTORS_GPA, VECTORS_GPA + _VECTORS * _VECTOR_BYTES, _VECTOR_BYTES):
        pack_into("<I", memory, vector - MEMORY_GPA, _branch("b", (fault - vector) // 4))
    device = _BLOCK | _ACCESSED | _NEVER_EXECUTED
    cacheable = _BLOCK | _ACCESSED | _INNER_SHAREABLE | 1 << 2 | MEMORY_GPA
    pack_into("<QQ", memory, TABLE_GPA - MEMORY_GPA, device, cacheable)


class Mailbox:
    """The host's side of one vCPU's mailbox. To be written only while the vCPU is out of the guest."""

    def __init__(self, memory: memoryview, index: int) -> None:
        start = mailbox_gpa(index) - MEMORY_GPA
        self._page = memory[start : start + PAGE]

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

    def restart(self) -> None:
        """The guest begins anew, wherever in its spin it was."""
        pack_into("<I", self._page, SEQUENCE, self.sequence + 1 & ~1 & 0xFFFF_FFFF)

    @property
    def sequence(self) -> int:
        return int(unpack_from("<I", self._page, SEQUENCE)[0])

    @property
    def spins(self) -> int:
        return self.sequence >> 1

    def sample(self, since: int) -> tuple[int, int, int] | None:
        """CNTVCT, CNTPCT, CNTVCT of a round that began when the sequence was past `since`; None while there is none."""
        now = self.sequence
        begun = (now - 1 - since) & 0xFFFF_FFFF
        if now & 1 or not 0 < begun < 2**31:
            return None
        sample = _SAMPLE.unpack_from(self._page, SAMPLE)
        return sample if self.sequence == now else None

    def release(self) -> None:
        self._page.release()
