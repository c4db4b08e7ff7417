"""A vCPU's TSC-deadline timer: what a write of IA32_TSC_DEADLINE starts, when it fires, what the MSR reads then.

The host timer is no actor: when it fires is known as soon as it is armed, and nothing that KVM does afterwards changes
it. A write of the TSC, by whatever way, leaves it alone: it was worked out from the TSC of the moment of arming.

Limits. It is the hrtimer: VMX's preemption timer, which the kernel works out anew when the vCPU halts, is left out. The
hrtimer counts true time: NTP's slew of the host's MONOTONIC is left out. lapic_timer_advance_ns is 0: by how much the
hrtimer is early, KVM waits before the guest is let in. The local APIC is taken to be there, in its deadline mode.
Source: arch/x86/kvm/lapic.c kvm_set_lapic_tscdeadline_msr(), start_sw_tscdeadline(), v6.12; the MSR: 3.2, a3e06bbe8445.
"""

from __future__ import annotations

from guestclock.kvm.model.x86.deadline import sw_timer_ns
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.state import VcpuTime
from guestclock.kvm.model.x86.tsc import l1_tsc_now, rdtsc
from guestclock.sim import PS_PER_NS


def set_deadline(vcpu: VcpuTime, deadline: int) -> None:
    """A write of the MSR by guest or host. deadline: cycles of L1's TSC, u64; 0 disarms, one that is over fires now.

    Two clock reads: MONOTONIC, from which the hrtimer counts, and then the TSC. What lies between is how early it is.
    """
    kvm: KvmHost = vcpu.vm.kvm
    vcpu.tsc_deadline = deadline
    vcpu.deadline_armed = deadline != 0
    if not vcpu.deadline_armed:
        return
    now_ps = kvm.machine.timeline.read_ps()
    ns = sw_timer_ns(deadline, l1_tsc_now(vcpu, rdtsc(vcpu)), vcpu.virtual_tsc_khz, 0)
    vcpu.deadline_fires_ps = kvm.machine.timeline.now_ps if ns is None else now_ps + ns * PS_PER_NS


def get_deadline(vcpu: VcpuTime, *, by_host: bool) -> int:
    """What the MSR reads; cycles, u64: 0 once the interrupt is the guest's.

    A timer that fires while its vCPU is outside KVM_RUN is only marked as due: the MSR keeps the deadline until then.
    """
    if not vcpu.deadline_armed:
        return 0
    kvm: KvmHost = vcpu.vm.kvm
    in_guest_until_ps = vcpu.left_guest_ps if by_host else kvm.machine.timeline.now_ps
    return 0 if vcpu.deadline_fires_ps <= in_guest_until_ps else vcpu.tsc_deadline


def interrupt_pending(vcpu: VcpuTime, now_ps: int) -> bool:
    """Whether the timer has fired by `now_ps` (true time) and the guest has not been entered since. Nothing is read."""
    if not vcpu.deadline_armed or vcpu.deadline_fires_ps > now_ps:
        return False
    return vcpu.deadline_fires_ps > vcpu.left_guest_ps and not vcpu.in_guest
