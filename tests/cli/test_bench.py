"""`guestclock bench` as a user types it."""

from __future__ import annotations

import json
import sys

import pytest

from guestclock import cli
from guestclock.errors import UserError
from guestclock.kvm.device.ioctls import open_kvm
from guestclock.kvm.device.x86.reads import READS
from tests.cli.test_command import guestclock_, told


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--iterations", "0"), "--iterations 0: expected 1..100000"),
        (("--iterations", "100001"), "--iterations 100001: expected 1..100000"),
        (("--iterations", "many"), "'--iterations'"),
        (("--on", "model"), "--on model: expected kvm, lab:KERNEL (x86) or lab:KERNEL:CPU (arm64)"),
        (("--on", "lab:six"), "--on lab:six: expected a kernel like lab:6.12"),
        (("--on", "lab:6.12:neoverse-n2"), "unknown CPU 'neoverse-n2' (did you mean 'neoverse-n1'?)"),
        (("--on", "lab:6.12", "--on", "lab:6.12:neoverse"), "unknown CPU 'neoverse'"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(arguments: tuple[str, ...], expected: str) -> None:
    assert expected in told(guestclock_("bench", "counter", *arguments))


def test_a_lab_that_is_not_set_up_is_named(tmp_path) -> None:
    for on in ("lab:6.12", "lab:6.12:neoverse-n1"):
        line = told(guestclock_("bench", "counter", "--on", on, GUESTCLOCK_LAB_CACHE=str(tmp_path)))
        assert "guestclock lab setup" in line or "not found" in line


def test_a_host_without_kvm_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("guestclock.kvm.device.ioctls.open_kvm", lambda: open_kvm("/dev/no-kvm-here"))
    monkeypatch.setattr(sys, "argv", ["guestclock", "bench", "counter"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert capsys.readouterr() == (
        "",
        "guestclock: /dev/no-kvm-here: no such device: no KVM module is loaded, or this machine has none\n",
    )


@pytest.fixture
def this_hosts_kvm() -> None:
    import platform

    if platform.machine() != "x86_64":
        pytest.skip("not an x86-64 machine")
    from guestclock.kvm.device import open_device

    try:
        open_device(lambda event: None, trace=False).close()
    except UserError as missing:
        pytest.skip(str(missing))


@pytest.mark.kvm
def test_this_host_is_measured_in_ns(this_hosts_kvm: None) -> None:
    done = guestclock_("bench", "counter", "--iterations", "500", "--json")
    assert done.returncode == 0, done.stderr
    (machine,) = json.loads(done.stdout)["machines"]
    assert (machine["on"], machine["unit"]) == ("kvm", "ns")
    reads = {read["read"]: read for read in machine["reads"]}
    assert set(reads) >= set(READS) - {"rdmsr-tsc-adjust"}
    assert all(sum(n for _, n in read["counts"]) == 500 for read in reads.values())
    trapped = reads.get("rdmsr-tsc-adjust", reads["rdmsr-tsc"])
    assert trapped["how"] in ("exits", "emulated", "not counted")
    assert trapped["itself"] > 10 * reads["rdtsc"]["itself"] > 0


@pytest.mark.kvm
def test_the_table_has_both_comparisons_and_the_threads(this_hosts_kvm: None) -> None:
    done = guestclock_("bench", "counter", "--iterations", "100", COLUMNS="120")
    assert done.returncode == 0, done.stderr
    for words in ("RDTSC", "RDMSR IA32_TSC", "kvm-clock", "two − one", "Ampere Mt. Jade"):
        assert words in done.stdout
