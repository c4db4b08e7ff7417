"""An x86 VM: no interrupt controller, real mode."""

from __future__ import annotations

from guestclock.abi import ioctl as abi
from guestclock.kvm.device.ioctls import call
from guestclock.kvm.device.vm import Vm
from guestclock.kvm.device.x86 import guest
from guestclock.kvm.device.x86.ioctls import supported_cpuid
from guestclock.kvm.device.x86.vcpu import X86Vcpu

_TSS_GPA = 0xFFFB_D000
"""Three pages that old Intel CPUs need for real mode (no unrestricted guest); anywhere without memory below 4 GiB."""


class X86Vm(Vm[X86Vcpu]):
    memory_gpa = 0
    memory_size = guest.MEMORY_SIZE
    max_vcpus = guest.MAX_VCPUS

    def prepare(self, kvm_fd: int) -> None:
        guest.install(self.memory)
        call(self.fd, abi.KVM_SET_TSS_ADDR, _TSS_GPA)
        self._cpuid = supported_cpuid(kvm_fd)

    def new_vcpu(self, index: int, cpu: int) -> X86Vcpu:
        return X86Vcpu(self.fd, index, cpu, self._run_size, memory=self.memory, cpuid=self._cpuid)
