"""The KVM of one arm64 host: what it stands on, what it is able to do, and how the model reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from guestclock.errors import UserError
from guestclock.kvm.model.arm64.profile import Profile
from guestclock.kvm.model.arm64.state import CpuTime, KvmState, VmTime
from guestclock.kvm.model.executor import Spawner
from guestclock.kvm.model.profile import on_its_architecture
from guestclock.machine import Arm64Machine
from guestclock.sim import PS_PER_S, Emit, Event


@dataclass(frozen=True, kw_only=True, slots=True)
class KvmOptions:
    """How this KVM and its VMs are set up, beyond what the machine and the kernel say.

    nested: kvm-arm.mode=nested, and every vCPU is given EL2 (KVM_ARM_VCPU_HAS_EL2; kernels from 6.16 on, VHE).
    memory: the guests' RAM, as its first IPA and its bytes: where a stolen-time record may lie.
    vtimer_offset: each VMM enables KVM_CAP_ARM_VTIMER_OFFSET (overlay timer-offset-v8).
    hrtimer_latency_ns: from when an hrtimer is due to its callback.
    """

    nested: bool = False
    memory: tuple[int, int] = (0x4000_0000, 1 << 20)
    vtimer_offset: bool = True
    hrtimer_latency_ns: int = 1_000

    def __post_init__(self) -> None:
        if self.hrtimer_latency_ns < 0:
            raise UserError(f"hrtimer_latency_ns: {self.hrtimer_latency_ns} ns, expected 0 or more")


class KvmHost:
    """One kvm module on one machine: shared by all its VMs. What changes while it runs is in `state` and `cpus`."""

    def __init__(
        self, machine: Arm64Machine, profile: Profile, spawner: Spawner, emit: Emit | None, options: KvmOptions
    ) -> None:
        on_its_architecture(profile, machine)
        self.machine, self.profile, self.spawner, self.emit, self.options = machine, profile, spawner, emit, options
        if options.nested and not profile.nested:
            raise UserError(f"kernel {profile.name}: no guest hypervisors, expected linux-6.18-arm64 or later")
        self.vhe = machine.spec.vhe
        if options.nested and not self.vhe:
            raise UserError("nested: the host's kernel is not VHE, expected vhe = true")
        self.has_cntpoff = self.vhe and machine.spec.ecv and profile.uses_cntpoff
        self.ecv = machine.spec.ecv
        clock = machine.timekeeper.clock
        self.mult, self.shift = clock.mult, clock.shift  # the timecounter's: registered once, NTP leaves it alone
        self.timeline = machine.timeline
        self.state = KvmState()
        self.cpus = tuple(CpuTime() for _ in range(machine.cpus))
        self.mutex_patience_ps: int | None = 86_400 * PS_PER_S

    @property
    def vms(self) -> tuple[VmTime, ...]:
        """Every VM, by number."""
        return self.state.vms

    def phys_timer_read(self) -> int:
        """kvm_phys_timer_read(): the host's counter, ticks, u64."""
        return self.machine.read_counter()

    def trace(self, name: str, vcpu: int, data: dict[str, Any], at_ps: int | None = None) -> None:
        """Emits one tracepoint. Callers ask `emit is not None` first: text costs time."""
        assert self.emit is not None
        now = self.timeline.now_ps if at_ps is None else at_ps
        self.emit(Event("tracepoint", name, now, now, vcpu, data))
