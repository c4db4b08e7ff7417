"""What KVM remembers about time on arm64: per host and physical CPU, per VM, per vCPU, per timer, and in guest memory.

Names are the kernel's (struct arch_timer_vm_data, arch_timer_cpu, arch_timer_context, v6.12); units follow in the text
of each field. Counter values and offsets are in ticks; an offset is subtracted from the host's counter.

An offset has a cell of its own (`Cell`), to which timers refer as the kernel's pointers do: since 6.3 the virtual
timers of all vCPUs refer to one, before that each to that of its vCPU.

Whoever explores orders computes which steps depend on each other from the fields they read and write. So whatever two
actors can both touch is a field, and changes by being assigned: its containers are tuples and read-only mappings.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from guestclock.arith import U64_MAX
from guestclock.sim import Cell, State
from guestclock.sim.field import flag, integer, ref, u32, u64

TIMER_PTIMER, TIMER_VTIMER, TIMER_HVTIMER, TIMER_HPTIMER = range(4)
"""enum kvm_arch_timers: EL1's physical and virtual timer, EL2's virtual and physical one."""

DEFAULT_PPI = (30, 27, 28, 26)
"""default_ppi[], by timer."""

INVALID_GPA = U64_MAX

_NONE: Mapping[int, Any] = MappingProxyType({})


class KvmState(State):
    """What the kvm module keeps for the whole host."""

    timecounter_frac = u64("timecounter.frac: ns << shift left over from the last conversion (before 6.4)")
    vms: tuple[VmTime, ...] = ref("vm_list, by number", ())


class CpuTime(State):
    """CNTHCTL_EL2 of one physical CPU, as the guests that run on it feel it."""

    el1pcten = flag("EL1PCTEN: EL1 may read CNTPCT_EL0; else it traps", True)
    el1pcen = flag("EL1PCEN: EL1 may access CNTP_*_EL0; else it traps", True)


class VmTime(State):
    """One VM: struct kvm_arch, as far as time goes, and kvm->lock."""

    id = integer("number of the VM, from 0")
    lock = flag("kvm->lock is held")
    voffset: Cell = ref("timer_data.voffset, ticks (6.3)")
    poffset: Cell = ref("timer_data.poffset, ticks (6.4)")
    counter_offset = flag("KVM_ARCH_FLAG_VM_COUNTER_OFFSET: KVM_ARM_SET_COUNTER_OFFSET was called; never cleared")
    ppi: tuple[int, ...] = ref("interrupt number of each timer", DEFAULT_PPI)
    ppis_immutable = flag("KVM_ARCH_FLAG_TIMER_PPIS_IMMUTABLE: a vCPU has run with an in-kernel irqchip")
    vgic = flag("an in-kernel irqchip, initialised")
    kvm: Any = ref("the KVM it belongs to (model.arm64.host.KvmHost)")
    vcpus: tuple[VcpuTime, ...] = ref("a vCPU is entered when it is published", ())
    suspend: Any = ref("sleep_gate.VmSleep where an overlay holds the VM's vCPUs over a sleep of the host, else None")
    pages: Mapping[int, StolenTimePage] = ref("stolen-time records in guest memory, by IPA", _NONE)


class StolenTimePage(State):
    """struct pvclock_vcpu_stolen_time in guest memory."""

    revision = u32("0")
    attributes = u32("0")
    stolen_time = u64("ns the vCPU's thread has waited for a CPU")


class TimerContext(State):
    """One timer of a vCPU: struct arch_timer_context, its registers in memory, and in hardware while it is loaded."""

    index = integer("TIMER_PTIMER, TIMER_VTIMER, TIMER_HVTIMER or TIMER_HPTIMER")
    ctl = u64("CTL: 1 ENABLE, 2 IMASK, 4 ISTATUS as it was last saved; u32 until 6.17")
    cval = u64("CVAL, ticks of the guest's counter")
    ns_frac = u64("ns << shift left over from the last conversion (6.4)")
    vm_offset: Cell | None = ref("offset.vm_offset: ticks, or nothing for 0")
    vcpu_offset: Cell | None = ref("offset.vcpu_offset: ticks, or nothing for 0")
    level = flag("irq.level: what KVM last told the irqchip")

    loaded = flag("the hardware has this timer")
    hw_offset = u64("CNTVOFF_EL2, or CNTPOFF_EL2 where there is one, as it was loaded; 0 outside")
    hw_cval = u64("CNTx_CVAL as it is while the guest runs")
    hw_ctl = u64("CNTx_CTL: ENABLE and IMASK")
    hw_on_exit = u64("ticks that the world switch adds to CNTP_CVAL while the guest is out, with CNTPOFF (6.6)")

    soft_armed = flag("the hrtimer of an emulated timer is started")
    soft_fires_ps = integer("true time at which it fires next")
    vcpu: Any = ref("its VcpuTime")


class VcpuTime(State):
    """One vCPU: struct kvm_vcpu_arch, its thread, and where that is."""

    index = integer("vcpu_id and vcpu_idx, from 0")
    cpu = integer("physical CPU of the last load; -1 before the first", -1)
    affinity = integer("physical CPU its thread shall run on")
    on_cpu = integer("physical CPU its thread is, or was last, loaded on")
    timers: tuple[TimerContext, ...] = ref("by enum kvm_arch_timers; two, and four of a guest hypervisor's", ())
    enabled = flag("timer_cpu.enabled: the first KVM_RUN has begun")
    ppi_owners: Mapping[int, int] = ref("which timer a PPI of its vGIC belongs to, for good", _NONE)
    cntvoff_el2: Cell = ref("the shadow of CNTVOFF_EL2, ticks: KVM's before 6.3, a guest hypervisor's since 6.4")
    el1pcten = flag("EL1PCTEN as this vCPU runs with it", True)
    el1pcen = flag("EL1PCEN as this vCPU runs with it", True)

    base = u64("steal.base: IPA of its stolen-time record", INVALID_GPA)
    last_steal = u64("steal.last_steal: run_delay when that was last written, ns")
    run_delay = u64("sched_info.run_delay of its thread: ns it was runnable and did not run")
    req_record_steal = flag("KVM_REQ_RECORD_STEAL")

    mutex = flag("held by an ioctl on this vCPU, KVM_RUN included")
    running = flag("a thread started by Start is in KVM_RUN")
    kicked = flag("signal and immediate_exit: that thread shall leave KVM_RUN")
    in_guest = flag("guest code is running")
    ipi = flag("the guest was interrupted for the sake of its thread")
    preempted = flag("the scheduler wants the CPU that its thread is on")
    preempted_ns = integer("for how long")
    vtimer_level = flag("KVM_ARM_DEV_EL1_VTIMER in kvm_run: the level that userspace was told, without an irqchip")
    ptimer_level = flag("KVM_ARM_DEV_EL1_PTIMER in kvm_run")

    suspend_irq = flag("an interrupt by which the VMM tells of a sleep of the host is pending in the vGIC")

    is_hyp = flag("a guest hypervisor at its EL2; cleared while its own guest runs, and of other guests")
    vm: Any = ref("its VmTime")


def with_page(pages: Mapping[int, StolenTimePage], ipa: int, page: StolenTimePage) -> Mapping[int, StolenTimePage]:
    """`pages` and one more, as a new mapping."""
    return MappingProxyType({**pages, ipa: page})


def vtimer(vcpu: VcpuTime) -> TimerContext:
    return vcpu.timers[TIMER_VTIMER]


def ptimer(vcpu: VcpuTime) -> TimerContext:
    return vcpu.timers[TIMER_PTIMER]
