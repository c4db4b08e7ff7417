"""Finding a kernel of either architecture by name, and the KVM that carries it out."""

from __future__ import annotations

import re

import pytest

from guestclock.errors import UserError
from guestclock.kvm.model import lookup, model_kvm, names
from guestclock.kvm.model.architectures import ARCHITECTURES
from guestclock.kvm.model.arm64 import Arm64Kvm
from guestclock.kvm.model.x86 import X86Kvm
from guestclock.machine import Arm64Machine, Arm64Spec, HostSpec, X86Machine
from guestclock.sim import Scheduler, Timeline

TIMER_OFFSET = [f"+timer-offset-v{version}" for version in (1, 2, 6, 8)]


def machine(arch: str) -> X86Machine | Arm64Machine:
    timeline = Timeline()
    return X86Machine(timeline, HostSpec()) if arch == "x86_64" else Arm64Machine(timeline, Arm64Spec())


def test_both_architectures_are_listed_and_each_by_itself():
    x86, arm64 = names("x86_64"), names("arm64")
    assert names() == x86 | arm64
    assert not x86.keys() & arm64.keys(), "a name says which architecture it is of"
    assert [name for name in arm64 if name[0] != "+"] == [
        f"linux-{version}-arm64" for version in ("5.10", "6.1", "6.3", "6.4", "6.12", "6.18")
    ]
    assert [name for name in arm64 if name[0] == "+"] == [*TIMER_OFFSET, "+sleep-gate"]
    assert all(about.startswith("arm64, ") for name, about in arm64.items() if name[0] == "+")


@pytest.mark.parametrize("name", [name for name in names() if name[0] != "+"])
def test_a_kernel_is_found_by_its_name_and_by_its_version(name):
    profile = lookup(name)
    assert profile.name == name
    assert lookup(name.removeprefix("linux-")) is profile
    assert profile.arch == ("arm64" if name.endswith("-arm64") else "x86_64")


def test_overlays_are_laid_in_their_order_and_named():
    profile = lookup("6.12-arm64 + timer-offset-v2")
    assert profile.name == "linux-6.12-arm64+timer-offset-v2"
    assert profile.about.endswith("; " + names("arm64")["+timer-offset-v2"])
    assert lookup(profile.name) == profile
    assert lookup("6.12-arm64+timer-offset-v2+timer-offset-v8").timer_offset_reg == "opt-in"


@pytest.mark.parametrize("base", ["5.10-arm64", "6.1-arm64", "6.3-arm64", "6.4-arm64", "6.12-arm64", "6.18-arm64"])
@pytest.mark.parametrize("overlay", TIMER_OFFSET)
def test_an_overlay_leaves_nothing_of_6_3_and_later_but_the_hrtimers_and_ptp(base, overlay):
    """They are of 2021: whatever kernel they are laid over, offsets and traps are theirs."""
    laid, oldest = lookup(base + overlay), lookup("5.10-arm64" + overlay)
    differ = {name for name in oldest.__dataclass_fields__ if getattr(laid, name) != getattr(oldest, name)}
    assert differ <= {"name", "about", "soft_timer", "ptp"}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("6.12-arm46", "kernel '6.12-arm46' is unknown (did you mean 'linux-6.12-arm64'"),
        ("linux-6.99-arm64", "kernel 'linux-6.99-arm64' is unknown (did you mean "),
        ("windows", "kernel 'windows' is unknown, expected one of linux-2.6.36, "),
        (
            "6.12-arm64+exact5",
            "kernel '6.12-arm64+exact5': overlay 'exact5' is for x86_64, this kernel is arm64: expected one of "
            "timer-offset-v1, timer-offset-v2, timer-offset-v6, timer-offset-v8",
        ),
        (
            "6.12+timer-offset-v2",
            "kernel '6.12+timer-offset-v2': overlay 'timer-offset-v2' is for arm64, this kernel is x86_64: expected "
            "one of no-matching, exact5, ",
        ),
        ("6.12-arm64+timer-offset-v3", "unknown overlay 'timer-offset-v3' (did you mean 'timer-offset-v"),
        ("6.12-arm64+timer-offset-v2=5", "overlay 'timer-offset-v2' takes no value, got '5'"),
    ],
)
def test_what_is_not_found_is_told(name, told):
    with pytest.raises(UserError, match=re.escape(told)):
        lookup(name)


@pytest.mark.parametrize(("arch", "kvm"), [("x86_64", X86Kvm), ("arm64", Arm64Kvm)])
def test_a_profile_gets_the_kvm_of_its_architecture(arch, kvm):
    profile = lookup(next(iter(names(arch))))
    assert type(model_kvm(machine(arch), profile, Scheduler(Timeline()))) is kvm


@pytest.mark.parametrize(("kernel", "arch"), [("linux-6.12", "arm64"), ("linux-6.12-arm64", "x86_64")])
def test_a_kernel_does_not_run_on_a_machine_of_the_other_architecture(kernel, arch):
    profile = lookup(kernel)
    told = (
        rf"kernel '{kernel}' is a kernel of {profile.arch}, this machine is {arch}: expected one of that architecture"
    )
    kvm = ARCHITECTURES[profile.arch].kvm
    for make in (model_kvm, kvm):
        with pytest.raises(UserError, match=told):
            make(machine(arch), profile, Scheduler(Timeline()))
