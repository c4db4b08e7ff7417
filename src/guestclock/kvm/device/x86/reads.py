"""The reads that the benchmark compares, in 64-bit code: each a loop that times one after the other.

A pass of a loop is: TSC, the read, TSC; the difference is stored. What stands between the two TSC readings besides the
read (fences, moves) is the same in every loop; the loop of an empty read says what it costs.

The conversions are what a compiler makes of the kernel's functions, inlined as in the vDSO, without the timekeeper's
indirect call of its clocksource:

one, a TSC clocksource: ktime_get() over rdtsc_ordered(): the timekeeper's sequence count, delta * mult >> shift.
two, kvm-clock: ktime_get() over pvclock_clocksource_read(): inside that sequence count the page's version, and the
page's scale and base; the nanoseconds that come out are the timekeeper's cycles, and are converted once more.

Source: kernel/time/timekeeping.c, arch/x86/include/asm/pvclock.h, arch/x86/kernel/pvclock.c, v6.12.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from struct import Struct
from types import MappingProxyType
from typing import ClassVar

from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_ADJUST
from guestclock.kvm.device.x86.assembler import Assembler

END_PORT = 0x10
"""A loop ends with an OUT to this port: ring 3 may have no HLT, but it may have ports."""


@dataclass(frozen=True, slots=True)
class Timekeeper:
    """A timekeeper's reading side (struct tk_read_base), in one cache line, and pvclock's last_value.

    seq u32, even: nobody writes. shift u32, mult u32; base u64 ns; cycle_last, mask, max_cycles u64 cycles; xtime u64
    shifted ns.
    """

    mult: int
    shift: int
    cycle_last: int
    mask: int
    max_cycles: int
    base_ns: int = 1000 * 10**9
    xtime_ns: int = 123_456_789

    _LAYOUT: ClassVar[Struct] = Struct("<III4xQQQQQQ")
    SIZE: ClassVar[int] = _LAYOUT.size

    def pack(self) -> bytes:
        xtime = self.xtime_ns << self.shift
        return self._LAYOUT.pack(
            0, self.shift, self.mult, self.base_ns, self.cycle_last, self.mask, self.max_cycles, xtime, 0
        )

    def ktime_ns(self, cycles: int) -> int:
        """What ktime_get() answers when its clocksource reads `cycles`."""
        delta = (cycles - self.cycle_last) & self.mask
        assert delta <= self.max_cycles, f"{delta} cycles since the last update, at most {self.max_cycles}"
        return self.base_ns + (delta * self.mult + (self.xtime_ns << self.shift) >> self.shift)


Body = Callable[[Assembler], None]


def _stamp(a: Assembler) -> None:
    """RAX: the TSC, between everything before and everything behind."""
    a.emit("0f ae e8")  # lfence
    a.emit("0f 31")  # rdtsc
    a.emit("0f ae e8")  # lfence
    a.emit("48 c1 e2 20")  # shl rdx, 32
    a.emit("48 09 d0")  # or rax, rdx


def _loop(body: Body) -> bytes:
    """RDI: where samples go; RSI: how many are to come, 0 at the end; RBX: timekeeper; RBP: pvclock page.

    The last pass leaves the TSC before and after in R15 and R11, what the conversions made of theirs in R12, and the
    version of the page they read in R9.
    """
    a = Assembler()
    a.label("pass")
    _stamp(a)
    a.emit("49 89 c7")  # mov r15, rax
    body(a)
    _stamp(a)
    a.emit("49 89 c3")  # mov r11, rax
    a.emit("4c 29 f8")  # sub rax, r15
    a.emit("48 89 07")  # mov [rdi], rax
    a.emit("48 83 c7 08")  # add rdi, 8
    a.emit("48 ff ce")  # dec rsi
    a.jump("0f 85", "pass", 4)  # jne pass
    a.label("wrong")  # samples are missing: RSI is not 0
    a.emit(f"e6 {END_PORT:02x}")  # out END_PORT, al
    return a.finish()


def _empty(a: Assembler) -> None:
    pass


def _rdtsc_ordered(a: Assembler) -> None:
    a.emit("0f ae e8")  # lfence
    a.emit("0f 31")  # rdtsc
    a.emit("48 c1 e2 20")  # shl rdx, 32
    a.emit("48 09 d0")  # or rax, rdx


def _rdmsr(index: int) -> Body:
    def body(a: Assembler) -> None:
        a.emit("b9" + index.to_bytes(4, "little").hex())  # mov ecx, index
        a.emit("0f 32")  # rdmsr
        a.emit("48 c1 e2 20")  # shl rdx, 32
        a.emit("48 09 d0")  # or rax, rdx

    return body


def _ktime_get(read: Body) -> Body:
    """ktime_get(), the clocksource's read() inline. RBX: struct Timekeeper."""

    def body(a: Assembler) -> None:
        a.label("tk")  # read_seqcount_begin
        a.emit("44 8b 13")  # mov r10d, [rbx + seq]
        a.emit("41 f6 c2 01")  # test r10b, 1
        a.jump("75", "tk")  # jne tk
        a.emit("4c 8b 43 10")  # mov r8, [rbx + base]
        read(a)
        a.emit("48 2b 43 18")  # sub rax, [rbx + cycle_last]
        a.emit("48 23 43 20")  # and rax, [rbx + mask]
        a.emit("48 3b 43 28")  # cmp rax, [rbx + max_cycles]
        a.jump("77", "wrong")  # ja wrong
        a.emit("8b 53 08")  # mov edx, [rbx + mult]
        a.emit("48 0f af c2")  # imul rax, rdx
        a.emit("48 03 43 30")  # add rax, [rbx + xtime]
        a.emit("8b 4b 04")  # mov ecx, [rbx + shift]
        a.emit("48 d3 e8")  # shr rax, cl
        a.emit("44 3b 13")  # cmp r10d, [rbx + seq]     read_seqcount_retry
        a.jump("0f 85", "tk", 4)  # jne tk
        a.emit("4c 01 c0")  # add rax, r8
        a.emit("49 89 c4")  # mov r12, rax

    return body


