"""What KVM does on arm64 about a sleep of its host: nothing, as every kernel; or our own gate, as x86's suspend-gate.

Each is a class that never has an object. The gate moves no counter: from the moment at which a suspend is prepared no
vCPU enters the guest until the VMM has said that it moved them, and the instant at which the last one had left it is
kept. The counter runs on through every sleep, and no KVM of arm64 makes up for anything: the offsets stay as they were.
"""

from __future__ import annotations

from collections.abc import Coroutine

from guestclock.kvm.model.arm64.host import KvmHost
from guestclock.kvm.model.arm64.profile import suspend_time
from guestclock.kvm.model.arm64.state import VcpuTime, VmTime
from guestclock.sim import Checkpoint, State
from guestclock.sim.field import flag, s64, u32, u64


class VmSleep(State):
    """What the gate keeps per VM."""

    gate = flag("no vCPU may enter the guest")
    over = flag("the sleep is over, and the gate may be opened")
    gates = u32("how often it was closed")
    stop_counter = u64("the host's counter when the last vCPU had left the guest, ticks")
    stop_base_ns = s64("the host's BOOTTIME then, ns")


@suspend_time.rule()
class NotHeld:
    """Nobody is told of anything, and nothing is hidden."""

    holds = False
    """Whether any of this is to be asked at an entry."""
    msr = 0
    """Where a guest registers to be told of suspend time by KVM: nowhere on arm64."""

    @classmethod
    def vm_created(cls, vm: VmTime) -> None:
        """kvm_create_vm()."""

    @classmethod
    def prepare(cls, kvm: KvmHost) -> Coroutine[Checkpoint, None, None] | None:
        """PM notifier: tasks still run. What it answers is waited for."""
        return None

    @classmethod
    def post(cls, kvm: KvmHost) -> None:
        """PM notifier: tasks run again."""

    @classmethod
    def barred(cls, vcpu: VcpuTime) -> bool:
        """A guard: nothing would come of an attempt to enter."""
        return False

    @classmethod
    def exited(cls, vcpu: VcpuTime) -> None:
        """After each VM exit."""

    @classmethod
    def applied(cls, vcpu: VcpuTime) -> bool:
        """For onlookers: whether this vCPU's counters are as they should be after the latest sleep."""
        return True


@suspend_time.rule(since="our own")
class SleepGate(NotHeld):
    """A gate that survives the sleep: KVM_RUN enters no guest until the VMM has said that it moved the counters."""

    holds = True

    @classmethod
    def vm_created(cls, vm: VmTime) -> None:
        vm.suspend = VmSleep()

    @classmethod
    def prepare(cls, kvm: KvmHost) -> Coroutine[Checkpoint, None, None] | None:
        """Every vCPU is thrown out; the stop lies at the last exit, or here if none was inside.

        Nobody waits for them: the freezer does before a sleep, and the VMM, which has to have them out of KVM_RUN,
        before it asks for the stop. Where a gate is still closed from the sleep before, the stop stays where it was:
        nobody has been inside since.
        """
        for vm in kvm.vms:
            told: VmSleep = vm.suspend
            told.gates = told.gates + 1
            told.over = False
            if not told.gate:
                told.gate = True
                cls._stopped(vm)
                for vcpu in vm.vcpus:
                    if vcpu.in_guest:
                        vcpu.ipi = True
        return None

    @classmethod
    def _stopped(cls, vm: VmTime) -> None:
        told: VmSleep = vm.suspend
        told.stop_base_ns, told.stop_counter = vm.kvm.machine.boottime_and_counter()

    @classmethod
    def exited(cls, vcpu: VcpuTime) -> None:
        told: VmSleep = vcpu.vm.suspend
        if told.gate:
            cls._stopped(vcpu.vm)

    @classmethod
    def post(cls, kvm: KvmHost) -> None:
        """Only now may the VMM open the gate: before, the sleep may still be to come."""
        for vm in kvm.vms:
            told: VmSleep = vm.suspend
            told.over = told.gate

    @classmethod
    def barred(cls, vcpu: VcpuTime) -> bool:
        told: VmSleep = vcpu.vm.suspend
        return told.gate

    @classmethod
    def applied(cls, vcpu: VcpuTime) -> bool:
        told: VmSleep = vcpu.vm.suspend
        return not told.gate

    @classmethod
    def acknowledged(cls, vm: VmTime, gates: int) -> bool:
        """The VMM's ioctl: it has adjusted for the gate that it saw. False (EAGAIN): another sleep has come since."""
        told: VmSleep = vm.suspend
        if told.gates != gates:
            return False
        assert told.over, "a gate opened before the sleep was over"
        told.gate = told.over = False
        return True
