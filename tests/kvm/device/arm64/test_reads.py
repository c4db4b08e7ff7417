"""The benchmark's loops, disassembled: what they time is what the thread of 2021 timed."""

from __future__ import annotations

import capstone
import pytest

from guestclock.kvm.device.arm64 import guest
from guestclock.kvm.device.arm64.bench import CODE_STRIDE, GPA, OFFSETS, SAMPLES, SIZE, Arm64Bench
from guestclock.kvm.device.arm64.reads import LCG_INCREMENT, LCG_MULTIPLIER, READS


def disassemble(code: bytes) -> list[str]:
    """Instructions as text; a branch is told by the instruction it goes to."""
    listing = list(capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_ARM).disasm(code, 0))
    assert 4 * len(listing) == len(code), "capstone stopped before the end"
    text = {i.address: f"{i.mnemonic} {i.op_str}".strip() for i in listing}
    lines = []
    for i in listing:
        *registers, target = i.op_str.split(", ")
        if i.mnemonic in ("b", "cbz", "b.ne"):
            lines.append(f"{' '.join([i.mnemonic, *registers])} -> {text[int(target.lstrip('#'), 16)]}")
        else:
            lines.append(text[i.address])
    return lines


WAIT = [
    "madd x3, x3, x4, x5", "lsr x6, x3, #0x3a",
    "cbz x6 -> isb", "sub x6, x6, #1", "b -> cbz x6, #0x14",
]  # fmt: skip
BEFORE = [*WAIT, "isb", "mrs x9, cntvct_el0", "isb"]
AFTER = [
    "isb", "mrs x11, cntvct_el0", "isb",
    "sub x11, x11, x9", "str x11, [x0], #8", "subs x1, x1, #1", "b.ne -> madd x3, x3, x4, x5",
    "strb wzr, [x2]",
]  # fmt: skip

READ = {
    "empty": [],
    "cntvct": ["mrs x10, cntvct_el0"],
    "cntpct": ["mrs x10, cntpct_el0"],
    "cntpct-offset": ["mrs x10, cntpct_el0"],
}


@pytest.mark.parametrize("name", READS)
def test_a_loop_is_this_and_nothing_else(name: str) -> None:
    assert disassemble(READS[name]) == [*BEFORE, *READ[name], *AFTER]


def test_loops_and_samples_have_room_in_what_the_guests_table_covers() -> None:
    assert max(len(code) for code in READS.values()) <= CODE_STRIDE
    assert len(READS) * CODE_STRIDE <= SAMPLES
    assert Arm64Bench.max_count >= 100_000
    assert guest.MEMORY_GPA + guest.MEMORY_SIZE <= GPA
    assert GPA + SIZE <= 0x8000_0000, "the second GiB is what is mapped cacheable"


def test_the_offset_comes_last_since_it_is_for_good() -> None:
    assert list(READS)[-1:] == list(OFFSETS) == ["cntpct-offset"]


def test_the_wait_falls_evenly_on_every_part_of_a_tick() -> None:
    """Three instructions a round, ticks of 16: in the lab each of 16 places must be hit about as often as any other."""
    x, hit = 1, [0] * 16
    for _ in range(16_000):
        x = (x * LCG_MULTIPLIER + LCG_INCREMENT) % 2**64
        hit[3 * (x >> 58) % 16] += 1
    assert min(hit) > 900
    assert max(hit) < 1100
