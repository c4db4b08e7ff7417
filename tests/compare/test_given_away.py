"""What a trace gives away of when its clocks were read."""

from __future__ import annotations

import pytest

from guestclock.compare.judge import judge
from guestclock.runs.model import run_model
from guestclock.scenario import parse

OFFSET = """
about = "x"
[vm]
vcpus = 1
[[step]]
vmm = "get-tsc-offset"
as = "own"
[[step]]
vmm = "set-tsc-offset"
value = "$own + {more} cycles"
[[step]]
guest = "read"
"""


@pytest.mark.parametrize("more", [1, 1000])
def test_an_offset_that_is_written_tells_of_no_reading(more: int) -> None:
    """Else the vCPU's creation, whose TSC was read 1000 cycles later, would be taken to have read that one."""
    (variation,) = parse(OFFSET.format(more=more), "f.toml").variations
    assert not judge(run_model(variation, kernel="linux-6.12"), variation.program, "linux-6.12").differences
