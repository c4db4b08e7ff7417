"""What the guest does inside a KVM_RUN, one step at a time: between any two it may be thrown out and come back."""

from __future__ import annotations

from typing import Any

from guestclock.abi.pvclock import PVCLOCK_GUEST_STOPPED
from guestclock.errors import UserError
from guestclock.kvm.api import (
    ClearGuestStopped,
    ClockReading,
    EnterL2,
    ExitL2,
    GuestAction,
    Rdmsr,
    ReadClocks,
    Wrmsr,
)
from guestclock.kvm.model.mutex import lock, unlock
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.kvmclock import kvmclock_b
from guestclock.kvm.model.x86.lifecycle import vcpu_load, vcpu_put
from guestclock.kvm.model.x86.msr import get_msr, set_msr
from guestclock.kvm.model.x86.nested import enter_l2, exit_l2
from guestclock.kvm.model.x86.run import enter_guest, exit_guest
from guestclock.kvm.model.x86.state import SystemTimePage, VcpuTime
from guestclock.kvm.model.x86.tsc import guest_tsc, l1_tsc_now, rdtsc
from guestclock.kvm.record import as_json
from guestclock.sim import Event, cp


class Kicked(Exception):
    """The vCPU was kicked (or frozen) before the guest could do all it should."""


async def step(vcpu: VcpuTime, label: str) -> None:
    """The guest's next step. If it was interrupted meanwhile: exit, requests, entry, and the step after that."""
    await cp(label)
    tasks_run = vcpu.vm.kvm.machine.tasks_run
    while not vcpu.in_guest or vcpu.ipi or vcpu.kicked or not tasks_run():
        if vcpu.in_guest:
            exit_guest(vcpu)
        if not await enter_guest(vcpu):
            raise Kicked


async def run(vcpu: VcpuTime, actions: tuple[GuestAction, ...]) -> list[Any]:
    """One KVM_RUN, with the mutex taken already: entry, the actions, exit. Frozen to userspace, it comes back."""
    answers: list[Any] = []
    machine = vcpu.vm.kvm.machine
    abandoned = False
    while True:
        vcpu_load(vcpu)
        try:
            if await enter_guest(vcpu):
                while len(answers) < len(actions):
                    answers.append(await act(vcpu, actions[len(answers)]))
                await step(vcpu, "HLT")
                exit_guest(vcpu)
                break
        except Kicked:
            pass
        except GeneratorExit:
            abandoned = True  # an explorer gives this run up: no clock can be read any more
            raise
        finally:
            if not abandoned:
                vcpu_put(vcpu)
        unlock(vcpu)
        await cp("frozen", until=machine.tasks_run)
        await lock(vcpu, "KVM_RUN")
    unlock(vcpu)
    return answers


async def act(vcpu: VcpuTime, action: GuestAction) -> Any:
    """Carries out one action in the guest and answers it."""
    if isinstance(action, ReadClocks):
        return await read_clocks(vcpu)
    await step(vcpu, type(action).__name__)
    match action:
        case Wrmsr(index, data):
            vcpu.vm.kvm.profile.guest_wrmsr(vcpu, index)
            accepted = await set_msr(vcpu, index, data, by_host=False)
            return None if accepted else "#GP"
        case Rdmsr(index):
            value = get_msr(vcpu, index, by_host=False)
            return "#GP" if value is None else value
        case ClearGuestStopped():
            return clear_guest_stopped(vcpu.pv_time)
        case EnterL2(offset, ratio):
            return enter_l2(vcpu, offset, ratio)
        case ExitL2():
            return exit_l2(vcpu)
    raise UserError(f"Run: {type(action).__name__} is nothing that an x86 guest does")


async def read_clocks(vcpu: VcpuTime) -> ClockReading:
    """RDTSC and, from L1, kvmclock by the version protocol: tried again until no update came between.

    Source: arch/x86/kernel/pvclock.c __pvclock_clocksource_read().
    """
    kvm: KvmHost = vcpu.vm.kvm
    while True:
        await step(vcpu, "pvclock read: version")
        start_ps = kvm.timeline.now_ps if kvm.emit is not None else 0
        page: SystemTimePage | None = None if vcpu.l2_active else vcpu.pv_time
        version = page.version & ~1 if page is not None else 0  # concrete: a count
        await step(vcpu, "pvclock read: TSC and page")
        host_tsc = rdtsc(vcpu)
        tsc = guest_tsc(vcpu, host_tsc)
        seen = None if page is None else page.copy()
        await step(vcpu, "pvclock read: version again")
        if page is None or page.version == version:
            break
    kvmclock_ns = kvmclock_b(seen, tsc) if seen is not None and version != 0 else None
    reading = ClockReading(tsc, seen, kvmclock_ns, (host_tsc, host_tsc))
    if kvm.emit is not None:
        kvm.emit(Event("guest", "clocks", start_ps, kvm.timeline.now_ps, vcpu.index, as_json(reading)))
    return reading


def peek(vcpu: VcpuTime) -> ClockReading:
    """The clocks seen from outside: L1's TSC and the page as it stands. KVM notices nothing."""
    host_tsc = rdtsc(vcpu)
    tsc = l1_tsc_now(vcpu, host_tsc)
    page: SystemTimePage | None = vcpu.pv_time
    if page is None:
        return ClockReading(tsc, None, None, (host_tsc, host_tsc))
    seen = page.copy()
    whole = seen.version != 0 and not seen.version & 1  # concrete: a count
    return ClockReading(tsc, seen, kvmclock_b(seen, tsc) if whole else None, (host_tsc, host_tsc))


def clear_guest_stopped(page: SystemTimePage | None) -> bool:
    """The guest's pvclock_touch_watchdogs path: clears the flag in its own page; whether it was set."""
    if page is None or not page.flags & PVCLOCK_GUEST_STOPPED:  # concrete: flags
        return False
    page.flags = page.flags & ~PVCLOCK_GUEST_STOPPED  # concrete: flags
    return True
