"""Hundreds of random programs on /dev/kvm and on the model at the same instants: no difference, event by event."""

from __future__ import annotations

from typing import Any

import pytest

from guestclock.compare.aligned import operations
from guestclock.compare.author import Limits
from guestclock.compare.judge import judge
from guestclock.compare.programs import random_program
from guestclock.compare.x86.aligned import run_aligned
from guestclock.compare.x86.comparison import X86Comparison
from guestclock.errors import UserError
from guestclock.inspect.host import HostReport, classify
from guestclock.kvm.device.x86.tracing import parse_fields
from guestclock.runs.real import from_lines
from guestclock.sim import Trace
from guestclock.vmm.on_device import run_program
from tests.compare.tallies import tally, told

pytestmark = pytest.mark.kvm
PROGRAMS, CHUNK = 300, 25
ATTEMPTS = 4


@pytest.fixture(scope="module")
def host() -> HostReport:
    try:
        report = classify()
    except UserError as missing:
        pytest.skip(f"no real kernel here: {missing}")
    if not report.fits:
        pytest.fail(f"no profile fits this host:\n{told(report.lines())}")
    return report


def on_real_kvm(program: dict[str, Any]) -> Trace:
    lines: list[dict[str, Any]] = []
    run_program(program, lines.append)
    return from_lines(lines)


def limits(host: HostReport) -> Limits:
    return Limits(tsc_khz=host.meta["tsc_khz"])


@pytest.mark.parametrize("first", range(0, PROGRAMS, CHUNK))
def test_model_and_kernel_agree(host: HostReport, first: int) -> None:
    """A rule that is wrong differs each time; a thread that was preempted, or a work that ran late, once."""
    book = tally(f"/dev/kvm ({host.fits[-1]})")
    for seed in range(first, first + CHUNK):
        program = random_program(seed, limits(host))
        for attempt in range(ATTEMPTS):
            verdict = judge(on_real_kvm(program), program, host.fits[-1])
            if not verdict.differences:
                break
            book.repeated += attempt < ATTEMPTS - 1
        book.add(seed, verdict)
        assert not verdict.differences, f"seed {seed}, {ATTEMPTS} times:\n{told(verdict.differences)}"


def test_a_wrong_profile_is_told_apart(host: HostReport) -> None:
    """P8 asks for a snapshot at every write, a host of 2012 has no masterclock: some program must show it."""
    found = 0
    for seed in range(6):
        program = random_program(seed, limits(host))
        found += bool(judge(on_real_kvm(program), program, "linux-3.4").differences)
    assert found == 6


def test_a_kernel_that_writes_a_page_twice_is_told_apart(host: HostReport) -> None:
    program = random_program(1, limits(host))
    real = on_real_kvm(program)
    model = run_aligned(real, program, host.fits[-1])
    assert not X86Comparison(real, model).verdict().differences
    page = next(e.data["page"] for e in operations(real) if e.kind == "peek" and e.data["page"])
    page["version"] += 2
    assert "page version" in told(X86Comparison(real, model).verdict().differences)


def test_a_snapshot_off_by_3_ns_is_told_apart(host: HostReport) -> None:
    """Far inside every sandwich: only the raw clock's line shows it."""
    program = {"vcpus": 2, "boot": True, "steps": [{"actor": "vmm", "do": "run", "say": "run"}] * 2}
    real = on_real_kvm(program)
    model = run_aligned(real, program, host.fits[-1])
    points = [e for e in real.of("tracepoint") if e.name == "kvm_pvclock_update"]
    if not points:
        pytest.skip("no tracepoints here")
    honest = X86Comparison(real, model).verdict()
    assert honest.on_line > 0
    assert not honest.differences
    fields = parse_fields(points[-1].name, points[-1].data["text"])
    later = int(fields["system_time"]) + 3
    points[-1].data["text"] = points[-1].data["text"].replace(f"{int(fields['system_time']):#x}", f"{later:#x}")
    assert "raw clock's line" in told(X86Comparison(real, model).verdict().differences)
