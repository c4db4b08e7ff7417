"""arm64's timer registers by KVM's list, as VMMs dump and write them that keep none apart. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from guestclock.abi.arm64 import TIMER_REGS
from guestclock.kvm.api import Vcpu
from guestclock.vmm.snapshot import Arm64VcpuSnapshot

FIELDS: Mapping[int, str] = MappingProxyType(
    {
        TIMER_REGS["TIMER_CNT"]: "cntvct",
        TIMER_REGS["TIMER_CTL"]: "cntv_ctl",
        TIMER_REGS["TIMER_CVAL"]: "cntv_cval",
        TIMER_REGS["PTIMER_CNT"]: "cntpct",
        TIMER_REGS["PTIMER_CTL"]: "cntp_ctl",
        TIMER_REGS["PTIMER_CVAL"]: "cntp_cval",
    }
)
"""Where a snapshot has each register."""


async def dumped(vcpu: Vcpu) -> Arm64VcpuSnapshot:
    """Every timer register that KVM lists, one after the other, in its order."""
    return Arm64VcpuSnapshot(**{FIELDS[id_]: await vcpu.get_one_reg(id_) for id_ in await vcpu.get_reg_list()})


async def written(vcpu: Vcpu, saved: Arm64VcpuSnapshot, ids: Iterable[int]) -> None:
    """These registers, in this order, as they were saved; those that were not are left alone."""
    for id_ in ids:
        value = getattr(saved, FIELDS[id_])
        if value is not None:
            await vcpu.set_one_reg(id_, value)
