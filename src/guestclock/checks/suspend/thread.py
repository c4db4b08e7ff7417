"""threads/2021-suspend: the designs, and for each of them the cases in which it is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from guestclock.checks.protocol import Case, Thread
from guestclock.checks.suspend.arm64_cases import arm64_cases, by_value_cases, untold_cases
from guestclock.checks.suspend.case import (
    INJECTED,
    ITSELF,
    LOST,
    MOVED,
    NIGHTS,
    NOT_SLEPT,
    OWN,
    PLUGGED,
    SLEPT,
    case,
    design,
)
from guestclock.checks.suspend.invariants import INVARIANTS
from guestclock.checks.suspend.readings import recorder
from guestclock.checks.suspend.setting import KHZ, Night, S, Setting
from guestclock.guest.suspend_time import HandlerCorrected, HandlerKnob, HandlerV1, HandlerV2, HandlerV3, NoHandler

ANEW = "another record"
ODD_NIGHTS = (Night(least_ns=10_000_600 * 1000, most_ns=10_000_600 * 1000),) * 2
"""Two sleeps whose parts of a millisecond make one when they are taken together."""

HIBERNATION = (Night(tsc="reset", sync_ns=5 * S),)
FASTER, SLOWER = KHZ * 5 // 4, KHZ * 4 // 5


def cases(kernel: str, handler: type[NoHandler], vmm: str = "", **more: Any) -> Callable[[], Sequence[Case]]:
    """Of a design: a sleep, in whatever disturbs it."""
    injects = handler.msr_written

    def made() -> Sequence[Case]:
        one = Setting(kernel=kernel, handler=handler, vmm=vmm, vcpus=1, **more)
        told = (SLEPT, INJECTED) if injects else (SLEPT,)
        # A VMM that runs the threads itself has more steps: of two vCPUs' the guest's interrupts are left out.
        alone, hears = (one.but(ignores=True), (SLEPT,)) if vmm == "detect" else (one, told)
        # VMX scales with 48 fraction bits, SVM with 32: where a VMM reckons in RAW too, no bound is proved with 48.
        wide = "svm" if vmm == "detect" else "vmx"
        reset = (Night(tsc="reset"),)
        late_rtc = (Night(rtc_error_ns=S - 1),)
        found = [
            case("sleep", "S3, and the TSC runs on", one, *told),
            case("reset", "S3, and the TSC begins anew", one.but(nights=reset), *told),
            case("stopped", "S3, and the TSC holds", one.but(nights=(Night(tsc="stopped"),)), *told),
            case("s2idle", "s2idle, timekeeping stops", one.but(nights=(Night(kind="s2idle"),)), *told),
            case("idle", "s2idle without a CPU state for it", one.but(nights=(Night(kind="idle"),)), NOT_SLEPT),
            case("rtc", "the host errs by up to a second about its sleep", one.but(nights=late_rtc, page=True), *told),
            case("kvm-clock", "the guest counts by kvmclock", one.but(clock="kvm-clock"), *told),
            case("kvm-clock-reset", "and the TSC begins anew", one.but(clock="kvm-clock", nights=reset), *told),
            case("two", "two vCPUs", alone.but(vcpus=2), *hears, only=("I2", "I8", "I24", "one")),
            case("abort", "it ends in the freezer", one.but(nights=(Night(aborted_at="freezer"),)), NOT_SLEPT),
            case("abort-late", "it ends at a device", one.but(nights=(Night(aborted_at="devices"),)), NOT_SLEPT),
            case("twice-slept", "two sleeps", one.but(nights=NIGHTS), *told),
            case("plugged", "a vCPU is plugged in after the sleep", alone.but(hotplug="after"), *hears, PLUGGED,
                 only=("I22",)),
        ]  # fmt: skip
        if injects and not vmm:
            found += [
                case("one-paused", "two sleeps, of which one of two vCPUs runs after the second only",
                     one.but(vcpus=2, nights=ODD_NIGHTS, paused=1, ignores=True), SLEPT, only=("I2", "one")),
                case("late", "the guest registers after a first sleep", one.but(registers="late", nights=NIGHTS), *told,
                     only=("I1", "I11", "I21")),
                case("reboot", "another kernel after the sleep", one.but(reboots=True), *told, "rebooted"),
                case("reboot-deaf", "another kernel, which does not register, before a second sleep",
                     one.but(reboots=True, reboot_registers=False, nights=NIGHTS), *told, "rebooted",
                     only=("I21", "stray")),
                case("guest-asleep", "the guest was itself suspended", one.but(guest_asleep=True), SLEPT, ITSELF),
                case("looked-at", "the VMM looks before the guest runs", one.but(looks=True), *told, only=("saved",)),
                case("halted", "the guest's vCPU is halted", one.but(halted=(0,)), SLEPT),
                case("deaf", "the guest's local APIC is off for a while", one.but(apic_off=(0,)), SLEPT, LOST,
                     only=("I1", "I11", "I12")),
                case("twice-told", "the interrupt comes twice", one.but(twice=True), *told),
            ]  # fmt: skip
        if vmm != "detect":  # its threads are in its race then: `window` asks about that
            found += [
                case("again", "two sleeps, the second at once", one.but(nights=NIGHTS, again=True), *told,
                     only=("I1", "I6", "I8", "I24")),
            ]  # fmt: skip
        if injects:
            found += [
                case("slower", "the guest's TSC is scaled by 0.8", one.but(khz=SLOWER, scaling="svm"), *told),
                case("faster", "the guest's TSC is scaled by 1.25", one.but(khz=FASTER, scaling=wide), *told),
                case("ignores", "a Linux that never takes the interrupt", one.but(ignores=True), SLEPT,
                     only=("I1", "I4", "I6", "I8", "I10", "I23", "I24")),
                case("other-os", "a guest that is not Linux, and reads its TSC",
                     one.but(handler=NoHandler, hides=kernel == CORRECTED), SLEPT, only=("I1", "I8")),
            ]  # fmt: skip
        if kernel in (V3, CORRECTED, GATE):
            found += [
                case("hibernate", "files are written before the freezer",
                     one.but(nights=HIBERNATION, interrupted=True), *told, only=("I6", "I8", "spin")),
            ]  # fmt: skip
        if kernel in (V3, CORRECTED):
            found += [
                case("around", "a vCPU is plugged in while the host goes down",
                     one.but(hotplug="around", ignores=True), SLEPT, PLUGGED, only=("I22", "I24")),
                case("anew", "the record's address changes while KVM stores into it",
                     one.but(kernel=kernel + "-cached" * (kernel == V3), vcpus=2, anew=True, ignores=True), SLEPT, ANEW,
                     only=("stray",)),
                case("moved", "it is moved between two sleeps", one.but(moved=True, nights=NIGHTS), *told, MOVED,
                     only=("I1", "I4", "I11", "I21", "I24")),
            ]  # fmt: skip
        if vmm == "detect":
            found += [
                case("window", "its thread looks as the host goes down", one.but(exits=True, ignores=True), SLEPT,
                     only=("I1", "I6", "I8", "I10", "I24")),
                case("window-two", "one of two threads does", one.but(vcpus=2, exits=True, ignores=True), SLEPT,
                     only=("I1", "I24")),
            ]  # fmt: skip
        elif vmm:
            found += [
                case("uninformed", "echo mem > /sys/power/state", one.but(uninformed=True), SLEPT),
            ]
        return found

    return made


def both(x86: Callable[[], Sequence[Case]], vmm: str = "") -> Callable[[], Sequence[Case]]:
    """A design's cases on x86, and those on arm64."""
    return lambda: [*x86(), *arm64_cases(vmm)]


