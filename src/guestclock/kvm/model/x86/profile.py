"""A kernel profile: one rule per hook point, and the few facts in which kernels differ otherwise."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from guestclock.kvm.api import ClockData
from guestclock.kvm.model.hooks import Hook
from guestclock.kvm.model.profile import AnyProfile
from guestclock.kvm.model.x86.state import SystemTimePage, VcpuTime, VmTime
from guestclock.sim import Checkpoint


class TscWrite:
    """One tracked TSC write on its way through kvm_synchronize_tsc(): what came in, and what will be stored."""

    __slots__ = ("by", "data", "elapsed_ns", "ns", "offset")

    def __init__(self, by: str, data: int, offset: int, ns: int, elapsed_ns: int) -> None:
        self.by = by
        """"user" (KVM_SET_MSRS), "kernel" (for a new vCPU) or, before 5.10, "guest"."""
        self.data, self.offset = data, offset
        """Cycles, u64: the value, and the offset that would give exactly it."""
        self.ns, self.elapsed_ns = ns, elapsed_ns
        """u64 ns: base clock now, and since the previous tracked write (u64: -1 is 584 years)."""


Async = Coroutine[Checkpoint, None, None]
TscMatching = Callable[[VmTime, VcpuTime, TscWrite], bool]
MatchedWrite = Callable[[VmTime, VcpuTime, TscWrite], None]
TscRecord = Callable[[VmTime, VcpuTime, TscWrite, bool], None]
MasterclockRequest = Callable[[VmTime, bool, bool, bool], bool]
OnVcpu = Callable[[VcpuTime], None]
PageStore = Callable[[VcpuTime, SystemTimePage, int, int, int], Coroutine[Checkpoint, None, int]]

tsc_matching: Hook[TscMatching] = Hook("tsc_matching", "does this TSC write mean 'in sync'?")
matched_stable: Hook[MatchedWrite] = Hook(
    "matched_stable", "what a matched write becomes while the host's TSC is stable"
)
matched_unstable: Hook[MatchedWrite] = Hook("matched_unstable", "... and while it is not")
tsc_record: Hook[TscRecord] = Hook("tsc_record", "what is remembered of a TSC write")
masterclock_request: Hook[MasterclockRequest] = Hook("masterclock_request", "does a TSC write ask for a new snapshot?")
guest_tsc_write: Hook[Callable[[VcpuTime, int], Async]] = Hook("guest_tsc_write", "WRMSR to the TSC by the guest")
guest_wrmsr: Hook[Callable[[VcpuTime, int], None]] = Hook(
    "guest_wrmsr", "a guest's WRMSR of this MSR: does it leave the guest, so that requests are served?"
)
creation_tsc: Hook[Callable[[VcpuTime], Async]] = Hook("creation_tsc", "the TSC of a new vCPU")
apply_tsc_offset: Hook[Callable[[VcpuTime, int], None]] = Hook(
    "apply_tsc_offset", "what the hardware makes of an offset"
)
snapshot: Hook[Callable[[VmTime], tuple[int, int] | None]] = Hook(
    "snapshot", "(host TSC, base ns) from which pages are made, or None: clocks are read for each"
)
generation_tsc: Hook[Callable[[VcpuTime, int], int]] = Hook(
    "generation_tsc", "where a generation's TSC should be by now"
)
catchup: Hook[Callable[[VcpuTime, int, int], int]] = Hook("catchup", "brings the TSC of a page update forward")
page_khz: Hook[Callable[[VcpuTime, int], int]] = Hook("page_khz", "the rate for which a page is scaled")
page_ns: Hook[Callable[[VcpuTime, int, int], int]] = Hook("page_ns", "the base clock's reading that goes into a page")
page_store: Hook[PageStore] = Hook(
    "page_store", "the stores by which a page reaches the guest; answers the flags, those kept from before among them"
)
write_pages: Hook[Callable[[VcpuTime, int, int, int], Async]] = Hook(
    "write_pages", "the pages of one update: KVM's, Xen's two, Hyper-V's"
)
global_update: Hook[OnVcpu] = Hook("global_update", "what KVM_REQ_GLOBAL_CLOCK_UPDATE does")
load_update: Hook[OnVcpu] = Hook("load_update", "what loading a vCPU on another CPU asks for")
vcpu_created: Hook[OnVcpu] = Hook("vcpu_created", "delayed works that a new vCPU starts")
get_clock: Hook[Callable[[VmTime], ClockData]] = Hook("get_clock", "KVM_GET_CLOCK")
guest_kvmclock: Hook[Callable[[VmTime, int], int]] = Hook("guest_kvmclock", "definition C: kvmclock at a host TSC")
set_clock: Hook[Callable[[VmTime, int, int, int], Async]] = Hook("set_clock", "KVM_SET_CLOCK")
wall_clock_epoch: Hook[Callable[[VmTime], int]] = Hook("wall_clock_epoch", "realtime when kvmclock was 0")
system_time_write: Hook[Callable[[VcpuTime, bool], Async]] = Hook(
    "system_time_write", "what becomes of the page when its MSR is written; whether it is the host that does"
)
suspend_time: Hook[Any] = Hook("suspend_time", "whether, and how, a guest is told that its host slept")
timer_expiry: Hook[Callable[[int, int, int], int]] = Hook("timer_expiry", "the jiffy at which a delayed work runs")

HOOKS: tuple[Hook[Any], ...] = (
    tsc_matching, matched_stable, matched_unstable, tsc_record, masterclock_request, guest_tsc_write, guest_wrmsr,
    creation_tsc, apply_tsc_offset, snapshot, generation_tsc, catchup, page_khz, page_ns, page_store, write_pages,
    global_update, load_update, vcpu_created, get_clock, guest_kvmclock, set_clock, wall_clock_epoch,
    system_time_write, timer_expiry, suspend_time,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Profile(AnyProfile):
    """KVM of one kernel on x86.

    Rules stand at the hook points of the same name. Facts: base_clock "raw" or "boottime"; adjust_clock: what
    KVM_CAP_ADJUST_CLOCK answers and, from 4 on, the flags KVM_SET_CLOCK takes; tsc_adjust, xen, hyperv: what guests
    can be given; the rest says which ioctls exist.
    """

    tsc_matching: TscMatching
    matched_stable: MatchedWrite
    matched_unstable: MatchedWrite
    tsc_record: TscRecord
    masterclock_request: MasterclockRequest
    guest_tsc_write: Callable[[VcpuTime, int], Async]
    guest_wrmsr: Callable[[VcpuTime, int], None]
    creation_tsc: Callable[[VcpuTime], Async]
    apply_tsc_offset: Callable[[VcpuTime, int], None]
    snapshot: Callable[[VmTime], tuple[int, int] | None]
    generation_tsc: Callable[[VcpuTime, int], int]
    catchup: Callable[[VcpuTime, int, int], int]
    page_khz: Callable[[VcpuTime, int], int]
    page_ns: Callable[[VcpuTime, int, int], int]
    page_store: PageStore
    write_pages: Callable[[VcpuTime, int, int, int], Async]
    global_update: OnVcpu
    load_update: OnVcpu
    vcpu_created: OnVcpu
    get_clock: Callable[[VmTime], ClockData]
    guest_kvmclock: Callable[[VmTime, int], int]
    set_clock: Callable[[VmTime, int, int, int], Async]
    wall_clock_epoch: Callable[[VmTime], int]
    system_time_write: Callable[[VcpuTime, bool], Async]
    timer_expiry: Callable[[int, int, int], int]
    suspend_time: Any

    base_clock: str
    adjust_clock: int
    tracepoints: tuple[str, ...]
    tracking_section: bool
    creation_before_publish: bool
    offset_attribute: bool
    vcpu_khz_ioctl: bool
    vm_khz_ioctl: bool
    vm_khz_after_vcpus: bool
    pm_notifier: bool
    boot_vcpu_msr_matters: bool
    backwards_tsc_kept: bool
    kvmclock_ctrl: bool
    tsc_adjust: bool
    xen: bool
    hyperv: bool
    protects_tsc: bool
    stop_all_tscs: bool = False
    masterclock_sync_period_s: int = 0

    @property
    def arch(self) -> str:
        return "x86_64"
