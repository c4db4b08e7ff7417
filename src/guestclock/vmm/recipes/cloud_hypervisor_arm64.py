"""Cloud Hypervisor on arm64, restore and migration: the virtual counter by value, and what was missed is added.

Counter and wall clock are read at pause, one after the other, and so they are at resume: the guest lags by what lies
between the two on either side. The registers that KVM lists come first, by value: the physical counter stays behind by
the downtime. A host of another rate is refused.
"""

from __future__ import annotations

from guestclock.abi.arm64 import KVM_CAP_COUNTER_OFFSET, KVM_REG_ARM_TIMER_CNT
from guestclock.errors import UserError
from guestclock.kvm.api import Host, Vm
from guestclock.vmm.registers import dumped, written
from guestclock.vmm.snapshot import Arm64Snapshot

ARCH = "arm64"
SEEN = "Cloud Hypervisor, hypervisor/src/kvm/mod.rs (snapshot_clock, restore_clock, #8343), ae44c2971, Jun 2026"
POLICY = {"cntvct": "advance", "cntpct": "freeze"}
FIX = "arm64-by-offset-migrate: an offset from a pair on either side: it does not matter when it is written"


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
    host = Host()
    vm.kept["counter"] = await vm.vcpus[0].get_one_reg(KVM_REG_ARM_TIMER_CNT)
    vm.kept["realtime"] = await host.read_clock("realtime")
    vm.kept["hz"] = await host.read_clock("cntfrq")


async def save(vm: Vm) -> Arm64Snapshot:
    vcpus = [await dumped(vcpu) for vcpu in vm.vcpus]
    return Arm64Snapshot(
        vcpus=tuple(vcpus),
        host_counter=vm.kept["counter"],
        realtime_ns=vm.kept["realtime"],
        counter_hz=vm.kept["hz"],
    )


async def restore(vm: Vm, snapshot: Arm64Snapshot) -> None:
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await written(vcpu, saved, await vcpu.get_reg_list())
    vm.kept["restored"] = snapshot


async def resume(vm: Vm) -> None:
    if "restored" in vm.kept:  # on the host it was paused on, nothing is done
        await restore_clock(vm, vm.kept.pop("restored"))
    for vcpu in vm.vcpus:
        await vcpu.start()


async def restore_clock(vm: Vm, saved: Arm64Snapshot) -> None:
    host = Host()
    hz = await host.read_clock("cntfrq")
    if hz != saved.counter_hz:
        raise UserError(f"CNTFRQ: {saved.counter_hz} Hz, expected this host's, {hz} Hz")
    elapsed_ns = await host.read_clock("realtime") - saved.realtime_ns
    if elapsed_ns < 0:  # saturating_sub: a wall clock that went back
        elapsed_ns = 0
    target = saved.host_counter + elapsed_ns * hz // 1_000_000_000
    for vcpu in vm.vcpus[:1] if await host.check_extension(KVM_CAP_COUNTER_OFFSET) else vm.vcpus:
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CNT, target)
