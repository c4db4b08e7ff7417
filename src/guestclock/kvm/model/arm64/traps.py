"""CNTHCTL_EL2: whether a guest reads CNTPCT_EL0 and touches its physical timer by itself, or traps.

The register is a physical CPU's. Kernels that write it at each load or entry give every vCPU its own; who writes it
once leaves it to whoever runs there next. A vCPU feels what it stands at when it is loaded or enters.
Source: arch/arm64/kvm/arch_timer.c timer_set_traps(), hyp/nvhe/timer-sr.c, v6.12 and the series of 2021.
"""

from __future__ import annotations

from guestclock.errors import UserError
from guestclock.kvm.model.arm64.arch_timer import timer_get_offset
from guestclock.kvm.model.arm64.host import KvmHost
from guestclock.kvm.model.arm64.profile import TimerMap, entry_traps, load_traps, ptimer_cval, timer_map
from guestclock.kvm.model.arm64.state import (
    TIMER_HPTIMER,
    TIMER_HVTIMER,
    CpuTime,
    TimerContext,
    VcpuTime,
    ptimer,
    vtimer,
)


def cpu_of(vcpu: VcpuTime) -> CpuTime:
    """The physical CPU it is loaded on."""
    kvm: KvmHost = vcpu.vm.kvm
    return kvm.cpus[vcpu.on_cpu]


def program(vcpu: VcpuTime, *, traps: bool) -> None:
    """Writes the two bits of the physical CPU, and the vCPU runs with them."""
    cpu = cpu_of(vcpu)
    cpu.el1pcten = cpu.el1pcen = not traps
    feel(vcpu)


def feel(vcpu: VcpuTime) -> None:
    """The vCPU runs with what the physical CPU stands at."""
    cpu = cpu_of(vcpu)
    vcpu.el1pcten, vcpu.el1pcen = cpu.el1pcten, cpu.el1pcen


def _world_switch(vcpu: VcpuTime, *, counter_traps: bool) -> None:
    """nVHE: the timer always traps. Undone at each exit, so nothing of it stays on the physical CPU."""
    vcpu.el1pcten, vcpu.el1pcen = not counter_traps, False


# ---- at load (VHE)


@load_traps.rule(since="5.10")
def as_the_cpu_was_set_up(vcpu: VcpuTime) -> None:
    """VHE: both free, once for all when KVM took the CPU."""
    if vcpu.vm.kvm.vhe:
        feel(vcpu)


@load_traps.rule(since="6.4", commit="c605ee245097")
def trapped_with_an_offset_without_cntpoff(vcpu: VcpuTime) -> None:
    """VHE: both trap if the physical timer has an offset that the hardware cannot apply."""
    kvm: KvmHost = vcpu.vm.kvm
    if kvm.vhe:
        direct = kvm.profile.timer_map(vcpu).direct_ptimer
        if direct is None:
            raise UserError(
                f"kernel {kvm.profile.name}: load_traps without a direct physical timer, expected one on VHE"
            )
        program(vcpu, traps=not kvm.has_cntpoff and timer_get_offset(direct) != 0)


@load_traps.rule(since="2021-08-04, v6")
def trapped_with_an_offset_without_ecv(vcpu: VcpuTime) -> None:
    """VHE: both trap if the physical timer has an offset and the CPU no FEAT_ECV."""
    if vcpu.vm.kvm.vhe:
        program(vcpu, traps=emulated_for_its_offset(vcpu))


# ---- at entry (nVHE, and v2 on VHE)


@entry_traps.rule(since="5.10")
def only_the_timer(vcpu: VcpuTime) -> None:
    """nVHE: the timer traps, the counter is free."""
    if not vcpu.vm.kvm.vhe:
        _world_switch(vcpu, counter_traps=False)


@entry_traps.rule(since="6.4", commit="c605ee245097")
def the_counter_with_an_offset(vcpu: VcpuTime) -> None:
    """nVHE: the timer traps, and the counter if the VM has a physical offset."""
    if not vcpu.vm.kvm.vhe:
        _world_switch(vcpu, counter_traps=vcpu.vm.poffset.value != 0)


@entry_traps.rule(since="2021-06-08, v1")
def the_counter_with_its_own_offset(vcpu: VcpuTime) -> None:
    """nVHE: as since 6.4, by the vCPU's own offset. VHE: nothing, the CPU is as somebody left it."""
    if vcpu.vm.kvm.vhe:
        feel(vcpu)
    else:
        _world_switch(vcpu, counter_traps=timer_get_offset(ptimer(vcpu)) != 0)


