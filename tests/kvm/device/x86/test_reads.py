"""The benchmark's loops, disassembled, and run: what they time is what the kernel's functions do."""

from __future__ import annotations

from collections.abc import Iterator

import capstone
import pytest

from guestclock.arith.kernel import u64
from guestclock.kvm.device.ioctls import IoctlError
from guestclock.kvm.device.x86.bench import CODE, CODE_STRIDE, SAMPLES, X86Bench
from guestclock.kvm.device.x86.kvm import X86DeviceKvm
from guestclock.kvm.device.x86.reads import READS, Timekeeper
from guestclock.linux.clocksource import clocksource


def disassemble(code: bytes) -> list[str]:
    """Instructions as text; a jump is told by the instruction it goes to."""
    listing = list(capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(code, 0))
    assert sum(i.size for i in listing) == len(code), "capstone stopped before the end"
    text = {i.address: f"{i.mnemonic} {i.op_str}".strip() for i in listing}
    return [
        f"{i.mnemonic} -> {text[int(i.op_str, 16)]}" if i.mnemonic.startswith("j") else text[i.address] for i in listing
    ]


TSC = ["rdtsc", "shl rdx, 0x20", "or rax, rdx"]
STAMP = ["lfence", "rdtsc", "lfence", "shl rdx, 0x20", "or rax, rdx"]
BEFORE = [*STAMP, "mov r15, rax"]
AFTER = [
    *STAMP, "mov r11, rax", "sub rax, r15",
    "mov qword ptr [rdi], rax", "add rdi, 8", "dec rsi", "jne -> lfence",
    "out 0x10, al",
]  # fmt: skip
ORDERED = ["lfence", *TSC]
TIMEKEEPER = [
    "mov r10d, dword ptr [rbx]", "test r10b, 1", "jne -> mov r10d, dword ptr [rbx]", "mov r8, qword ptr [rbx + 0x10]",
]  # fmt: skip
CONVERT = [
    "sub rax, qword ptr [rbx + 0x18]", "and rax, qword ptr [rbx + 0x20]", "cmp rax, qword ptr [rbx + 0x28]",
    "ja -> out 0x10, al",
    "mov edx, dword ptr [rbx + 8]", "imul rax, rdx", "add rax, qword ptr [rbx + 0x30]",
    "mov ecx, dword ptr [rbx + 4]", "shr rax, cl",
    "cmp r10d, dword ptr [rbx]", "jne -> mov r10d, dword ptr [rbx]",
    "add rax, r8", "mov r12, rax",
]  # fmt: skip
PVCLOCK = [
    "mov r9d, dword ptr [rbp]", "and r9d, 0xfffffffe",
    *ORDERED, "sub rax, qword ptr [rbp + 8]",
    "movsx ecx, byte ptr [rbp + 0x1c]", "test ecx, ecx", "js -> neg ecx",
    "shl rax, cl", "jmp -> mov edx, dword ptr [rbp + 0x18]",
    "neg ecx", "shr rax, cl",
    "mov edx, dword ptr [rbp + 0x18]", "mul rdx", "shrd rax, rdx, 0x20", "add rax, qword ptr [rbp + 0x10]",
    "movzx r14d, byte ptr [rbp + 0x1d]",
    "cmp r9d, dword ptr [rbp]", "jne -> mov r9d, dword ptr [rbp]",
    "test r14b, 2", "jne -> out 0x10, al",
    "test r14b, 1", "jne -> sub rax, qword ptr [rbx + 0x18]",
    "mov rdx, rax", "mov rax, qword ptr [rbx + 0x38]",
    "cmp rdx, rax", "jbe -> sub rax, qword ptr [rbx + 0x18]",
    "lock cmpxchg qword ptr [rbx + 0x38], rdx", "jne -> cmp rdx, rax",
    "mov rax, rdx",
]  # fmt: skip

BODIES = {
    "empty": [],
    "rdtsc": ORDERED,
    "tsc-clocksource": [*TIMEKEEPER, *ORDERED, *CONVERT],
    "kvm-clock": [*TIMEKEEPER, *PVCLOCK, *CONVERT],
    "empty-ring0": [],
    "rdmsr-tsc": ["mov ecx, 0x10", "rdmsr", "shl rdx, 0x20", "or rax, rdx"],
    "rdmsr-tsc-adjust": ["mov ecx, 0x3b", "rdmsr", "shl rdx, 0x20", "or rax, rdx"],
}


