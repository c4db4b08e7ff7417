"""What a case of the suspend thread is made of: a kernel, a guest's handlers, a VMM, and what happens to them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from guestclock.checks.architectures import arch_of
from guestclock.explore.world import Bounds, World
from guestclock.guest.suspend_time import GuestLinux, NoHandler
from guestclock.vmm.clocks import ARM64

S, MS = 10**9, 10**6
KHZ, ARM64_KHZ = 2_596_122, 54_000
"""The hosts' counters. An odd rate: at a round one many an error is 0; and that of a board that many have."""

TICK_NS, TICKED_NS = 4 * MS, 10_000
"""The guest's last tick was at most, and at least, so long before it was stopped: a tick's interrupt takes its time."""

IRQS_OFF_NS = 10 * MS
STEP_NS, SECTION_NS = 50 * MS, 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Night:
    """One sleep of the host. least_ns, most_ns: how long; tsc, kind, aborted_at: as machine.Machine.sleep has them.

    rtc_error_ns: by how much the host may believe it longer or shorter than it was. sync_ns: a hibernation writes files
    to disk for up to so long, between the first notifier and the freezer.
    """

    least_ns: int = 600 * S
    most_ns: int = 600 * S
    tsc: str = "running"
    kind: str = "s3"
    aborted_at: str = ""
    rtc_error_ns: int = 0
    sync_ns: int = 0


@cache
def usual_khz(kernel: str) -> int:
    """The rate of the counter of a host with this kernel, unless the setting says another."""
    return ARM64_KHZ if arch_of(kernel) == ARM64 else KHZ


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One case.

    kernel: of the host. handler: the guest's (guest.suspend_time). vmm: what the VMM does about a sleep: "" (nothing),
    "inhibitor", "gate", "gate-late-stamp", "detect", "detect-arm64", "guest-first". clock: the guest's clocksource.
    vcpus: at the start. hotplug: one more is plugged in: "after" the first sleep, or "around" it, as soon as KVM has
    heard of it. registers: the guest asks to be told at "boot", or "late", after the first sleep. halted: vCPUs that
    have nothing to do. apic_off: vCPUs whose local APIC is off until the sleep is over. uninformed: the host sleeps
    without asking anybody (echo mem > /sys/power/state). again: a sleep follows on the one before at once. reboots:
    after the first sleep the guest's kernel is another one, which registers if `reboot_registers`. guest_asleep: the
    guest has suspended itself before the host does, and wakes after it. moved: after the first sleep the VM goes to
    another host by MSRs and memory. paused: this vCPU is started only after all sleeps. looks: the VMM reads the vCPUs'
    clocks after the sleep. twice: the interrupt comes twice. ignores: the guest never takes it. anew: after the sleep
    another vCPU gives KVM another record, and takes the old one's memory back. exits: vCPU 0 leaves for the VMM as soon
    as KVM has heard of the sleep ("detect"). interrupted: an interrupt of the host's throws the vCPUs out as soon as
    KVM has heard of it. hides: the VMM asks KVM to hide the sleep, whatever its guest is (+suspend-corrected).
    mono_is_boot: the guest's MONOTONIC is its BOOTTIME. reads: the counters that the guest reads; empty: all it has.
    nested: the guest is a hypervisor, whose own guest runs when the host goes down. vhe, ecv: of an arm64 host.
    rate_khz: of the host's counter, 0: the usual one. khz: the guest's, 0: the host's; scaling: how that is made, "svm"
    or "vmx". page: the guest has kvmclock pages although it counts by its TSC. delay_ns: of the handler, beyond
    interrupts that are off.
    """

    kernel: str = "linux-6.12"
    handler: type[NoHandler] = NoHandler
    vmm: str = ""
    clock: str = "tsc"
    vcpus: int = 2
    nights: tuple[Night, ...] = (Night(),)
    hotplug: str = ""
    registers: str = "boot"
    halted: tuple[int, ...] = ()
    apic_off: tuple[int, ...] = ()
    uninformed: bool = False
    again: bool = False
    reboots: bool = False
    reboot_registers: bool = True
    guest_asleep: bool = False
    moved: bool = False
    paused: int = -1
    looks: bool = False
    twice: bool = False
    ignores: bool = False
    anew: bool = False
    exits: bool = False
    interrupted: bool = False
    hides: bool = False
    mono_is_boot: bool = False
    reads: tuple[str, ...] = ()
    nested: bool = False
    vhe: bool = True
    ecv: bool = False
    rate_khz: int = 0
    khz: int = 0
    scaling: str = "svm"
    page: bool = False
    delay_ns: int = 0

    def but(self, **changes: Any) -> Setting:
        return replace(self, **changes)

    @property
    def arch(self) -> str:
        return arch_of(self.kernel)

    @property
    def has_page(self) -> bool:
        return self.page or self.clock == "kvm-clock"

    @property
    def host_khz(self) -> int:
        """The rate of the host's counter: what the world's units of time are."""
        return self.rate_khz or usual_khz(self.kernel)

    @property
    def guest_khz(self) -> int:
        return self.khz or self.host_khz

    @property
    def rtc_error_ns(self) -> int:
        return sum(night.rtc_error_ns for night in self.nights)

    @property
    def most_vcpus(self) -> int:
        return self.vcpus + bool(self.hotplug)

    def units(self, ns: int) -> int:
        return ns * self.host_khz // 1_000_000

    @property
    def bounds(self) -> Bounds:
        """Every step of the host's, the VMM's and a vCPU's thread within STEP_NS; a handler within what it is given."""
        handler = self.units(IRQS_OFF_NS + self.delay_ns)
        delays = [(f"vCPU {i} interrupts", handler) for i in range(self.most_vcpus)]
        delays += [("ticks", self.units(TICK_NS))]
        delays += [(f"vCPU {i} hypervisor", self.units(IRQS_OFF_NS)) for i in range(self.most_vcpus) if self.nested]
        horizon = sum(night.most_ns + night.sync_ns for night in self.nights) + 400 * STEP_NS + 10 * self.delay_ns
        return Bounds(
            horizon=self.units(horizon), delay=self.units(STEP_NS), section=self.units(SECTION_NS),
            delays=tuple(delays), ps=(10**9, self.host_khz),
        )  # fmt: skip


@dataclass(slots=True)
class Outcome:
    """What a run of a case leaves: the same object whether times were forms or ints.

    arch: of its host (checks.suspend.architecture), machine: that host.
    sleeps: (symbol of the last host clock read before, of the first after), each. errors: the host's error in each, ns.
    looked: what the VMM read of vCPUs' clocks after a sleep, and which. spins: when vCPUs' threads went round in vain.
    """

    setting: Setting
    world: World
    arch: Any
    guest: GuestLinux
    machine: Any = None
    kvm: Any = None
    tracker: Any = None
    spins: Any = None
    states: Any = None
    sleeps: list[tuple[str, str]] = field(default_factory=list)
    errors: list[Any] = field(default_factory=list)
    looked: list[Any] = field(default_factory=list)
    finished: bool = False
    reached: set[str] = field(default_factory=set)
    contracts: set[str] = field(default_factory=set)
