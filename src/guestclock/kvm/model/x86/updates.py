"""The update schedulers: when pages are written again although nothing changed.

Until 6.18 a vCPU's page update asked for all others' 100 ms later, and every 300 s for all. 6.19 removed both waits.
"""

from __future__ import annotations

from collections.abc import Callable

from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.profile import global_update, load_update, vcpu_created
from guestclock.kvm.model.x86.requests import clock_update_all, kick
from guestclock.kvm.model.x86.state import VcpuTime, VmTime
from guestclock.kvm.model.x86.tsc import NSEC_PER_SEC
from guestclock.sim import PS_PER_S, cp

KVMCLOCK_UPDATE_DELAY_NS = 100_000_000
KVMCLOCK_SYNC_PERIOD_NS = 300 * NSEC_PER_SEC


# ---- delayed works


def schedule_kvmclock_update(vm: VmTime, delay_ns: int) -> None:
    """schedule_delayed_work(): nothing happens if the work is queued already."""
    if vm.kvmclock_update_pending:
        return
    kvm: KvmHost = vm.kvm
    vm.kvmclock_update_pending = True
    name = f"VM {vm.id} kvmclock_update_work"
    kvm.spawner.spawn(name, _kvmclock_update_fn(vm, kvm.timer_delay_ps(delay_ns)), daemon=True)


async def _kvmclock_update_fn(vm: VmTime, delay_ps: int) -> None:
    await _awake_after(vm, "kvmclock_update_fn", delay_ps)
    vm.kvmclock_update_pending = False
    update_and_kick_all(vm)


async def kvmclock_sync(vm: VmTime) -> None:
    """kvmclock_sync_work, for the life of the VM."""
    kvm: KvmHost = vm.kvm
    while True:
        await _awake_after(vm, "kvmclock_sync_fn", kvm.timer_delay_ps(KVMCLOCK_SYNC_PERIOD_NS))
        schedule_kvmclock_update(vm, 0)


async def _awake_after(vm: VmTime, label: str, delay_ps: int) -> None:
    kvm: KvmHost = vm.kvm
    await cp(label, delay_ps=delay_ps)
    while not kvm.machine.awake():
        await cp(label, until=kvm.machine.awake)


def update_and_kick_all(vm: VmTime) -> None:
    """KVM_REQ_CLOCK_UPDATE and a kick for every vCPU."""
    clock_update_all(vm)
    for vcpu in vm.vcpus:
        kick(vcpu)


# ---- KVM_REQ_GLOBAL_CLOCK_UPDATE


@global_update.rule(since="2.6.33")
def own_page_only(vcpu: VcpuTime) -> None:
    """This vCPU's page; there is no request for all (up to 3.9)."""
    vcpu.req_clock_update = True


@global_update.rule(since="3.10", commit="0061d53daf26")
def all_at_once(vcpu: VcpuTime) -> None:
    """All pages now (3.10 to 3.14, and again since 6.19)."""
    vcpu.req_clock_update = True
    update_and_kick_all(vcpu.vm)


@global_update.rule(since="3.15", commit="7e44e4495a39")
def all_after_100ms(vcpu: VcpuTime) -> None:
    """This vCPU's page now, all pages 100 ms later."""
    vcpu.req_clock_update = True
    schedule_kvmclock_update(vcpu.vm, KVMCLOCK_UPDATE_DELAY_NS)


# ---- at vcpu_load


@load_update.rule(since="3.10", commit="0061d53daf26")
def load_asks_for_all(vcpu: VcpuTime) -> None:
    """A global update."""
    vcpu.req_global_clock_update = True


@load_update.rule(since="2.6.33")
def load_asks_for_own(vcpu: VcpuTime) -> None:
    """An update of this vCPU's page."""
    vcpu.req_clock_update = True


@load_update.rule(since="7.1", commit="8fe2e698fce4")
def load_asks_for_all_10_times_a_second(vcpu: VcpuTime) -> None:
    """A global update, at most ten in a second per VM; beyond that an update of this vCPU's page."""
    vm: VmTime = vcpu.vm
    kvm: KvmHost = vm.kvm
    now_ps = kvm.timeline.now_ps
    if vm.ratelimit_done < 0 or now_ps > vm.ratelimit_begin_ps + PS_PER_S:
        vm.ratelimit_begin_ps = now_ps
        vm.ratelimit_done = 0
    if vm.ratelimit_done < 10:
        vm.ratelimit_done += 1
        vcpu.req_global_clock_update = True
    else:
        vcpu.req_clock_update = True


# ---- at vCPU creation


@vcpu_created.rule(since="3.15", commit="332967a3eac0")
def sync_every_300s(vcpu: VcpuTime) -> None:
    """vCPU 0 starts the periodic work, unless kvm.kvmclock_periodic_sync=N."""
    kvm: KvmHost = vcpu.vm.kvm
    if vcpu.index == 0 and kvm.options.kvmclock_periodic_sync:
        kvm.spawner.spawn(f"VM {vcpu.vm.id} kvmclock_sync_work", kvmclock_sync(vcpu.vm), daemon=True)


@vcpu_created.rule(since="2.6.33")
def no_periodic_sync(vcpu: VcpuTime) -> None:
    """No periodic work (up to 3.14, and again since 6.19)."""


def with_masterclock_sync(created: Callable[[VcpuTime], None], period_s: int) -> Callable[[VcpuTime], None]:
    """`created`, and with vCPU 0 the delayed work of the 2023 RFC (masterclock_sync_period)."""

    def created_with_masterclock_sync(vcpu: VcpuTime) -> None:
        created(vcpu)
        if vcpu.index == 0:
            kvm: KvmHost = vcpu.vm.kvm
            name = f"VM {vcpu.vm.id} masterclock_sync_work"
            kvm.spawner.spawn(name, masterclock_sync(vcpu.vm, period_s * NSEC_PER_SEC), daemon=True)

    return created_with_masterclock_sync


async def masterclock_sync(vm: VmTime, period_ns: int) -> None:
    """Requests a masterclock update every period, and kicks, so that a running VM re-snapshots at once."""
    kvm: KvmHost = vm.kvm
    while True:
        await _awake_after(vm, "masterclock_sync_fn", kvm.timer_delay_ps(period_ns))
        for vcpu in vm.vcpus:
            vcpu.req_masterclock_update = True
            kick(vcpu)
