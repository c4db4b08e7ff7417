"""KVM_RUN: requests are served, the guest is entered, and something throws it out again."""

from __future__ import annotations

from guestclock.abi.msr import SYSTEM_TIME_MSRS
from guestclock.kvm.model.mutex import lock, unlock
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.lifecycle import vcpu_load, vcpu_put
from guestclock.kvm.model.x86.masterclock import kvm_update_masterclock
from guestclock.kvm.model.x86.page import kvm_guest_time_update
from guestclock.kvm.model.x86.profile import guest_wrmsr
from guestclock.kvm.model.x86.requests import pending
from guestclock.kvm.model.x86.state import VcpuTime, VmTime
from guestclock.kvm.model.x86.tsc import rdtsc, read_l1_tsc
from guestclock.sim import Deadlock, cp


async def serve_requests(vcpu: VcpuTime) -> bool:
    """The requests of this model in the kernel's order; False: start again.

    Source: arch/x86/kvm/x86.c vcpu_enter_guest().
    """
    kvm: KvmHost = vcpu.vm.kvm
    if vcpu.req_suspend_time:
        await kvm.profile.suspend_time.serve(vcpu)
    vcpu.req_migrate_timer = False
    if vcpu.req_masterclock_update:
        vcpu.req_masterclock_update = False
        await kvm_update_masterclock(vcpu.vm)
    if vcpu.req_global_clock_update:
        vcpu.req_global_clock_update = False
        kvm.profile.global_update(vcpu)
    if vcpu.req_clock_update:
        vcpu.req_clock_update = False
        return await kvm_guest_time_update(vcpu)
    return True


async def enter_guest(vcpu: VcpuTime) -> bool:
    """Serves requests until none is left, then enters. False: the thread was kicked (or frozen) and stays outside."""
    kvm: KvmHost = vcpu.vm.kvm
    tasks_run = kvm.machine.tasks_run

    suspend_time = kvm.profile.suspend_time

    def may_try() -> bool:
        # The kernel tries again and again while KVM_REQ_MCLOCK_INPROGRESS is set; nothing comes of it: here it waits.
        barred = vcpu.req_mclock_inprogress or suspend_time.barred(vcpu)
        return not barred or vcpu.kicked or not tasks_run()

    if vcpu.halted:
        await cp("HLT", until=lambda: not vcpu.halted or vcpu.kicked or not tasks_run())
        if vcpu.kicked or not tasks_run():
            return False

    while True:
        suspend_time.polled(vcpu)
        if pending(vcpu) and not await serve_requests(vcpu):
            await cp("cpu_tsc_khz is 0", until=lambda: kvm.machine.cpu_khz(vcpu.on_cpu) != 0)
        await cp("VM entry", until=may_try)
        if vcpu.kicked or not tasks_run():
            return False
        if vcpu.req_mclock_inprogress or suspend_time.barred(vcpu):
            continue  # set again since the guard was true: schedulers may take time between that and this step
        if vcpu.vm.tscs_stopped:
            await _tscs_started(vcpu)
        elif not pending(vcpu):
            vcpu.in_guest = True
            return True


async def _tscs_started(vcpu: VcpuTime) -> None:
    """Waits until StartAllTscs, a kick or the freezer. Raises Deadlock after a day, as lock() does."""
    vm: VmTime = vcpu.vm
    kvm: KvmHost = vm.kvm
    label = f"VM entry of vCPU {vcpu.index} waits until the TSCs of VM {vm.id} are started"

    def may_go() -> bool:
        return not vm.tscs_stopped or vcpu.kicked or not kvm.machine.tasks_run()

    await cp(label, until=may_go, delay_ps=kvm.mutex_patience_ps)
    if not may_go():
        raise Deadlock(label)


def exit_guest(vcpu: VcpuTime) -> None:
    """After each VM exit."""
    vcpu.in_guest = False
    vcpu.ipi = False
    vcpu.last_guest_tsc = vcpu.left_guest_tsc = read_l1_tsc(vcpu, rdtsc(vcpu))
    vcpu.left_guest_ps = vcpu.vm.kvm.machine.timeline.now_ps
    if vcpu.tsc_always_catchup:
        vcpu.req_clock_update = True
    vcpu.vm.kvm.profile.suspend_time.exited(vcpu)


@guest_wrmsr.rule()
def exits_and_enters_again(vcpu: VcpuTime, index: int) -> None:
    """An exit: requests that the write makes are served before the guest's next instruction."""
    exit_guest(vcpu)


@guest_wrmsr.rule(since="6.18", commit="kvm-pvm")
def emulated_in_place(vcpu: VcpuTime, index: int) -> None:
    """No exit, except for the system-time MSR: what other writes ask for waits for the next KVM_RUN.

    Observed on a kvm-pvm host, with a guest that has not gone over to PVM's own mode: its instructions are emulated in
    a row, and requests are not served between them. The source was not at hand.
    """
    if index in SYSTEM_TIME_MSRS:
        exit_guest(vcpu)


async def kvm_run(vcpu: VcpuTime) -> None:
    """One KVM_RUN: the mutex is taken already, and kept. The guest spins, so it leaves only if it is forced."""
    kvm: KvmHost = vcpu.vm.kvm
    tasks_run = kvm.machine.tasks_run
    vcpu_load(vcpu)
    while await enter_guest(vcpu):
        await cp("in the guest", until=lambda: vcpu.ipi or vcpu.kicked or not tasks_run())
        exit_guest(vcpu)
        if vcpu.on_cpu != vcpu.affinity:
            vcpu_put(vcpu)
            vcpu_load(vcpu)
        if vcpu.kicked or not tasks_run():
            break
    vcpu_put(vcpu)


async def thread(vcpu: VcpuTime) -> None:
    """The vCPU's thread from Start to Kick: the mutex is taken already.

    The freezer before a sleep of the host throws it out to userspace; thawed, it comes back.
    """
    tasks_run = vcpu.vm.kvm.machine.tasks_run
    while not vcpu.kicked:
        await kvm_run(vcpu)
        if not tasks_run():
            unlock(vcpu)
            await cp("frozen", until=tasks_run)
            await lock(vcpu, "KVM_RUN")
    vcpu.kicked = False
    vcpu.running = False
    unlock(vcpu)


def move_to_cpu(vcpu: VcpuTime, cpu: int) -> None:
    """sched_setaffinity of the vCPU's thread: a running one is put and loaded anew, others at their next ioctl."""
    vcpu.affinity = cpu
    if vcpu.in_guest:
        vcpu.ipi = True
