"""Clocks of unmodified kernels under everything that sets or steers them, against the timekeeper: minutes, not an hour.

`real_hour.PROGRAM` is the hour that `tests/linux/test_real_hour.py` has a recording of; it takes four minutes.
"""

from __future__ import annotations

import re

import pytest

from guestclock.errors import UserError
from guestclock.lab import Lab
from guestclock.lab.arch import ARM64, X86
from guestclock.lab.arm64 import ODD_COUNTER_HZ
from guestclock.lab.setup import setup
from guestclock.linux import arch_sys_counter
from tests.linux import real_hour
from tests.linux.real_hour import PHASE, adjtimex, settime

pytestmark = pytest.mark.lab

SECOND = real_hour.SECOND
CHANGES = {
    3: [adjtimex(modes=2, freq=100 << 16)],
    10: [adjtimex(modes=PHASE | 0x2000, offset=5_000_000, status=1, constant=2)],
    25: [adjtimex(modes=2, freq=-500 << 16), adjtimex(modes=0x4000, tick=10_003)],
    30: [adjtimex(modes=0x2100, time_ns=-1_250_000_001)],
    35: [settime(real_hour.DAY_NS - 75 * SECOND)],
    36: [adjtimex(modes=0x80, constant=37), adjtimex(modes=0x14, status=0x11, maxerror=0)],
    50: [adjtimex(modes=0x8001, offset=3_000)],
}
SECONDS = 90


@pytest.mark.parametrize(
    ("kernel", "arch", "clock"),
    [
        ("6.1", X86, real_hour.TSC),
        ("6.12", X86, real_hour.TSC),
        ("6.12", ARM64, arch_sys_counter(ODD_COUNTER_HZ)),
    ],
)
def test_a_real_kernels_clocks_are_predicted_reading_by_reading(kernel, arch, clock):
    setup((kernel,), arch=arch)
    lab = Lab(kernel, arch=arch.name, extra_cmdline="nohz=off", tsc_khz=real_hour.TSC_KHZ)
    steps = real_hour.steps(SECONDS, CHANGES, every_s=2, leap=range(0))
    lines = lab.run({"program": "clocks", "steps": steps})
    # 6.1.176, which a mirror may still have, does what 6.1.192 does not; between them nobody has looked.
    patch = release(lab)
    unknown = (6, 1, 176) < patch < (6, 1, 192)
    for forgets in (False, True) if unknown else (patch <= (6, 1, 176),):
        host = real_hour.Kernel(lines, clock)
        host.tk.forgets_leftover = forgets
        judged = real_hour.judge(lines, host)
        if not judged.outside():
            break
    assert judged.outside() == []
    assert judged.answers == []
    assert len(judged.readings) > 500
    assert len(judged.instants) == 2
    assert host.tk.tai_offset == 38, "37, and the leap second"
    # Control: the same readings by a model whose first frequency is 1 ppm less.
    first = next(line for line in lines if line.get("adjtimex", {}).get("freq"))
    other = real_hour.Kernel(lines, clock)
    other.tk.forgets_leftover = not forgets
    assert real_hour.judge(lines, other).outside(), "the two kinds of kernel are told apart"
    first["adjtimex"]["freq"] -= 1 << 16
    assert real_hour.judge(lines, real_hour.Kernel(lines, clock)).outside()


def release(lab: Lab) -> tuple[int, ...]:
    """(6, 1, 176), by what the kernel says of itself."""
    [told] = [line["version"] for line in lab.run({"program": "probe"}) if line.get("fact") == "uname"]
    return tuple(map(int, re.search(r"Debian (\d+)\.(\d+)\.(\d+)", told).groups()))


def test_a_step_that_the_program_does_not_know():
    with pytest.raises(Exception, match="unknown step 'leap'"):
        Lab("6.12", extra_cmdline="nohz=off", tsc_khz=real_hour.TSC_KHZ).run(
            {"program": "clocks", "steps": [{"do": "leap"}]}
        )


def test_a_clock_that_cannot_be_set():
    with pytest.raises(UserError, match="clock_settime: refused"):
        Lab("6.12", extra_cmdline="nohz=off", tsc_khz=real_hour.TSC_KHZ).run(
            {"program": "clocks", "steps": [settime(-(10**19))]}
        )
