"""The counter benchmark on real kernels in the lab, where its figures are numbers of instructions."""

from __future__ import annotations

from functools import cache

import pytest

from guestclock.errors import UserError
from guestclock.lab import arch
from guestclock.lab.setup import setup
from guestclock.runs.bench import INSTRUCTIONS, Benched, bench

READS = 2000
ONE = 0.5
"""Instructions by which an average may be off: on arm64 one of 2000 waits of random length; on x86 it is exact."""


@cache
def benched(on: str) -> Benched:
    (done,) = bench([on], iterations=READS)
    assert done.unit == INSTRUCTIONS
    return done


def itself(on: str, name: str) -> float:
    cost = benched(on).itself(name)
    assert cost is not None
    return float(cost)


@pytest.fixture(scope="module")
def x86() -> str:
    setup(["6.12"])
    return "lab:6.12"


@pytest.mark.lab
def test_x86_reads_are_as_many_instructions_as_their_code_has(x86: str) -> None:
    """By the listings of tests/kvm/device/x86/test_reads.py, the branches not taken left out."""
    assert itself(x86, "rdtsc") == 4
    assert itself(x86, "tsc-clocksource") == 4 + 4 + 13
    assert itself(x86, "kvm-clock") == 4 + 4 + 13 + 19


@pytest.mark.lab
def test_an_rdmsr_of_the_tsc_exits_on_svm_each_time(x86: str) -> None:
    """Interrupts of the host's come on top of the reads' own exits."""
    done = benched(x86)
    rdmsr = done.reads["rdmsr-tsc"]
    assert rdmsr.exits is not None
    assert READS <= rdmsr.exits <= READS + READS // 50
    assert "rdmsr-tsc-adjust" not in done.reads, "nothing needs to stand in"
    for name in ("rdtsc", "tsc-clocksource", "kvm-clock"):
        exits = done.reads[name].exits
        assert exits is not None
        assert exits <= READS // 50
    assert itself(x86, "rdmsr-tsc") > 100 * itself(x86, "rdtsc")


TRAPS = {"neoverse-n1": 300, "neoverse-n1-nvhe": 310, "cortex-a72": 235}
"""A trap of CNTPCT_EL0 in 6.12, with VHE, the same kernel without it, and on a CPU without: instructions of KVM's."""
ANOTHER_BUILD = 20
"""By how many instructions another build of 6.12 may take more or fewer."""


@pytest.mark.lab
@pytest.mark.parametrize("cpu", TRAPS)
def test_arm64_counters_are_an_instruction_until_the_physical_one_traps(cpu: str) -> None:
    setup(["6.12"], arch=arch.ARM64)
    on = f"lab:6.12:{cpu}"
    for name in ("cntvct", "cntpct"):
        assert itself(on, name) == pytest.approx(1, abs=ONE)
    assert itself(on, "cntpct-offset") == pytest.approx(TRAPS[cpu] + 1, abs=ANOTHER_BUILD)
    assert (benched(on).reads["cntpct-offset"].exits or 0) <= READS // 50, "its fast path is no exit by KVM's count"


@pytest.mark.lab
def test_a_trap_is_longer_with_vhe_and_longest_where_it_is_left_unused() -> None:
    traps = {cpu: itself(f"lab:6.12:{cpu}", "cntpct-offset") for cpu in TRAPS}
    assert traps["cortex-a72"] < traps["neoverse-n1"] < traps["neoverse-n1-nvhe"]


@pytest.mark.lab
def test_a_kernel_without_counter_offsets_has_nothing_to_compare() -> None:
    setup(["6.1"], arch=arch.ARM64)
    with pytest.raises(UserError, match="no KVM_CAP_COUNTER_OFFSET"):
        bench(["lab:6.1:neoverse-n1"], iterations=1)