def _pvclock_read(a: Assembler) -> None:
    """pvclock_clocksource_read(). RBP: struct pvclock_vcpu_time_info; RBX + 0x38: last_value."""
    a.label("page")  # pvclock_read_begin
    a.emit("44 8b 4d 00")  # mov r9d, [rbp + version]
    a.emit("41 83 e1 fe")  # and r9d, ~1
    _rdtsc_ordered(a)
    a.emit("48 2b 45 08")  # sub rax, [rbp + tsc_timestamp]
    a.emit("0f be 4d 1c")  # movsx ecx, byte [rbp + tsc_shift]
    a.emit("85 c9")  # test ecx, ecx
    a.jump("78", "right")  # js right
    a.emit("48 d3 e0")  # shl rax, cl
    a.jump("eb", "scale")  # jmp scale
    a.label("right")
    a.emit("f7 d9")  # neg ecx
    a.emit("48 d3 e8")  # shr rax, cl
    a.label("scale")
    a.emit("8b 55 18")  # mov edx, [rbp + tsc_to_system_mul]
    a.emit("48 f7 e2")  # mul rdx
    a.emit("48 0f ac d0 20")  # shrd rax, rdx, 32
    a.emit("48 03 45 10")  # add rax, [rbp + system_time]
    a.emit("44 0f b6 75 1d")  # movzx r14d, byte [rbp + flags]
    a.emit("44 3b 4d 00")  # cmp r9d, [rbp + version]     pvclock_read_retry
    a.jump("75", "page")  # jne page
    a.emit("41 f6 c6 02")  # test r14b, GUEST_STOPPED
    a.jump("0f 85", "wrong", 4)  # jne wrong
    a.emit("41 f6 c6 01")  # test r14b, TSC_STABLE
    a.jump("75", "read")  # jne read
    a.emit("48 89 c2")  # mov rdx, rax
    a.emit("48 8b 43 38")  # mov rax, [rbx + last_value]
    a.label("last")
    a.emit("48 39 c2")  # cmp rdx, rax
    a.jump("76", "read")  # jbe read
    a.emit("f0 48 0f b1 53 38")  # lock cmpxchg [rbx + last_value], rdx
    a.jump("75", "last")  # jne last
    a.emit("48 89 d0")  # mov rax, rdx
    a.label("read")


@dataclass(frozen=True, slots=True)
class Read:
    """code: the loop. ring: in which it runs; readers of clocks are programs, RDMSR is for kernels."""

    code: bytes
    ring: int


READS: Mapping[str, Read] = MappingProxyType(
    {
        "empty": Read(_loop(_empty), 3),
        "rdtsc": Read(_loop(_rdtsc_ordered), 3),
        "tsc-clocksource": Read(_loop(_ktime_get(_rdtsc_ordered)), 3),
        "kvm-clock": Read(_loop(_ktime_get(_pvclock_read)), 3),
        "empty-ring0": Read(_loop(_empty), 0),
        "rdmsr-tsc": Read(_loop(_rdmsr(MSR_IA32_TSC)), 0),
        "rdmsr-tsc-adjust": Read(_loop(_rdmsr(MSR_IA32_TSC_ADJUST)), 0),
    }
)
