"""The reads that the benchmark compares, in EL1 code: each a loop that times one after the other.

A pass of a loop is what the series of 2021 timed (20210716212629, patch 12): ISB, CNTVCT_EL0, ISB, the read, ISB,
CNTVCT_EL0; the difference is stored. The loop of an empty read says what all but the read costs.

A counter's tick can be longer than a read (40 ns on Altra, 16 instructions in the lab), and a loop could keep step with
it: so each pass first waits for a random while, that readings fall anywhere between two ticks and their average counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

LCG_MULTIPLIER, LCG_INCREMENT = 6_364_136_223_846_793_005, 1_442_695_040_888_963_407
"""Knuth's MMIX generator, modulo 2^64: its highest six bits are how often the waiting loop goes round."""

ISB = 0xD503_3FDF
_CNTVCT_TO_X9 = 0xD53B_E049
_CNTVCT_TO_X10 = 0xD53B_E04A
_CNTPCT_TO_X10 = 0xD53B_E02A
_CNTVCT_TO_X11 = 0xD53B_E04B


def _loop(*read: int) -> bytes:
    """x0: where samples go; x1: how many are to come; x2: where a store ends it; x3, x4, x5: the generator."""
    words = [
        0x9B04_1463,  # pass:  madd x3, x3, x4, x5
        0xD37A_FC66,  #        lsr x6, x3, 58
        0xB400_0066,  # wait:  cbz x6, go
        0xD100_04C6,  #        sub x6, x6, 1
        0x17FF_FFFE,  #        b wait
        ISB,  #         go:    isb
        _CNTVCT_TO_X9,  #      mrs x9, cntvct_el0
        ISB,  #                isb
        *read,  #              mrs x10, ...
        ISB,  #                isb
        _CNTVCT_TO_X11,  #     mrs x11, cntvct_el0
        ISB,  #                isb
        0xCB09_016B,  #        sub x11, x11, x9
        0xF800_840B,  #        str x11, [x0], 8
        0xF100_0421,  #        subs x1, x1, 1
    ]
    words.append(0x5400_0001 | (-len(words) & 0x7_FFFF) << 5)  # b.ne pass
    words.append(0x3900_005F)  # strb wzr, [x2]
    return b"".join(word.to_bytes(4, "little") for word in words)


READS: Mapping[str, bytes] = MappingProxyType(
    {
        "empty": _loop(),
        "cntvct": _loop(_CNTVCT_TO_X10),
        "cntpct": _loop(_CNTPCT_TO_X10),
        "cntpct-offset": _loop(_CNTPCT_TO_X10),
    }
)
"""The last two are one loop: without and with an offset of the VM's, by which KVM makes the second trap."""
