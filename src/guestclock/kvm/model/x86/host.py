"""The KVM of one host: what it stands on, what it is able to do, and how the model reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from guestclock.arith import scale_tsc
from guestclock.errors import UserError
from guestclock.kvm.model.executor import Spawner
from guestclock.kvm.model.profile import on_its_architecture
from guestclock.kvm.model.x86.profile import Profile
from guestclock.kvm.model.x86.state import KvmState, VmTime
from guestclock.kvm.model.x86.timers import KernelTimers, Timers
from guestclock.machine import X86Machine
from guestclock.sim import PS_PER_S, Emit, Event


@dataclass(frozen=True, kw_only=True, slots=True)
class KvmOptions:
    """How this KVM and its VMs are set up, beyond what the machine and the kernel say.

    kvmclock_periodic_sync: the module parameter (kernels up to 6.18).
    guest_tsc_adjust: the guest's CPUID offers TSC_ADJUST (0x3b); otherwise the host's writes of it are ignored.
    guest_tsc_protected: VMs are TDX, or SNP with secure TSC: KVM cannot move their TSC (kernels from 6.15 on).
    xen_time_pages: the VMM registers Xen's vcpu_info and time_info of each new vCPU (kernels from 5.12 on).
    xen_pvclock_tsc_unstable: KVM_XEN_HVM_CONFIG_PVCLOCK_TSC_UNSTABLE masks TSC_STABLE in Xen's pages.
    work_latency_ns: how long a delayed work waits for its worker once its timer has fired; ms on busy hosts.
    """

    kvmclock_periodic_sync: bool = True
    guest_tsc_adjust: bool = True
    guest_tsc_protected: bool = False
    xen_time_pages: bool = False
    xen_pvclock_tsc_unstable: bool = False
    work_latency_ns: int = 0


class KvmHost:
    """One kvm module on one machine: shared by all its VMs.

    What changes while it runs is in `state`; what is said here stays. `timers` may be replaced before the first step:
    by default delayed works wait as this kernel's timer wheel makes them.
    """

    def __init__(
        self, machine: X86Machine, profile: Profile, spawner: Spawner, emit: Emit | None, options: KvmOptions
    ) -> None:
        on_its_architecture(profile, machine)
        self.machine, self.profile, self.spawner, self.emit, self.options = machine, profile, spawner, emit, options
        if (options.xen_time_pages or options.xen_pvclock_tsc_unstable) and not profile.xen:
            raise UserError(f"kernel {profile.name}: no pages for Xen guests, expected linux-5.15 or later")
        self.timeline = machine.timeline
        self.state = KvmState()
        self.timers: Timers = KernelTimers(machine, profile, options.work_latency_ns)
        self.mutex_patience_ps: int | None = 86_400 * PS_PER_S
        spec = machine.spec
        self.has_tsc_control = spec.has_tsc_control
        self.frac_bits = spec.tsc_scaling_frac_bits
        self.one = 1 << self.frac_bits
        self.max_ratio = spec.max_tsc_scaling_ratio
        self.max_guest_tsc_khz = spec.max_guest_tsc_khz

    @property
    def vms(self) -> tuple[VmTime, ...]:
        """Every VM, by number."""
        return self.state.vms

    def base_ns(self, cpu: int = 0) -> int:
        """get_kvmclock_base_ns(): one read of the clock under kvmclock, ns."""
        return self.machine.get_kvmclock_base_ns(self.profile.base_clock, cpu)

    def scale(self, tsc: int, ratio: int) -> int:
        """kvm_scale_tsc()."""
        return tsc if ratio == self.one else scale_tsc(tsc, ratio, self.frac_bits)

    @property
    def tsc_clocksource(self) -> bool:
        """gtod_is_based_on_tsc(): clocksource TSC (1) or Hyper-V's page (3)."""
        mode = self.machine.timekeeper.clock.vclock_mode
        return mode == 1 or mode == 3

    def timer_delay_ps(self, ns: int) -> int:
        """How long a delayed work of nominally `ns` waits, ps: what `timers` says."""
        return self.timers.delay_ps(ns)

    def trace(self, name: str, vcpu: int | None, data: dict[str, Any]) -> None:
        """Emits one tracepoint, if this kernel has it. Callers ask `emit is not None` first: text costs time."""
        assert self.emit is not None
        if name in self.profile.tracepoints:
            now = self.timeline.now_ps
            self.emit(Event("tracepoint", name, now, now, vcpu, data))