@entry_traps.rule(since="2021-07-16, v2")
def both_with_its_own_offset(vcpu: VcpuTime) -> None:
    """VHE and nVHE alike, by the vCPU's own offset."""
    offset = timer_get_offset(ptimer(vcpu)) != 0
    if vcpu.vm.kvm.vhe:
        program(vcpu, traps=offset)
    else:
        _world_switch(vcpu, counter_traps=offset)


@entry_traps.rule(since="2021-08-04, v6")
def the_counter_with_its_own_offset_without_ecv(vcpu: VcpuTime) -> None:
    """nVHE: not with FEAT_ECV, although nobody enables CNTPOFF_EL2 there: the guest reads the host's counter."""
    if not vcpu.vm.kvm.vhe:
        _world_switch(vcpu, counter_traps=emulated_for_its_offset(vcpu))


# ---- which timers the hardware has


def emulated_for_its_offset(vcpu: VcpuTime) -> bool:
    """ptimer_emulation_required() of v6 and v8."""
    return not vcpu.vm.kvm.ecv and timer_get_offset(ptimer(vcpu)) != 0


def _map(vcpu: VcpuTime, *, physical: bool) -> TimerMap:
    """EL1's timers. physical: the hardware has the physical one too."""
    timer: TimerContext = ptimer(vcpu)
    return TimerMap(vtimer(vcpu), timer if physical else None, None, None if physical else timer)


@timer_map.rule(since="5.10")
def both_on_vhe(vcpu: VcpuTime) -> TimerMap:
    """VHE: both are the hardware's; nVHE: the physical one is emulated."""
    return _map(vcpu, physical=vcpu.vm.kvm.vhe)


@timer_map.rule(since="6.4", commit="81dc9504a700")
def both_on_vhe_or_el2s(vcpu: VcpuTime) -> TimerMap:
    """VHE: both are the hardware's, of a guest hypervisor's four those of the level that runs; others are emulated."""
    if len(vcpu.timers) == 2:
        return _map(vcpu, physical=vcpu.vm.kvm.vhe)
    el1, el2 = (vtimer(vcpu), ptimer(vcpu)), (vcpu.timers[TIMER_HVTIMER], vcpu.timers[TIMER_HPTIMER])
    return TimerMap(*el2, *el1) if vcpu.is_hyp else TimerMap(*el1, *el2)


@timer_map.rule(since="2021-06-08, v1")
def physical_emulated_with_an_offset(vcpu: VcpuTime) -> TimerMap:
    """VHE: the physical one is the hardware's as long as its offset is 0.

    Between a load and the next put the answer may change: then nobody saves the timer that the hardware has.
    """
    return _map(vcpu, physical=vcpu.vm.kvm.vhe and timer_get_offset(ptimer(vcpu)) == 0)


@timer_map.rule(since="2021-08-04, v6")
def physical_emulated_with_an_offset_without_ecv(vcpu: VcpuTime) -> TimerMap:
    """VHE: the physical one is emulated if it has an offset and the CPU no FEAT_ECV."""
    return _map(vcpu, physical=vcpu.vm.kvm.vhe and not emulated_for_its_offset(vcpu))


# ---- the physical timer's CVAL in the hardware


@ptimer_cval.rule(since="5.10")
def cval_as_it_is(vcpu: VcpuTime, offset: int) -> tuple[int, int]:
    """The guest's CVAL."""
    return 0, 0


@ptimer_cval.rule(since="6.4", commit="2b4825a86940")
def cval_and_offset_without_cntpoff(vcpu: VcpuTime, offset: int) -> tuple[int, int]:
    """On the host's counter, unless the hardware has the offset: while the guest is out, that compares it wrongly."""
    return (0, 0) if vcpu.vm.kvm.has_cntpoff else (offset, 0)


@ptimer_cval.rule(since="6.6")
def cval_and_offset(vcpu: VcpuTime, offset: int) -> tuple[int, int]:
    """On the host's counter; with CNTPOFF_EL2 on the guest's, but at each exit brought to the host's."""
    return (0, offset) if vcpu.vm.kvm.has_cntpoff else (offset, 0)
