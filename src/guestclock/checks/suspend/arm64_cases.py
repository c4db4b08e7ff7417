"""The cases of the suspend thread on arm64: of the designs that a VMM, or the guest, carries out.

What was posted was x86's alone. These hosts' counters are always on; they sleep by s2idle, or by PSCI SYSTEM_SUSPEND
("s3"), which differ in nothing that a guest's counter would show.
"""

from __future__ import annotations

from collections.abc import Sequence

from guestclock.checks.protocol import Case
from guestclock.checks.suspend.arm64_nested import L2_AGAIN, L2_RAN
from guestclock.checks.suspend.case import (
    ADJUSTED,
    INJECTED,
    ITSELF,
    NIGHTS,
    NOT_SLEPT,
    PLUGGED,
    SLEPT,
    case,
)
from guestclock.checks.suspend.setting import Night, S, Setting
from guestclock.guest.suspend_time import HandlerByCounter, HandlerCorrected, HandlerDeaf, NoHandler

LINUX, NESTED, BEFORE_6_4 = "linux-6.12-arm64", "linux-6.18-arm64", "linux-6.1-arm64"
SLEEP_GATE = "+sleep-gate"
S2IDLE = Night(kind="s2idle")
LONG = Night(least_ns=1200 * S, most_ns=1200 * S, kind="s2idle")
TWICE = tuple(Night(least_ns=night.least_ns, most_ns=night.most_ns, kind="s2idle") for night in NIGHTS)
COUNTERS = ("I1", "I8", "I23", "I24")
ASKED = ("I1", "I4", "I6", "I8", "I9", "I10", "I11", "I13", "I21", "I23", "I24")
"""What there is to be asked of one vCPU: no kvmclock, no interrupt that is lost, no thread of KVM's that goes round."""


def asked(name: str, about: str, setting: Setting, *must: str, only: tuple[str, ...] = ASKED) -> Case:
    return case(name, about, setting, *must, only=only)


def arm64_cases(vmm: str) -> Sequence[Case]:
    """Of the design whose VMM does `vmm` about a sleep; "": of the stock one."""
    if vmm == "gate":
        return [*_sleeps(vmm), *_of_a_vmm(vmm)]
    if vmm == "inhibitor":
        return [*_sleeps(vmm), *_of_a_vmm(vmm), *_two(vmm)]
    if vmm == "detect":
        return [*_sleeps("detect-arm64"), *_windows()]
    if vmm == "gate-late-stamp":
        return [one for one in _sleeps(vmm) if one.name in ("arm64", "arm64-two")]
    return _sleeps(vmm)


def _kernel(vmm: str, kernel: str = LINUX) -> str:
    return kernel + SLEEP_GATE if vmm.startswith("gate") else kernel


def _one(vmm: str) -> Setting:
    handler = NoHandler if vmm in ("", "guest-first") else HandlerCorrected
    return Setting(kernel=_kernel(vmm), handler=handler, vmm=vmm, vcpus=1, nights=(S2IDLE,))


def _sleeps(vmm: str) -> list[Case]:
    """What every design is asked."""
    one = _one(vmm)
    told = {"": (SLEPT,), "guest-first": (SLEPT, ITSELF)}.get(vmm, (SLEPT, INJECTED))
    # A VMM that runs the threads itself has more steps: of two vCPUs' the guest's interrupts are left out.
    alone, hears = (one.but(ignores=True), (SLEPT,)) if vmm == "detect-arm64" else (one, told)
    found = [
        asked("arm64", "s2idle", one, *told),
        asked("arm64-s3", "PSCI SYSTEM_SUSPEND", one.but(nights=(Night(kind="s3"),)), *told),
        asked("arm64-long", "20 minutes: ticks times mult are more than 64 bits hold", one.but(nights=(LONG,)), *told,
              only=("I1", "I11")),
        asked("arm64-idle", "s2idle without a CPU state for it", one.but(nights=(Night(kind="idle"),)), NOT_SLEPT),
        asked("arm64-abort", "it ends in the freezer", one.but(nights=(Night(kind="s2idle", aborted_at="freezer"),)),
             NOT_SLEPT),
        asked("arm64-abort-late", "it ends at a device", one.but(nights=(Night(kind="s2idle", aborted_at="devices"),)),
             NOT_SLEPT),
        asked("arm64-two", "two vCPUs", alone.but(vcpus=2), *hears, only=("I2", "I8", "I24", "one")),
        asked("arm64-twice-slept", "two sleeps", one.but(nights=TWICE), *told),
        asked("arm64-plugged", "a vCPU is plugged in after the sleep", alone.but(hotplug="after"), *hears, PLUGGED,
             only=("I22",)),
    ]  # fmt: skip
    if vmm != "guest-first":
        nested = one.but(kernel=_kernel(vmm, NESTED), nested=True)
        runs = (*told, L2_RAN, L2_AGAIN) if vmm else (*told, L2_RAN)
        found += [asked("arm64-nested", "an L2 runs when the host goes down", nested, *runs)]
    if vmm not in ("", "detect-arm64"):
        found += [
            asked("arm64-uninformed", "echo mem > /sys/power/state", one.but(uninformed=True), SLEPT),
        ]
    return found