@pytest.mark.parametrize("name", READS)
def test_a_loop_is_this_and_nothing_else(name: str) -> None:
    assert disassemble(READS[name].code) == [*BEFORE, *BODIES[name], *AFTER]


def test_readers_are_programs_and_rdmsr_is_a_kernels() -> None:
    assert {name for name, read in READS.items() if read.ring == 0} == {"empty-ring0", "rdmsr-tsc", "rdmsr-tsc-adjust"}
    assert {read.ring for read in READS.values()} == {0, 3}


def test_the_loops_fit_where_they_are_put() -> None:
    assert max(len(read.code) for read in READS.values()) <= CODE_STRIDE
    assert CODE + len(READS) * CODE_STRIDE <= SAMPLES
    assert X86Bench.max_count >= 100_000


def test_a_timekeeper_is_where_the_code_looks_for_it() -> None:
    raw = Timekeeper(2, 3, 5, 7, 11, base_ns=13, xtime_ns=17).pack()
    at = {0x00: 0, 0x04: 3, 0x08: 2}  # seq, shift, mult
    assert {where: int.from_bytes(raw[where : where + 4], "little") for where in at} == at
    at = {0x10: 13, 0x18: 5, 0x20: 7, 0x28: 11, 0x30: 17 << 3, 0x38: 0}  # base, cycle_last, mask, max_cycles, xtime
    assert {where: int.from_bytes(raw[where : where + 8], "little") for where in at} == at
    assert len(raw) == Timekeeper.SIZE == 64


def test_a_timekeeper_answers_as_the_kernel_does() -> None:
    tsc = clocksource("tsc", tsc_khz=2_596_122)
    timekeeper = Timekeeper(tsc.mult, tsc.shift, 10**12, tsc.mask, tsc.max_cycles, base_ns=5, xtime_ns=0)
    assert timekeeper.ktime_ns(10**12) == 5
    assert timekeeper.ktime_ns(10**12 + 2_596_122_000) == 5 + (2_596_122_000 * 6_462_414 >> 24)
    with pytest.raises(AssertionError, match="cycles since the last update"):
        timekeeper.ktime_ns(10**12 - 1)


@pytest.fixture
def bench(kvm: X86DeviceKvm) -> Iterator[X86Bench]:
    bench = X86Bench(kvm)
    yield bench
    bench.close()


@pytest.mark.kvm
def test_every_read_is_sampled_and_its_conversion_checked(bench: X86Bench) -> None:
    """The check is inside: what the guest computed lies between what is computed here of its neighbours."""
    for name in READS:
        samples = bench.sample(name, 50)
        assert len(samples.ticks) == 50
        assert all(0 < ticks < 10**12 for ticks in samples.ticks), name


@pytest.mark.kvm
def test_two_conversions_are_more_than_one_and_one_is_more_than_none(bench: X86Bench) -> None:
    """By sums of the least three quarters: interrupts of the host hit few reads, its coarse counter hits all alike."""
    bench.sample("kvm-clock", 4000)
    cost = {}
    for name in ("empty", "rdtsc", "tsc-clocksource", "kvm-clock"):
        cost[name] = sum(sorted(bench.sample(name, 4000).ticks)[:3000])
    assert cost["empty"] < cost["rdtsc"] < cost["tsc-clocksource"] < cost["kvm-clock"]


@pytest.mark.kvm
@pytest.mark.parametrize("name", ["tsc-clocksource", "kvm-clock"])
def test_a_wrong_conversion_is_noticed(bench: X86Bench, name: str) -> None:
    """The guest's timekeeper is moved by a second behind our back: more than any read takes."""
    at = 0x3000 + 0x40 * (name == "kvm-clock") + 0x10
    memory = bench._vm.room.memory
    base_ns = int.from_bytes(memory[at : at + 8], "little")
    memory[at : at + 8] = u64(base_ns + 10**9).to_bytes(8, "little")
    with pytest.raises(AssertionError, match=f"{name}: the guest computed"):
        bench.sample(name, 10)


@pytest.mark.kvm
def test_a_guest_that_stops_early_is_noticed(bench: X86Bench) -> None:
    """A page with GUEST_STOPPED, a flag the loop does not handle."""
    bench.sample("kvm-clock", 1)
    flags = 0x4000 + 0x1D
    bench._vm.room.memory[flags] |= 2
    with pytest.raises(IoctlError, match=r"kvm-clock: 10 of 10 reads are missing: the host slept \(GUEST_STOPPED\)"):
        bench.sample("kvm-clock", 10)
