"""What the guest does inside a KVM_RUN, one step at a time: between any two it may be thrown out and come back."""

from __future__ import annotations

from typing import Any

from guestclock.abi.arm64 import KVM_REG_ARM_PTIMER_CNT
from guestclock.arith import u64
from guestclock.errors import UserError
from guestclock.kvm.api import (
    CounterReading,
    EnterL2,
    ExitL2,
    GuestAction,
    Hvc,
    ReadCounters,
    ReadSysreg,
    WriteSysreg,
)
from guestclock.kvm.model.arm64.host import KvmHost
from guestclock.kvm.model.arm64.hypercalls import kvm_smccc_call_handler
from guestclock.kvm.model.arm64.lifecycle import lines_changed, vcpu_load, vcpu_put
from guestclock.kvm.model.arm64.nested import enter_l2, exit_l2
from guestclock.kvm.model.arm64.run import (
    enter_guest,
    exit_guest,
    leave_kvm_run,
    must_leave,
    scheduled_out,
    take_timer_interrupts,
)
from guestclock.kvm.model.arm64.state import VcpuTime
from guestclock.kvm.model.arm64.sysregs import cntpoff, cntvoff, read_cntpct, read_cntvct, read_sysreg, write_sysreg
from guestclock.kvm.model.mutex import lock, unlock
from guestclock.sim import cp


class LeftGuest(Exception):
    """The vCPU's thread had to go back to userspace before the guest could do all it should."""


async def step(vcpu: VcpuTime, label: str) -> None:
    """The guest's next step. If something interrupted it meanwhile: exit, entry, and the step after that."""
    await cp(label)
    while True:
        interrupted = take_timer_interrupts(vcpu) or lines_changed(vcpu)
        if vcpu.in_guest and not interrupted and not vcpu.ipi and not vcpu.preempted and not must_leave(vcpu):
            return
        if vcpu.in_guest:
            exit_guest(vcpu)
        if vcpu.preempted:
            await scheduled_out(vcpu)
        elif vcpu.on_cpu != vcpu.affinity:
            vcpu_put(vcpu)
            vcpu_load(vcpu)
        if not await enter_guest(vcpu):
            raise LeftGuest


async def run(vcpu: VcpuTime, actions: tuple[GuestAction, ...]) -> list[Any]:
    """One KVM_RUN, with the mutex taken already: entry, the actions, exit. Thrown out to userspace, it comes back."""
    answers: list[Any] = []
    tasks_run = vcpu.vm.kvm.machine.tasks_run
    abandoned = False
    while True:
        vcpu_load(vcpu)
        try:
            if await enter_guest(vcpu):
                while len(answers) < len(actions):
                    answers.append(await act(vcpu, actions[len(answers)]))
                await step(vcpu, "exit")
                exit_guest(vcpu)
                break
        except LeftGuest:
            pass
        except GeneratorExit:
            abandoned = True  # an explorer gives this run up: no clock can be read any more
            raise
        finally:
            if not abandoned:
                leave_kvm_run(vcpu)
        unlock(vcpu)
        await cp("back in userspace", until=tasks_run)
        await lock(vcpu, "KVM_RUN")
    unlock(vcpu)
    return answers


async def act(vcpu: VcpuTime, action: GuestAction) -> Any:
    """Carries out one action in the guest and answers it."""
    if isinstance(action, ReadCounters):
        return await read_counters(vcpu)
    await step(vcpu, type(action).__name__)
    match action:
        case ReadSysreg(name):
            return read_sysreg(vcpu, name)
        case WriteSysreg(name, value):
            return write_sysreg(vcpu, name, value)
        case Hvc(x0, x1):
            exit_guest(vcpu)
            return kvm_smccc_call_handler(vcpu, x0, x1)
        case EnterL2(offset, None):
            return enter_l2(vcpu, offset)
        case EnterL2():
            raise UserError("EnterL2: a ratio, expected None: arm64 scales no counter")
        case ExitL2():
            return exit_l2(vcpu)
    raise UserError(f"Run: {type(action).__name__} is nothing that an arm64 guest does")


async def read_counters(vcpu: VcpuTime) -> CounterReading:
    """CNTVCT_EL0, CNTPCT_EL0, CNTVCT_EL0: three reads, and whatever comes between them."""
    await step(vcpu, "CNTVCT_EL0")
    kvm: KvmHost = vcpu.vm.kvm
    before = kvm.machine.counter_at(kvm.timeline.now_ps)
    cntvct = read_cntvct(vcpu)
    await step(vcpu, "CNTPCT_EL0")
    cntpct = read_cntpct(vcpu)
    await step(vcpu, "CNTVCT_EL0 again")
    cntvct_after = read_cntvct(vcpu)
    return CounterReading(cntvct, cntpct, cntvct_after, (before, kvm.machine.counter_at(kvm.timeline.now_ps)))


def peek(vcpu: VcpuTime) -> CounterReading:
    """The counters seen from outside, at one read of the host's counter: KVM notices nothing.

    Of a vCPU in KVM_RUN what its guest would read; else by the offsets that it would load.
    """
    kvm: KvmHost = vcpu.vm.kvm
    host_counter = kvm.phys_timer_read()
    cntvct = u64(host_counter - cntvoff(vcpu))
    told = vcpu.running or KVM_REG_ARM_PTIMER_CNT in kvm.profile.timer_regs
    cntpct = u64(host_counter - cntpoff(vcpu)) if told else None
    return CounterReading(cntvct, cntpct, cntvct, (host_counter, host_counter))
