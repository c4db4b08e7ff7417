from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from guestclock.errors import UserError
from guestclock.lab import Lab
from guestclock.runs import bench as module
from guestclock.runs.bench import BASES, INSTRUCTIONS, NS, Benched, bench
from tests.runs.readings import ARM64, X86, lines, reads


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What would have been run, and where; every machine answers as `readings` say."""
    asked: list[tuple[Any, ...]] = []

    class Told(Lab):
        def __init__(self, kernel: str, **machine: Any) -> None:
            del machine["progress"]
            self.told = kernel, machine

        def run(self, program: Any, **_: Any) -> list[dict[str, Any]]:
            asked.append((*self.told, program))
            return lines(ARM64 if self.told[1]["cpu"] else X86)

    def on_kvm(program: dict[str, Any], emit: Any) -> None:
        asked.append(("kvm", program))
        for line in lines(X86):
            emit(line)

    monkeypatch.setattr("guestclock.lab.Lab", Told)
    monkeypatch.setattr("guestclock.lab.boot.ready", lambda kernel, arch: None)
    monkeypatch.setattr(module, "run_bench", on_kvm)
    return asked


def test_each_machine_is_asked_once_and_answers_in_its_unit(programs: list[tuple[Any, ...]]) -> None:
    names = ["lab:6.12:neoverse-n1", "kvm", "lab:6.12", "kvm"]
    found = bench(names, iterations=4)
    assert [str(done.on) for done in found] == names[:3]
    assert programs == [
        ("6.12", {"arch": "arm64", "cpu": "neoverse-n1"}, {"program": "bench", "iterations": 4}),
        ("kvm", {"iterations": 4}),
        ("6.12", {"arch": "x86", "cpu": ""}, {"program": "bench", "iterations": 4}),
    ]
    arm64, host, x86 = found
    assert (arm64.arch, arm64.unit, arm64.per_tick) == ("arm64", INSTRUCTIONS, 16)
    assert (host.arch, host.unit, host.per_tick) == ("x86_64", NS, Fraction(10**9, 2_596_122_000))
    assert (x86.arch, x86.unit, x86.per_tick) == ("x86_64", INSTRUCTIONS, 1), "a lab's TSC counts virtual ns"


def test_the_measuring_is_taken_out_and_outliers_with_it(programs: list[tuple[Any, ...]]) -> None:
    (x86,) = bench(["lab:6.12"])
    assert x86.itself("rdmsr-tsc") == 2848
    assert x86.itself("rdtsc") == 4
    assert x86.itself("empty") is None
    (arm64,) = bench(["lab:6.12:cortex-a72"])
    assert arm64.itself("cntpct-offset") == 15 * 16 - Fraction(3, 16) * 16


def test_every_read_that_is_no_measuring_has_one() -> None:
    from guestclock.kvm.device.arm64.reads import READS as ARM64_READS
    from guestclock.kvm.device.x86.reads import READS as X86_READS

    for known in (X86_READS, ARM64_READS):
        assert {name for name in known if name not in BASES} <= {"empty", "empty-ring0"}
        assert {BASES[name] for name in known if name in BASES} <= set(known)


def test_the_grain_is_what_all_samples_are_multiples_of() -> None:
    done = Benched(
        module.parse_on("kvm"), NS, Fraction(1), {}, reads({"empty": [(52, 3), (78, 1)], "rdtsc": [(104, 4)]})
    )
    assert done.grain == 26
    assert Benched(module.parse_on("kvm"), NS, Fraction(1), {}, reads({"empty": [(0, 4)]})).grain == 1


@pytest.mark.parametrize("iterations", [0, -1, 100_001])
def test_iterations_out_of_range_are_refused(iterations: int) -> None:
    with pytest.raises(UserError, match=rf"^--iterations {iterations}: expected 1\.\.100000$"):
        bench(["kvm"], iterations=iterations)


@pytest.mark.parametrize("on", ["model", "all", "laboratory"])
def test_where_no_read_takes_time_is_refused(on: str) -> None:
    with pytest.raises(UserError, match=rf"^--on {on}: expected kvm, lab:KERNEL \(x86\) or lab:KERNEL:CPU \(arm64\)$"):
        bench([on])


def test_an_unknown_cpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"--on lab:6\.12:cortex-a7: unknown CPU 'cortex-a7'"):
        bench(["lab:6.12:cortex-a7"])


def test_a_cpu_that_offsets_by_itself_is_told(programs: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARM64, "cntpct-offset", ARM64["cntpct"])
    with pytest.raises(
        UserError, match=r"nothing traps: CNTPCT_EL0 takes 4\.0 instructions with an offset, 4\.0 without"
    ):
        bench(["lab:6.12:neoverse-n1"])
