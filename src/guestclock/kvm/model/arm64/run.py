"""KVM_RUN: the guest is entered, and something throws it out again.

Source: arch/arm64/kvm/arm.c kvm_arch_vcpu_ioctl_run(), v6.12.
"""

from __future__ import annotations

from guestclock.kvm.model.arm64.arch_timer import kvm_timer_should_fire, kvm_timer_update_irq
from guestclock.kvm.model.arm64.host import KvmHost
from guestclock.kvm.model.arm64.lifecycle import (
    kvm_timer_sync_nested,
    kvm_timer_update_run,
    lines_changed,
    vcpu_load,
    vcpu_put,
)
from guestclock.kvm.model.arm64.pvtime import kvm_update_stolen_time
from guestclock.kvm.model.arm64.soft_timer import settle
from guestclock.kvm.model.arm64.state import VcpuTime, vtimer
from guestclock.kvm.model.mutex import lock, unlock
from guestclock.sim import PS_PER_NS, cp


def must_leave(vcpu: VcpuTime) -> bool:
    """Whether the thread has to go back to userspace: a signal, or the freezer."""
    return vcpu.kicked or not vcpu.vm.kvm.machine.tasks_run()


async def enter_guest(vcpu: VcpuTime) -> bool:
    """Serves requests and enters. False: the thread goes back to userspace."""
    kvm: KvmHost = vcpu.vm.kvm
    suspend_time = kvm.profile.suspend_time
    held = suspend_time.holds

    def may_try() -> bool:
        return not suspend_time.barred(vcpu) or vcpu.preempted or must_leave(vcpu)

    while True:
        if vcpu.req_record_steal:
            vcpu.req_record_steal = False
            kvm_update_stolen_time(vcpu)
        await cp("VM entry", until=may_try if held else None)
        if vcpu.preempted:
            await scheduled_out(vcpu)
            continue
        if must_leave(vcpu):
            return False
        if held and suspend_time.barred(vcpu):
            continue  # closed since the guard was true: schedulers may take time between that and this step
        take_timer_interrupts(vcpu)
        if lines_changed(vcpu):
            return False
        kvm.profile.entry_traps(vcpu)
        vcpu.in_guest = True
        return True


def exit_guest(vcpu: VcpuTime) -> None:
    """After each VM exit."""
    vcpu.in_guest = False
    vcpu.ipi = False
    vcpu.vm.kvm.profile.suspend_time.exited(vcpu)
    if not vcpu.vm.vgic and vcpu.enabled and not kvm_timer_should_fire(vtimer(vcpu)):
        kvm_timer_update_irq(vtimer(vcpu), False)  # kvm_timer_sync_user()
    if vcpu.is_hyp and not vcpu.vm.kvm.ecv:
        kvm_timer_sync_nested(vcpu)


def take_timer_interrupts(vcpu: VcpuTime) -> bool:
    """The host's interrupts of this vCPU's timers that are due by now; whether there was one: the guest is out then."""
    fired = False
    for timer in vcpu.timers:
        if timer.soft_armed:
            settle(timer)
            fired = fired or not timer.soft_armed
        elif timer.loaded and not timer.level and kvm_timer_should_fire(timer):
            kvm_timer_update_irq(timer, True)  # kvm_arch_timer_handler()
            fired = True
    return fired


async def scheduled_out(vcpu: VcpuTime) -> None:
    """The thread loses its CPU while it could run, and gets it back."""
    vcpu_put(vcpu)
    vcpu.preempted = False
    await cp("preempted", delay_ps=vcpu.preempted_ns * PS_PER_NS)
    vcpu.run_delay += vcpu.preempted_ns
    vcpu_load(vcpu)


async def kvm_run(vcpu: VcpuTime) -> None:
    """One KVM_RUN: the mutex is taken already, and kept. The guest spins, so it leaves only if it is forced.

    Its own timers do not throw it out while it spins: they are looked at when it enters.
    """
    vcpu_load(vcpu)
    while await enter_guest(vcpu):
        await cp("in the guest", until=lambda: vcpu.ipi or vcpu.preempted or must_leave(vcpu))
        exit_guest(vcpu)
        if vcpu.preempted:
            await scheduled_out(vcpu)
        elif vcpu.on_cpu != vcpu.affinity:
            vcpu_put(vcpu)
            vcpu_load(vcpu)
        if must_leave(vcpu):
            break
    leave_kvm_run(vcpu)


async def thread(vcpu: VcpuTime) -> None:
    """The vCPU's thread from Start to Kick: the mutex is taken already.

    The freezer before a sleep of the host throws it out to userspace; thawed, it comes back.
    """
    tasks_run = vcpu.vm.kvm.machine.tasks_run
    while not vcpu.kicked:
        await kvm_run(vcpu)
        if vcpu.kicked:
            break
        # Frozen, or a timer's output has changed and userspace has to hear of it: either way it comes back.
        unlock(vcpu)
        await cp("back in userspace", until=tasks_run)
        await lock(vcpu, "KVM_RUN")
    vcpu.kicked = False
    vcpu.running = False
    unlock(vcpu)


def leave_kvm_run(vcpu: VcpuTime) -> None:
    kvm_timer_update_run(vcpu)
    vcpu_put(vcpu)


def move_to_cpu(vcpu: VcpuTime, cpu: int) -> None:
    """sched_setaffinity of the vCPU's thread: a running one is put and loaded anew, others at their next load."""
    vcpu.affinity = cpu
    if vcpu.in_guest:
        vcpu.ipi = True
