"""arm64 in the suspend thread's worlds: the counters of one VM are the host's less an offset, and no sleep stops them.

So the counter measures a sleep itself, and the host does not err about it. Since 6.4 one call sets one offset for both
counters of every vCPU (KVM_ARM_SET_COUNTER_OFFSET); before that a VMM can only write a vCPU's CNTVCT, by value.

Limits. A host whose device tree says arm,no-tick-in-suspend, whose counter does stop, is none of these.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from guestclock.abi.arm64 import KVM_REG_ARM_TIMER_CNT
from guestclock.arith import mul_u64_u64_shr, u64
from guestclock.arith.affine import Form
from guestclock.checks.arm64.host import ExploredArm64Machine
from guestclock.checks.spec import Site
from guestclock.checks.suspend.architecture import Architecture, Counter, Seen
from guestclock.checks.suspend.arm64_nested import L2_RAN, hypervisor, runs_l2
from guestclock.checks.suspend.machine import Sleeping
from guestclock.checks.suspend.setting import Outcome, Setting
from guestclock.checks.suspend.vmm import VMMS
from guestclock.explore.world import World
from guestclock.kvm import api
from guestclock.kvm.model import lookup
from guestclock.kvm.model.arm64 import Arm64Kvm, KvmOptions
from guestclock.kvm.model.arm64.arch_timer import counter_now, timer_get_offset
from guestclock.kvm.model.arm64.sleep_gate import SleepGate, VmSleep
from guestclock.kvm.model.arm64.state import TIMER_HVTIMER, TIMER_VTIMER, TimerContext, VcpuTime, VmTime
from guestclock.kvm.model.arm64.sysregs import cntpoff, cntvoff
from guestclock.linux.clocksource import Clocksource, arch_sys_counter
from guestclock.sim import cp

CNTVCT, CNTPCT = "CNTVCT", "CNTPCT"


class SleepingArm64(Sleeping, ExploredArm64Machine):
    """Its clocksource measures a sleep (CLOCK_SOURCE_SUSPEND_NONSTOP)."""

    def __init__(self, world: World, outcome: Outcome) -> None:
        setting = outcome.setting
        site = Site(khz=setting.host_khz, slew_ppm=0, vhe=setting.vhe, ecv=setting.ecv)
        ExploredArm64Machine.__init__(self, world, site)
        self.outcome = outcome

    def raw_and_slept_ns(self, cpu: int = 0) -> Any:
        return self.boottime_and_counter(cpu)[0]

    def _suspend(self) -> int:
        if runs_l2(self.outcome.kvm.host.vms[-1].vcpus[0]):
            self.outcome.reached.add(L2_RAN)
        return super()._suspend()


class Stamp(NamedTuple):
    """One instant: the host's counter (ticks) and its BOOTTIME (ns), and the VM's offset (ticks). value: the guest's
    CNTVCT, as KVM gave it, before there was a call for an offset; else None.
    """

    counter: Any
    boot_ns: Any
    offset: Any
    value: Any = None


class Arm64(Architecture):
    unit = "ticks"
    clock_counter = CNTVCT
    vdso_guards = False

    # ---- the host

    def machine(self, world: World, outcome: Outcome) -> SleepingArm64:
        return SleepingArm64(world, outcome)

    def kvm(self, world: World, outcome: Outcome) -> Arm64Kvm:
        options = KvmOptions(nested=outcome.setting.nested)
        kvm = Arm64Kvm(outcome.machine, lookup(outcome.setting.kernel), world, None, options)
        kvm.host.mutex_patience_ps = None
        return kvm

    # ---- the guest

    def clocksource(self, setting: Setting) -> Clocksource:
        return arch_sys_counter(setting.guest_khz * 1000)

    def cycles(self, stage: Any, vcpu: VcpuTime) -> Any:
        return counter_now(_linuxs(vcpu))

    def cycles_at_exit(self, stage: Any, vcpu: VcpuTime) -> Any:
        """By the offset that it ran with: nobody has moved it since."""
        world, left = stage.world, stage.outcome.tracker.left_at(vcpu.index)
        at = Form.of(left) if world.symbolic else world.value(left)
        return u64(stage.machine.counter.line()(world.ps_of(at)) - timer_get_offset(_linuxs(vcpu)))

    def made_of(self, vcpu: VcpuTime) -> tuple[Any, ...]:
        return vcpu.is_hyp, cntvoff(vcpu), cntpoff(vcpu)

    def same(self, one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
        return all(a is b or (type(a) is int and type(b) is int and a == b) for a, b in zip(one, other, strict=True))

    def seen(self, outcome: Outcome, vcpu: VcpuTime) -> Seen:
        """CNTVOFF_EL2 (and CNTPOFF_EL2) as the vCPU loaded them; CNTPCT, where it traps, by the offset of now.

        While an L2 runs it is that one's counters.
        """
        line, reads = outcome.machine.counter.line(), outcome.setting.reads
        level = "L2 " if runs_l2(vcpu) else ""
        offsets = {level + CNTVCT: cntvoff(vcpu), level + CNTPCT: cntpoff(vcpu)}
        return Seen(tuple(_counter(n, line, offset) for n, offset in offsets.items() if not reads or n in reads))

    def persistent_ns(self, stage: Any) -> Any:
        return 0

    def nonstop_ns(self, stage: Any, began: Any, woke: Any) -> Any:
        clock = self.clocksource(stage.setting)
        return mul_u64_u64_shr(u64(woke - began), clock.mult, clock.shift)

    def measures_sleep(self, setting: Setting) -> bool:
        """It is its own CNTVCT: what a VMM hides there it does not see."""
        return not setting.vmm or (setting.vmm in VMMS and not VMMS[setting.vmm].moves_counters)

    def takes_interrupts(self, vcpu: VcpuTime) -> bool:
        return not runs_l2(vcpu)

    def up(self, vcpu: VcpuTime) -> bool:
        return len(vcpu.timers) == 2 or runs_l2(vcpu)

    def boots(self, stage: Any) -> None:
        if stage.setting.nested:
            for i in range(stage.setting.vcpus):
                stage.world.spawn(f"vCPU {i} hypervisor", hypervisor(stage, i), daemon=True)

    # ---- the VMM

    async def vcpu_made(self, stage: Any, i: int) -> None:
        """Its counters are the VM's."""

    async def set_up(self, stage: Any) -> None:
        """The guest's counters begin at 0, both by one offset: only so can one offset keep both later on."""
        if stage.vmm is not None and stage.vmm.moves_counters and stage.vmm.offset_at_start and _by_offset(stage):
            stage.offset = await stage.execute(api.ReadHostClock("counter"))
            await stage.execute(api.SetCounterOffset(0, stage.offset))

    async def plugged(self, stage: Any, i: int) -> None:
        """... whatever it finds them at, once an offset was given."""

    def starts(self, stage: Any, vcpu: VcpuTime) -> None:
        """As it is: nothing here keeps it from running."""

    def interrupt(self, vcpu: VcpuTime) -> None:
        """An SPI, or a PPI of this vCPU: pending until the guest takes it; a vCPU in the guest leaves it for that."""
        vcpu.suspend_irq = True
        if vcpu.in_guest:
            vcpu.ipi = True

    async def stamp(self, vmm: Any) -> Stamp:
        boot_ns, counter = await _now(vmm.stage.machine)
        if _by_offset(vmm.stage):
            return Stamp(counter, boot_ns, vmm.stage.offset)
        return Stamp(counter, boot_ns, 0, await vmm.stage.execute(api.GetOneReg(0, 0, KVM_REG_ARM_TIMER_CNT)))

    async def put_back(self, vmm: Any, stop: Stamp) -> Any:
        """One offset for both counters of all vCPUs; before 6.4 CNTVCT's value, which counts from when KVM has it."""
        stage = vmm.stage
        boot_ns, counter = await _now(stage.machine)
        if stop.value is None:
            stage.offset = u64(stop.offset + counter - stop.counter)
            await stage.execute(api.SetCounterOffset(0, stage.offset))
        else:
            await stage.execute(api.SetOneReg(0, 0, KVM_REG_ARM_TIMER_CNT, stop.value))
        return boot_ns - stop.boot_ns

    def stopped_at(self, stage: Any) -> Stamp:
        told: VmSleep = stage.vm.suspend
        return Stamp(told.stop_counter, told.stop_base_ns, stage.offset)

    def acknowledged(self, vm: VmTime, gates: int) -> bool:
        return SleepGate.acknowledged(vm, gates)


def _by_offset(stage: Any) -> bool:
    """KVM_CAP_COUNTER_OFFSET."""
    return bool(stage.kvm.host.profile.counter_offset_ioctl)


def _linuxs(vcpu: VcpuTime) -> TimerContext:
    """The timer whose counter the VM's Linux tells the time by: CNTVCT's, which at EL2 is that of HVTIMER."""
    return vcpu.timers[TIMER_HVTIMER if len(vcpu.timers) > 2 else TIMER_VTIMER]


def _counter(name: str, line: Any, offset: Any) -> Counter:
    return Counter(name, offset, lambda ps: u64(line(ps) - offset))


async def _now(machine: SleepingArm64) -> tuple[Any, Any]:
    """(BOOTTIME, the host's counter), sandwiched: read apart from each other they are as far off as the VMM is slow."""
    await cp("mrs CNTVCT_EL0, clock_gettime, mrs CNTVCT_EL0", until=machine.tasks_run)
    return machine.boottime_and_counter()
