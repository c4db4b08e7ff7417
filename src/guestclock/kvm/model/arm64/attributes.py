"""Device attributes of a vCPU: the timers' interrupt numbers, the place of the stolen-time record, offsets of 2021.

Source: arch/arm64/kvm/arch_timer.c kvm_arm_timer_set_attr(), pvtime.c, guest.c, v6.12; the series of 2021.
"""

from __future__ import annotations

from guestclock.abi.arm64 import (
    KVM_ARM_VCPU_PVTIME_CTRL,
    KVM_ARM_VCPU_PVTIME_IPA,
    KVM_ARM_VCPU_TIMER_CTRL,
    KVM_ARM_VCPU_TIMER_OFFSET_PTIMER,
    KVM_ARM_VCPU_TIMER_OFFSET_VTIMER,
    KVM_ARM_VCPU_TIMER_PHYS_OFFSET,
)
from guestclock.arith import s32, u64
from guestclock.kvm.model.arm64.arch_timer import timer_get_offset
from guestclock.kvm.model.arm64.host import KvmHost
from guestclock.kvm.model.arm64.offsets import broadcast, cell_of, update_ptimer_cntpoff
from guestclock.kvm.model.arm64.profile import Profile, get_offset_attribute, set_offset_attribute
from guestclock.kvm.model.arm64.pvtime import kvm_arm_pvtime_set_attr
from guestclock.kvm.model.arm64.soft_timer import set_cell
from guestclock.kvm.model.arm64.state import (
    TIMER_HPTIMER,
    TIMER_HVTIMER,
    TIMER_PTIMER,
    TIMER_VTIMER,
    VcpuTime,
    VmTime,
    ptimer,
    vtimer,
)

TIMER_OF_ATTRIBUTE = (TIMER_VTIMER, TIMER_PTIMER, TIMER_HVTIMER, TIMER_HPTIMER)
"""KVM_ARM_VCPU_TIMER_IRQ_VTIMER and so on, by number."""

FIRST_PPI, LAST_PPI = 16, 31


async def set_attr(vcpu: VcpuTime, group: int, attr: int, value: int) -> str:
    """KVM_SET_DEVICE_ATTR, the vCPU's mutex held; the errno's name, or nothing."""
    kvm: KvmHost = vcpu.vm.kvm
    if group == KVM_ARM_VCPU_PVTIME_CTRL:
        return kvm_arm_pvtime_set_attr(vcpu, u64(value)) if attr == KVM_ARM_VCPU_PVTIME_IPA else "ENXIO"
    if group != KVM_ARM_VCPU_TIMER_CTRL:
        return "ENXIO"
    if await kvm.profile.set_offset_attribute(vcpu, attr, u64(value)):
        return ""
    return kvm_arm_timer_set_attr(vcpu, attr, s32(value))


def get_attr(vcpu: VcpuTime, group: int, attr: int) -> int | None:
    """KVM_GET_DEVICE_ATTR; None: ENXIO."""
    profile: Profile = vcpu.vm.kvm.profile
    if group == KVM_ARM_VCPU_PVTIME_CTRL:
        return vcpu.base if attr == KVM_ARM_VCPU_PVTIME_IPA else None
    if group != KVM_ARM_VCPU_TIMER_CTRL:
        return None
    offset = profile.get_offset_attribute(vcpu, attr)
    if offset is not None:
        return offset
    vm: VmTime = vcpu.vm
    return vm.ppi[TIMER_OF_ATTRIBUTE[attr]] if 0 <= attr < profile.timer_irqs else None


def kvm_arm_timer_set_attr(vcpu: VcpuTime, attr: int, irq: int) -> str:
    """An interrupt number for one timer of all vCPUs; the errno's name, or nothing.

    What is wrong with it is asked in this order: no irqchip in the kernel, no PPI, too late, no such attribute. Whether
    two timers have the same is found out at the first KVM_RUN.
    """
    vm: VmTime = vcpu.vm
    profile: Profile = vm.kvm.profile
    if not vm.vgic or not FIRST_PPI <= irq <= LAST_PPI:
        return "EINVAL"
    if vm.ppis_immutable if profile.ppis_of_the_vm else vcpu.enabled:
        return "EBUSY"
    if not 0 <= attr < profile.timer_irqs:
        return "ENXIO"
    timer = TIMER_OF_ATTRIBUTE[attr]
    vm.ppi = tuple(irq if index == timer else ppi for index, ppi in enumerate(vm.ppi))
    return ""


