"""Random programs on unmodified Debian kernels, real TSC offsets and a host clocksource of our own included."""

from __future__ import annotations

import pytest

from guestclock.compare.aligned import Circumstances
from guestclock.compare.judge import judge
from guestclock.compare.programs import Limits, random_program
from guestclock.lab import Lab
from guestclock.runs.real import from_lines
from tests.compare.tallies import tally

pytestmark = pytest.mark.lab
PROGRAMS = 60
TRUE_HZ = 10**9
"""In virtual time a lab's TSC counts nanoseconds, whatever its kernel was told."""


@pytest.mark.parametrize("kernel", ["6.1", "6.12"])
def test_model_and_kernel_agree(kernel: str) -> None:
    limits = Limits(clocksource_switch=True)
    programs = [random_program(seed, limits) for seed in range(PROGRAMS)]
    inside = [{**program, "options": {"host_ops_allowed": True}} for program in programs]
    differences = []
    for seed, (program, lines) in enumerate(zip(programs, Lab(kernel).run_many(inside), strict=True)):
        verdict = judge(from_lines(lines), program, f"linux-{kernel}", Circumstances(true_hz=TRUE_HZ))
        tally(f"lab {kernel} (linux-{kernel})").add(seed, verdict)
        differences += [f"seed {seed}: {d}" for d in verdict.differences]
    assert not differences, "\n".join(differences[:20])