def only_sleep(kernel: str, handler: type[NoHandler], vmm: str = "", **more: Any) -> Callable[[], Sequence[Case]]:
    """Of a design that is wrong already where nothing disturbs it: those cases alone."""
    names = ("sleep", "reset", "two", "kvm-clock")
    return lambda: [each for each in cases(kernel, handler, vmm, **more)() if each.name in names]


V1, V2, V3, CORRECTED = (f"linux-6.12+suspend-{name}" for name in ("v1", "v2", "v3", "corrected"))
GATE = "linux-6.12+suspend-gate"
POSTED = "virtual suspend time injection, hikalium@chromium.org"

THREAD = Thread(
    "threads/2021-suspend",
    "A host sleeps. What do its guest's clocks show afterwards, under each design that was proposed?",
    (
        design("stock", "KVM as it is: the guest is told that it was stopped, and nothing more", "linux-6.12",
               both(cases("linux-6.12", NoHandler))),
        design("v1", "clocks go back inside timekeeping_resume(), the guest looks at every tick",
               f"{POSTED}, 2021-04-26", cases(V1, HandlerV1, page=True)),
        design("v2", "the same, and an interrupt; the guest changes the tick's copy of its timekeeper",
               f"{POSTED}, 2021-08-06", cases(V2, HandlerV2)),
        design("v3", "a request that is planted before the sleep, per vCPU, and an interrupt",
               f"{POSTED}, 2021-10-20", cases(V3, HandlerV3)),
        design("corrected", "one measured stop per VM, taken from every clock before anybody enters", "our own",
               cases(CORRECTED, HandlerCorrected)),
        design("inhibitor", "the VMM is asked before the host sleeps, and does it all", "Zyngier, 2021-12-04, and G1",
               both(cases("linux-6.12", HandlerCorrected, "inhibitor"), "inhibitor")),
        design("gate", "the VMM does it all, behind a gate in KVM that survives the sleep", "Zyngier's, and our gate",
               both(cases(GATE, HandlerCorrected, "gate"), "gate")),
        design("detect", "the VMM is not asked: each vCPU's thread looks for a sleep before every KVM_RUN",
               "the thread's last question, Nishida, 2022-04-06",
               both(cases("linux-6.12", HandlerCorrected, "detect"), "detect")),
        design("guest-first", "the guest suspends first, and the host waits for it", "Zyngier, 2021-12-04",
               both(cases("linux-6.12", NoHandler, "guest-first"), "guest-first")),
        design("by-value", "the inhibitor's VMM on arm64 before 6.4: CNTVCT is read and written by value",
               "kvm-arm64, QEMU", by_value_cases),
        design("untold", "the inhibitor's VMM, and a guest that ignores the interrupt", "our own", untold_cases),
        design("mono-is-boot", "rejected: MONOTONIC counts the sleep, as BOOTTIME does", "Gleixner, 2021-02",
               only_sleep(CORRECTED, HandlerCorrected, mono_is_boot=True)),
        design("sysfs", "rejected: user space moves BOOTTIME by a file, when it gets to it", "RFC, 2021-02-10",
               only_sleep("linux-6.12", HandlerKnob, "inhibitor", delay_ns=2 * S)),
        design("gate-late-stamp", "a gate whose VMM stamps for itself: it may be frozen before it can",
               "a negative control", both(only_sleep(GATE, HandlerCorrected, "gate-late-stamp"), "gate-late-stamp"),
               broken=True),
    ),
    INVARIANTS,
    "50 ms for each step of the host's, the VMM's and a vCPU's thread, 10 us inside a kernel section; interrupts are "
    "off for 10 ms at most; sleeps of 600, 130 and 1200 s; clocks at their nominal rates, nobody steers them; exact",
    own=OWN,
    recorder=recorder,
)  # fmt: skip
