"""How VMs and vCPUs come to be, are loaded on CPUs, put, and reset.

Source: arch/arm64/kvm/arm.c, arch_timer.c, vgic/vgic-init.c, virt/kvm/kvm_main.c, v6.12.
"""

from __future__ import annotations

from types import MappingProxyType

from guestclock.kvm.model.arm64.arch_timer import (
    get_timer_map,
    kvm_timer_should_fire,
    kvm_timer_update_irq,
    timer_emulate,
    timer_restore_state,
    timer_save_state,
)
from guestclock.kvm.model.arm64.host import KvmHost
from guestclock.kvm.model.arm64.offsets import lock_vm, trylock_all_vcpus, unlock_all_vcpus, unlock_vm
from guestclock.kvm.model.arm64.soft_timer import soft_timer_cancel
from guestclock.kvm.model.arm64.state import (
    INVALID_GPA,
    TIMER_PTIMER,
    TIMER_VTIMER,
    TimerContext,
    VcpuTime,
    VmTime,
    vtimer,
)
from guestclock.sim import Cell, cp

# ---- creation


def kvm_arch_init_vm(kvm: KvmHost) -> VmTime:
    """A new VM: no vCPU, no irqchip, both offsets 0 until a vCPU is made."""
    vm = VmTime(id=len(kvm.vms), kvm=kvm, voffset=Cell(), poffset=Cell())
    kvm.profile.suspend_time.vm_created(vm)
    kvm.state.vms = (*kvm.vms, vm)
    return vm


async def create_vcpu(vm: VmTime, id_: int | None) -> VcpuTime | str:
    """KVM_CREATE_VCPU and KVM_ARM_VCPU_INIT, or why not: "EBUSY" with an irqchip that is initialised.

    id_: None is the next free one when it is published. The counters are reset before it is known whether the vCPU can
    be: one that exists already ("EEXIST") does it too.
    """
    kvm: KvmHost = vm.kvm
    await lock_vm(vm, "CreateVcpu")
    refused = vm.vgic
    unlock_vm(vm)
    if refused:
        return "EBUSY"
    count = 4 if kvm.options.nested else 2
    vcpu = VcpuTime(vm=vm, cntvoff_el2=Cell(), timers=tuple(TimerContext(index=i) for i in range(count)))
    for timer in vcpu.timers:
        timer.vcpu = vcpu
    kvm.profile.context_offsets(vcpu)
    await kvm.profile.creation_offsets(vcpu)
    await cp("create_vcpu: publish")
    await lock_vm(vm, "CreateVcpu")
    if id_ is not None and id_ < len(vm.vcpus):
        unlock_vm(vm)
        return "EEXIST"
    vcpu.index = len(vm.vcpus)
    vm.vcpus = (*vm.vcpus, vcpu)
    unlock_vm(vm)
    await cp("KVM_ARM_VCPU_INIT")
    kvm_timer_vcpu_reset(vcpu)
    return vcpu


async def create_irqchip(vm: VmTime) -> str:
    """An in-kernel vGIC, initialised; or the errno's name."""
    await lock_vm(vm, "CreateIrqchip")
    refused = "EBUSY"
    if trylock_all_vcpus(vm):
        if vm.vgic:
            refused = "EEXIST"
        elif not any(vcpu.enabled for vcpu in vm.vcpus):
            refused = ""
            vm.vgic = True
        unlock_all_vcpus(vm)
    unlock_vm(vm)
    return refused


# ---- load and put


def timers_in(*places: TimerContext | None) -> tuple[TimerContext, ...]:
    """The timers that stand at these places of a map."""
    return tuple(timer for timer in places if timer is not None)


def vcpu_load(vcpu: VcpuTime) -> None:
    """kvm_arch_vcpu_load() on the physical CPU that the vCPU's thread may use: offsets and timers into the hardware.

    Before its first KVM_RUN a vCPU's timers are left alone. A stolen-time record is brought up to date before entry.
    """
    vcpu.on_cpu = vcpu.cpu = vcpu.affinity
    if vcpu.enabled:
        kvm_timer_vcpu_load(vcpu)
    if vcpu.base != INVALID_GPA:
        vcpu.req_record_steal = True


def vcpu_put(vcpu: VcpuTime) -> None:
    """kvm_arch_vcpu_put()."""
    if vcpu.enabled:
        kvm_timer_vcpu_put(vcpu)


