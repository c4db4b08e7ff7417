"""Every property can fail on a run of the model, and finds nothing on one where nothing is wrong."""

from __future__ import annotations

import pytest

from guestclock.check import PROPERTIES, marks, story, unjudged
from guestclock.kvm.model import lookup
from guestclock.kvm.model.x86.page import stored_by_version_protocol
from guestclock.runs import model, run
from guestclock.scenario import parse

QUIET = "wait = '5 s'\n[[step]]\nguest = 'read'"
DRIFT = "wait = '100 s'\n[[step]]\nvmm = 'xen-shared-info-init'\n[[step]]\nvmm = 'run'"

FAULTS = {
    "kvmclock-never-back": (2_596_122, DRIFT),
    "kvmclock-runs": (2_400_000, DRIFT),
    "tsc-never-back": (2_596_122, "wait = '5 s'\n[[step]]\nvmm = 'set-tsc'\nvalue = '1 s'"),
    "tsc-runs": (2_596_122, "vmm = 'set-tsc'\nvalue = '60 s'"),
    "tsc-agrees": (2_596_122, "vmm = 'set-tsc-offset'\nvalue = 7\nvcpu = 1"),
    "kvmclock-agrees": (2_596_122, "guest = 'write-tsc'\nvalue = '60 s'\nvcpu = 1"),
    "flags-honest": (2_596_122, "vmm = 'set-tsc'\nvalue = '60 s'\nvcpu = 1"),
    "get-clock-agrees": (2_596_122, "vmm = 'set-clock'\nvalue = '60 s'"),
}


def of_scenario(steps: str, *, khz: int = 2_596_122, kernel: str = "linux-6.12", vcpus: int = 2):  # type: ignore[no-untyped-def]
    text = f"about = 'x'\n[host]\ntsc_khz = {khz}\n[vm]\nvcpus = {vcpus}\n[[step]]\n{steps}\n"
    (trace,) = run(parse(text, "x.toml"), kernels=[kernel])
    return story(trace)


@pytest.mark.parametrize("kernel", ["linux-3.8", "linux-6.1", "linux-6.12", "linux-7.2", "pvm"])
@pytest.mark.parametrize("khz", [24_000, 1_000_000, 2_596_122, 4_200_000, 5_000_000])
def test_nothing_is_wrong_where_nothing_is_done(kernel: str, khz: int) -> None:
    told = of_scenario(QUIET, khz=khz, kernel=kernel)
    if kernel == "linux-3.8":  # its KVM_GET_CLOCK answers by another clock
        assert {m.name for m in marks(told)} <= {"get-clock-agrees"}
    else:
        assert marks(told) == []
    assert unjudged(told) == ()


@pytest.mark.parametrize("name", FAULTS)
def test_each_property_can_fail(name: str) -> None:
    khz, steps = FAULTS[name]
    told = of_scenario(steps, khz=khz)
    assert name in {m.name for m in marks(told)}
    assert name not in {p.name for p in unjudged(told)}


def test_a_page_written_over_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forgetful(vcpu, page, *fields):  # type: ignore[no-untyped-def]
        """Writes a page as the kernel does, but for its version."""
        before = page.version
        flags = await stored_by_version_protocol(vcpu, page, *fields)
        page.version = before or page.version
        return flags

    kernel = lookup("linux-6.12").but(page_store=forgetful)
    monkeypatch.setattr(model, "lookup", lambda _: kernel)
    assert "version-protocol" in {m.name for m in marks(of_scenario(DRIFT))}


def test_every_property_is_here() -> None:
    assert {*FAULTS, "version-protocol"} == {p.name for p in PROPERTIES if p.arch == "x86_64"}


def test_a_vcpu_in_kvm_run_that_is_looked_at_while_its_page_is_written() -> None:
    steps = "vmm = 'start'\nvcpu = 0\n[[step]]\nhost = 'sleep'\nvalue = '10 s'\ntsc = 'reset'\n[[step]]\nvmm = 'kick'"
    told = of_scenario(steps)
    assert "version-protocol" not in {m.name for m in marks(told)}


def test_one_vcpu_agrees_with_nobody() -> None:
    told = of_scenario(QUIET, vcpus=1)
    assert {p.name for p in unjudged(told)} == {"tsc-agrees", "kvmclock-agrees", "flags-honest"}
