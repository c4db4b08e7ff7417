"""An executor that behaves as a given host would, as far as the questions of `guestclock.inspect.probe` go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from guestclock.abi.ioctl import KVM_CAP_ADJUST_CLOCK
from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.inspect.host import Behaviour
from guestclock.kvm import api

KHZ = 2_596_122
M64 = 2**64


@dataclass
class FakeVcpu:
    offset: int
    version: int = 0
    snapshot: int = 0
    last_update_ns: int | None = None
    pending: bool = False


@dataclass
class FakeVm:
    vcpus: list[FakeVcpu] = field(default_factory=list)
    matched: bool = True
    request: bool = False
    master: bool = False
    snapshot: int = 0
    user_set_tsc: bool = False


class FakeKvm:
    """mode: honoured, ignored, ignored-but-said (KVM claims the offset), refused, half (moves by half as much)."""

    def __init__(self, behaviour: Behaviour, mode: str = "honoured", *, masterclock: bool = True) -> None:
        self.behaviour, self.mode, self.masterclock = behaviour, mode, masterclock
        self.tsc = 10**13
        self.ns = 0
        self.vms: list[FakeVm] = []

    def execute(self, op: api.Op) -> Any:
        self.tsc += 10_000
        return getattr(self, f"do_{op.name}")(op)

    def refuse(self, op: api.Op, errno: str) -> None:
        raise api.KvmError(errno, op)

    def vcpu(self, op: Any) -> FakeVcpu:
        return self.vms[op.vm].vcpus[op.vcpu]

    def do_CheckExtension(self, op: api.CheckExtension) -> int:
        return self.behaviour.clock_flags or 0 if op.capability == KVM_CAP_ADJUST_CLOCK else 0

    def do_CreateVm(self, op: api.CreateVm) -> int:
        self.vms.append(FakeVm())
        return len(self.vms) - 1

    def do_CreateVcpu(self, op: api.CreateVcpu) -> int:
        vm = self.vms[op.vm]
        fixed = self.mode.startswith("ignored")
        vm.vcpus.append(FakeVcpu(vm.vcpus[0].offset if vm.vcpus else 0 if fixed else -self.tsc))
        vm.request |= not vm.master or bool(self.behaviour.hotplug_resnapshots)
        return len(vm.vcpus) - 1

    def do_EnableKvmclock(self, op: api.EnableKvmclock) -> None:
        pass

    def do_GetTscKhz(self, op: api.GetTscKhz) -> int:
        return KHZ

    def do_SetTscKhz(self, op: api.SetTscKhz) -> None:
        if self.behaviour.vm_khz == "absent":
            self.refuse(op, "ENOTTY")
        if self.behaviour.vm_khz == "first" and self.vms[op.vm].vcpus:
            self.refuse(op, "EINVAL")

    def do_Wait(self, op: api.Wait) -> None:
        self.ns += op.ns
        self.tsc += op.ns * KHZ // 10**6

    def do_ReadHostClock(self, op: api.ReadHostClock) -> int:
        assert op.clock == "tsc"
        return self.tsc

    # ---- offsets

    def move(self, op: Any, by: int) -> None:
        if self.mode == "refused":
            self.refuse(op, "EPERM")
        self.vcpu(op).offset += {"honoured": by, "half": by // 2}.get(self.mode, 0)

    def do_GetTscOffset(self, op: api.GetTscOffset) -> int:
        if not self.behaviour.offset_attribute:
            self.refuse(op, "EINVAL")
        return (self.claimed if self.mode == "ignored-but-said" else self.vcpu(op).offset) % M64

    claimed = 0

    def do_SetTscOffset(self, op: api.SetTscOffset) -> None:
        self.move(op, (op.offset - self.vcpu(op).offset + 2**63) % M64 - 2**63)
        self.claimed = op.offset

    def do_GetMsr(self, op: api.GetMsr) -> int:
        return (self.tsc + self.vcpu(op).offset) % M64

    def do_SetMsr(self, op: api.SetMsr) -> None:
        vm = self.vms[op.vm]
        by = (op.data - self.tsc - self.vcpu(op).offset + 2**63) % M64 - 2**63
        young = 0 < op.data < KHZ * 1000
        if young and self.behaviour.young_write_matched and not vm.user_set_tsc:
            return
        self.move(op, by)
        vm.user_set_tsc = True
        vm.matched, vm.request = len(vm.vcpus) == 1, True

    # ---- pages

    def snapshot(self, vm: FakeVm) -> None:
        vm.master, vm.snapshot, vm.request = vm.matched and self.masterclock, self.tsc, False

    def do_GetClock(self, op: api.GetClock) -> api.ClockData:
        on = self.vms[op.vm].master
        return api.ClockData(0, (self.behaviour.clock_flags or 0) & 14 if on else 0)

    def do_SetClock(self, op: api.SetClock) -> None:
        self.snapshot(self.vms[op.vm])

    def do_Run(self, op: api.Run) -> list[Any]:
        vm, vcpu = self.vms[op.vm], self.vcpu(op)
        if vm.request:
            self.snapshot(vm)
        late = vcpu.last_update_ns is not None and self.ns - vcpu.last_update_ns > 10**8
        first = vcpu.version == 0
        if first and not self.behaviour.delayed_update:  # since 6.19 all vCPUs are updated at once
            for other in vm.vcpus:
                other.pending = other is not vcpu
        again = vcpu.pending or (late and self.behaviour.delayed_update)
        if first or again or vcpu.snapshot != vm.snapshot or not vm.master:
            vcpu.pending = False
            vcpu.version, vcpu.snapshot, vcpu.last_update_ns = vcpu.version + 2, vm.snapshot, self.ns
        answers: list[Any] = []
        for action in op.actions:
            if isinstance(action, api.Wrmsr):
                vm.matched &= not self.behaviour.guest_write_unmatches
                answers.append(None)
            else:
                start = self.tsc
                self.tsc += 1000
                page = PvclockVcpuTimeInfo(vcpu.version, vcpu.snapshot, 0, 1, 0, int(vm.master))
                answers.append(api.ClockReading((self.tsc - 500 + vcpu.offset) % M64, page, 0, (start, self.tsc)))
        return answers