def kvm_timer_vcpu_load(vcpu: VcpuTime) -> None:
    timers = get_timer_map(vcpu)
    direct = timers_in(timers.direct_vtimer, timers.direct_ptimer)
    for timer in direct:
        kvm_timer_update_irq(timer, kvm_timer_should_fire(timer))
    for timer in direct:
        timer_restore_state(timer)
    for timer in timers_in(timers.emul_vtimer, timers.emul_ptimer):
        timer_emulate(timer)
    vcpu.vm.kvm.profile.load_traps(vcpu)


def kvm_timer_vcpu_put(vcpu: VcpuTime) -> None:
    timers = get_timer_map(vcpu)
    for timer in timers_in(timers.direct_vtimer, timers.direct_ptimer):
        timer_save_state(timer)
    for timer in timers_in(timers.emul_vtimer, timers.emul_ptimer):
        soft_timer_cancel(timer)


def kvm_timer_sync_nested(vcpu: VcpuTime) -> None:
    """After each exit of a guest hypervisor, without FEAT_ECV: the timers of its guest are looked at anew.

    Their registers are memory to it (VNCR_EL2): KVM does not see it write them.
    """
    timers = get_timer_map(vcpu)
    emulated = timers_in(timers.emul_vtimer, timers.emul_ptimer)
    for timer in emulated:
        soft_timer_cancel(timer)
    for timer in emulated:
        timer_emulate(timer)


# ---- reset, first run


def kvm_timer_vcpu_reset(vcpu: VcpuTime) -> None:
    """KVM_ARM_VCPU_INIT, as far as timers go: disabled; comparators and offsets stay.

    A guest hypervisor's virtual timer counts from its physical counter, less what it asks for in CNTVOFF_EL2.
    """
    vm: VmTime = vcpu.vm
    timers = get_timer_map(vcpu)
    for timer in vcpu.timers:
        timer.ctl = 0
    if len(vcpu.timers) > 2:
        vcpu.is_hyp = True
        vtimer(vcpu).vcpu_offset = vcpu.cntvoff_el2
        vtimer(vcpu).vm_offset = vm.poffset
    if vcpu.enabled:
        for timer in _one_after_the_other(vcpu):
            kvm_timer_update_irq(timer, False)
    for timer in timers_in(timers.emul_vtimer, timers.emul_ptimer):
        soft_timer_cancel(timer)


def kvm_timer_enable(vcpu: VcpuTime) -> bool:
    """At the first KVM_RUN that gets so far. False (EINVAL): with an irqchip in the kernel, a timer's interrupt number
    belongs to another timer.
    """
    vm: VmTime = vcpu.vm
    if vcpu.enabled:
        return True
    if vm.vgic:
        if not _timer_irqs_are_valid(vcpu):
            return False
        if vm.kvm.profile.ppis_of_the_vm:
            vm.ppis_immutable = True
        get_timer_map(vcpu)
    vcpu.enabled = True
    return True


def _one_after_the_other(vcpu: VcpuTime) -> tuple[TimerContext, ...]:
    """A vCPU's timers as the kernel goes through them."""
    if vcpu.vm.kvm.profile.ptimer_first:
        return vcpu.timers
    return vcpu.timers[TIMER_VTIMER], vcpu.timers[TIMER_PTIMER]


def _timer_irqs_are_valid(vcpu: VcpuTime) -> bool:
    """Each timer becomes its interrupt number's owner, until one comes too late: nothing takes an owner away, so the
    number of a refused KVM_RUN stays with the timer that was asked first (seen on 6.1 and 6.12).
    """
    vm: VmTime = vcpu.vm
    for timer in _one_after_the_other(vcpu):
        ppi = vm.ppi[timer.index]
        if vcpu.ppi_owners.get(ppi, timer.index) != timer.index:
            return False
        vcpu.ppi_owners = MappingProxyType({**vcpu.ppi_owners, ppi: timer.index})
    return True


# ---- what userspace is told without an irqchip


def lines_changed(vcpu: VcpuTime) -> bool:
    """kvm_timer_should_notify_user(): whether KVM_RUN has to return for the sake of a timer's output."""
    if vcpu.vm.vgic or not vcpu.enabled:
        return False
    virtual, physical = vcpu.timers[TIMER_VTIMER], vcpu.timers[TIMER_PTIMER]
    return kvm_timer_should_fire(virtual) != vcpu.vtimer_level or kvm_timer_should_fire(physical) != vcpu.ptimer_level


def kvm_timer_update_run(vcpu: VcpuTime) -> None:
    """At the end of a KVM_RUN: the outputs as userspace is told them."""
    if not vcpu.vm.vgic and vcpu.enabled:
        vcpu.vtimer_level = kvm_timer_should_fire(vcpu.timers[TIMER_VTIMER])
        vcpu.ptimer_level = kvm_timer_should_fire(vcpu.timers[TIMER_PTIMER])