# ---- offsets as attributes: the series of 2021


@set_offset_attribute.rule()
async def no_offset_attributes(vcpu: VcpuTime, attr: int, offset: int) -> bool:
    """None has ever been in a kernel."""
    return False


@get_offset_attribute.rule()
def no_offset_attribute(vcpu: VcpuTime, attr: int) -> int | None:
    """None has ever been in a kernel."""
    return None


@set_offset_attribute.rule(since="2021-06-08, v1")
async def this_vcpus_offset(vcpu: VcpuTime, attr: int, offset: int) -> bool:
    """This vCPU's alone. VHE: a physical one makes the physical CPU trap where the call is made, and for good.

    v1 has an ioctl of its own for it, KVM_SET_SYSTEM_COUNTER_STATE; the attributes of v2 stand for it here. The call is
    made on the CPU that the vCPU's thread may use.
    """
    if attr not in (KVM_ARM_VCPU_TIMER_OFFSET_VTIMER, KVM_ARM_VCPU_TIMER_OFFSET_PTIMER):
        return False
    timer = vtimer(vcpu) if attr == KVM_ARM_VCPU_TIMER_OFFSET_VTIMER else ptimer(vcpu)
    set_cell(vcpu.vm, cell_of(timer), offset)
    if vcpu.vm.kvm.vhe and timer_get_offset(ptimer(vcpu)) != 0:
        cpu = vcpu.vm.kvm.cpus[vcpu.affinity]
        cpu.el1pcten = cpu.el1pcen = False
    return True


@get_offset_attribute.rule(since="2021-06-08, v1")
def this_timers_offset(vcpu: VcpuTime, attr: int) -> int | None:
    """The timer's offset."""
    if attr == KVM_ARM_VCPU_TIMER_OFFSET_VTIMER:
        return timer_get_offset(vtimer(vcpu))
    return timer_get_offset(ptimer(vcpu)) if attr == KVM_ARM_VCPU_TIMER_OFFSET_PTIMER else None


@set_offset_attribute.rule(since="2021-07-16, v2")
async def broadcast_offset(vcpu: VcpuTime, attr: int, offset: int) -> bool:
    """It goes to all vCPUs, one after the other, while those that run go on with what they have loaded."""
    if attr not in (KVM_ARM_VCPU_TIMER_OFFSET_VTIMER, KVM_ARM_VCPU_TIMER_OFFSET_PTIMER):
        return False
    await broadcast(vcpu, TIMER_VTIMER if attr == KVM_ARM_VCPU_TIMER_OFFSET_VTIMER else TIMER_PTIMER, offset)
    return True


@get_offset_attribute.rule(since="2021-07-16, v2")
def physical_offset_whichever_is_asked_for(vcpu: VcpuTime, attr: int) -> int | None:
    """A `break` is missing (v2 to v5): asked for the virtual one, KVM answers the physical one."""
    asked = attr in (KVM_ARM_VCPU_TIMER_OFFSET_VTIMER, KVM_ARM_VCPU_TIMER_OFFSET_PTIMER)
    return timer_get_offset(ptimer(vcpu)) if asked else None


@set_offset_attribute.rule(since="2021-08-04, v6")
async def physical_offset_moves_both(vcpu: VcpuTime, attr: int, offset: int) -> bool:
    """One attribute: the physical counter's offset, under the virtual one's."""
    if attr != KVM_ARM_VCPU_TIMER_PHYS_OFFSET:
        return False
    await update_ptimer_cntpoff(vcpu, offset)
    return True


@get_offset_attribute.rule(since="2021-08-04, v6")
def physical_offset(vcpu: VcpuTime, attr: int) -> int | None:
    """The physical counter's offset."""
    return timer_get_offset(ptimer(vcpu)) if attr == KVM_ARM_VCPU_TIMER_PHYS_OFFSET else None
