"""An arm64 kernel's profile: one rule per hook point, and the few facts in which kernels differ otherwise."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, NamedTuple

from guestclock.kvm.model.arm64.state import TimerContext, VcpuTime
from guestclock.kvm.model.hooks import Hook
from guestclock.kvm.model.profile import AnyProfile
from guestclock.sim import Checkpoint


class TimerMap(NamedTuple):
    """struct timer_map: which of a vCPU's timers the hardware has, and which KVM emulates."""

    direct_vtimer: TimerContext
    direct_ptimer: TimerContext | None
    emul_vtimer: TimerContext | None
    emul_ptimer: TimerContext | None


Async = Coroutine[Checkpoint, None, None]
OnVcpu = Callable[[VcpuTime], None]
Access = Callable[[], int | None]
TrappedAccess = Callable[[VcpuTime, TimerContext, Access, bool], int | None]
SetOffset = Callable[[VcpuTime, int, int], Coroutine[Checkpoint, None, bool]]

context_offsets: Hook[OnVcpu] = Hook("context_offsets", "the cells in which the offsets of a new vCPU's timers lie")
creation_offsets: Hook[Callable[[VcpuTime], Async]] = Hook("creation_offsets", "what a new vCPU makes of the offsets")
write_counter: Hook[Callable[[VcpuTime, TimerContext, int], Async]] = Hook(
    "write_counter", "KVM_SET_ONE_REG of a counter: this timer's counter shall have that value now"
)
timer_map: Hook[Callable[[VcpuTime], TimerMap]] = Hook("timer_map", "which timers are the hardware's, which emulated")
ptimer_cval: Hook[Callable[[VcpuTime, int], tuple[int, int]]] = Hook(
    "ptimer_cval", "what is added to the physical timer's CVAL for the hardware: at load, and at each exit"
)
load_traps: Hook[OnVcpu] = Hook("load_traps", "CNTHCTL_EL2 when a vCPU is loaded")
entry_traps: Hook[OnVcpu] = Hook("entry_traps", "... and at each entry to the guest")
soft_timer: Hook[Callable[[TimerContext, bool], None]] = Hook(
    "soft_timer", "the hrtimer of an emulated timer, once it is known whether that is due"
)
trapped_access: Hook[TrappedAccess] = Hook("trapped_access", "a guest's access to a timer register that traps")
user_ctl: Hook[Callable[[TimerContext], int]] = Hook("user_ctl", "KVM_GET_ONE_REG of a timer's CTL")
timer_offset: Hook[Callable[[VcpuTime], int]] = Hook("timer_offset", "KVM_GET_ONE_REG of KVM_REG_ARM_TIMER_OFFSET")
ptp_offset: Hook[Callable[[VcpuTime, int], int]] = Hook("ptp_offset", "what the PTP hypercall takes from the counter")
set_offset_attribute: Hook[SetOffset] = Hook(
    "set_offset_attribute", "KVM_SET_DEVICE_ATTR of an offset in the timers' group; whether there is this attribute"
)
get_offset_attribute: Hook[Callable[[VcpuTime, int], int | None]] = Hook(
    "get_offset_attribute", "KVM_GET_DEVICE_ATTR of the same"
)

suspend_time: Hook[Any] = Hook("suspend_time", "whether vCPUs are held over a sleep of the host")

HOOKS: tuple[Hook[Any], ...] = (
    context_offsets, creation_offsets, write_counter, timer_map, ptimer_cval, load_traps, entry_traps, soft_timer,
    trapped_access, user_ctl, timer_offset, ptp_offset, set_offset_attribute, get_offset_attribute, suspend_time,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Profile(AnyProfile):
    """KVM of one kernel on arm64.

    Rules stand at the hook points of the same name. Facts: timer_regs: the timers' registers that KVM_GET_REG_LIST
    names, in its order. timer_offset_reg: "", "always" or "opt-in". timer_irqs: attributes of interrupt numbers.
    ppis_of_the_vm: they are the VM's, and fixed once a vCPU has run. ptimer_first: where all timers are gone through,
    the physical one is the first, else the virtual one. ns_frac_per_timer: else one for the host.
    ctl_64_bits: CTL is kept as it was written. uses_cntpoff: CNTPOFF_EL2 where the host has it. nested: guest
    hypervisors. map_shows_emul_vtimer: in the tracepoint. counter_offset_ioctl and ptp say what there is.
    """

    context_offsets: OnVcpu
    creation_offsets: Callable[[VcpuTime], Async]
    write_counter: Callable[[VcpuTime, TimerContext, int], Async]
    timer_map: Callable[[VcpuTime], TimerMap]
    ptimer_cval: Callable[[VcpuTime, int], tuple[int, int]]
    load_traps: OnVcpu
    entry_traps: OnVcpu
    soft_timer: Callable[[TimerContext, bool], None]
    trapped_access: TrappedAccess
    user_ctl: Callable[[TimerContext], int]
    timer_offset: Callable[[VcpuTime], int]
    ptp_offset: Callable[[VcpuTime, int], int]
    set_offset_attribute: SetOffset
    get_offset_attribute: Callable[[VcpuTime, int], int | None]
    suspend_time: Any

    timer_regs: tuple[int, ...]
    timer_offset_reg: str
    timer_irqs: int
    ppis_of_the_vm: bool
    ptimer_first: bool
    ns_frac_per_timer: bool
    ctl_64_bits: bool
    uses_cntpoff: bool
    counter_offset_ioctl: bool
    ptp: bool
    nested: bool
    map_shows_emul_vtimer: bool

    @property
    def arch(self) -> str:
        return "arm64"