def _of_a_vmm(vmm: str) -> list[Case]:
    """What is asked where a VMM hides the sleep: other guests, other hosts."""
    one = _one(vmm)
    nested = one.but(kernel=_kernel(vmm, NESTED), nested=True)
    asleep = one.but(handler=HandlerByCounter, guest_asleep=True)
    return [
        asked("arm64-nested-twice", "... two sleeps, and it comes back in between", nested.but(nights=TWICE), SLEPT,
             INJECTED, L2_RAN, L2_AGAIN),
        asked("arm64-again", "two sleeps, the second at once", one.but(nights=TWICE, again=True), SLEPT, ADJUSTED,
             only=COUNTERS),
        asked("arm64-raw", "no Linux: it reads its counters, and takes no interrupt", one.but(handler=NoHandler), SLEPT,
             ADJUSTED, only=COUNTERS),
        asked("arm64-guest-asleep", "the guest was itself suspended", asleep, SLEPT, ITSELF, ADJUSTED),
        asked("arm64-ecv", "the host has CNTPOFF_EL2", one.but(ecv=True), SLEPT, ADJUSTED, only=COUNTERS),
        asked("arm64-nvhe", "the host's kernel is not VHE", one.but(vhe=False), SLEPT, ADJUSTED,
             only=COUNTERS),
    ]  # fmt: skip


def _windows() -> list[Case]:
    """Where a thread looks just as the host goes down, it may be frozen between its look and its KVM_RUN."""
    one = _one("detect-arm64").but(exits=True, ignores=True)
    return [
        asked("arm64-window", "its thread looks as the host goes down", one, SLEPT,
             only=("I1", "I6", "I8", "I10", "I24")),
        asked("arm64-window-two", "one of two threads does", one.but(vcpus=2), SLEPT, only=("I1", "I24")),
    ]  # fmt: skip


def _two(vmm: str) -> list[Case]:
    """The same with two vCPUs: a gate's orders are too many for it to be worth their time."""
    nested = _one(vmm).but(kernel=NESTED, nested=True, vcpus=2)
    return [
        asked("arm64-nested-two", "an L2 on each of two vCPUs", nested, SLEPT, INJECTED, L2_RAN, L2_AGAIN,
             only=("I2", "I8", "I24", "one")),
    ]  # fmt: skip


def by_value_cases() -> Sequence[Case]:
    """Before 6.4 there is no call for an offset: CNTVCT can be written by value, CNTPCT not at all.

    What Linux reads is CNTVCT, so that is all that most of them ask.
    """
    virtual, physical = (_one("inhibitor").but(kernel=BEFORE_6_4, reads=(name,)) for name in ("CNTVCT", "CNTPCT"))
    return [
        asked("arm64", "CNTVCT is read when all are out, and written back", virtual, SLEPT, INJECTED),
        asked("arm64-cntpct", "... and the guest reads CNTPCT", physical.but(handler=NoHandler), SLEPT, ADJUSTED,
             only=COUNTERS),
        asked("arm64-two", "... and two vCPUs, all of which one write moves", virtual.but(vcpus=2), SLEPT, INJECTED,
             only=("I2", "I8", "I24", "one")),
        asked("arm64-twice-slept", "... two sleeps", virtual.but(nights=TWICE), SLEPT, INJECTED),
        asked("arm64-plugged", "... and a vCPU is plugged in after the sleep", virtual.but(hotplug="after"), SLEPT,
             INJECTED, PLUGGED, only=("I1", "I22")),
    ]  # fmt: skip


def untold_cases() -> Sequence[Case]:
    """The VMM does its part, and the guest not its own: Linux that registers, and ignores the interrupt."""
    deaf, gate = _one("inhibitor").but(handler=HandlerDeaf), _one("gate").but(handler=HandlerDeaf)
    return [
        asked("sleep", "x86, and S3", deaf.but(kernel="linux-6.12", nights=(Night(),)), SLEPT, ADJUSTED),
        asked("arm64", "arm64, and s2idle", deaf, SLEPT, ADJUSTED),
        asked("arm64-gate", "... and a gate", gate, SLEPT, ADJUSTED),
    ]
