"""An arm64 VM: no interrupt controller unless one is asked for."""

from __future__ import annotations

import os

from guestclock.abi import arm64 as abi
from guestclock.kvm.device.arm64 import guest
from guestclock.kvm.device.arm64.ioctls import create_device, preferred_target
from guestclock.kvm.device.arm64.vcpu import Arm64Vcpu
from guestclock.kvm.device.ioctls import Answer, IoctlError, set_attr
from guestclock.kvm.device.vm import Vm


class Arm64Vm(Vm[Arm64Vcpu]):
    memory_gpa = guest.MEMORY_GPA
    memory_size = guest.MEMORY_SIZE
    max_vcpus = guest.MAX_VCPUS

    def prepare(self, kvm_fd: int) -> None:
        guest.install(self.memory)
        self._init = preferred_target(self.fd)
        self._irqchip = -1

    def new_vcpu(self, index: int, cpu: int) -> Arm64Vcpu:
        return Arm64Vcpu(self.fd, index, cpu, self._run_size, memory=self.memory, init=self._init)

    def create_irqchip(self) -> tuple[str, Answer]:
        """A vGIC of the newest kind this machine has, initialised: (its name, the call that initialised it)."""
        name, kind, addresses = "vgic-v3", abi.KVM_DEV_TYPE_ARM_VGIC_V3, abi.VGIC_V3_ADDRESSES
        try:
            self._irqchip = create_device(self.fd, kind)
        except IoctlError as refusal:
            if refusal.errno != "ENODEV":
                raise
            name, kind, addresses = "vgic-v2", abi.KVM_DEV_TYPE_ARM_VGIC_V2, abi.VGIC_V2_ADDRESSES
            self._irqchip = create_device(self.fd, kind)
        for attr, gpa in addresses:
            set_attr(self._irqchip, abi.KVM_DEV_ARM_VGIC_GRP_ADDR, attr, gpa.to_bytes(8, "little"))
        init = set_attr(self._irqchip, abi.KVM_DEV_ARM_VGIC_GRP_CTRL, abi.KVM_DEV_ARM_VGIC_CTRL_INIT, bytes(8))
        return name, init

    def close(self) -> None:
        if getattr(self, "_irqchip", -1) >= 0:
            os.close(self._irqchip)
            self._irqchip = -1
        super().close()
