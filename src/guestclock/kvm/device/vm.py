"""A real VM: its descriptor, 1 MiB of memory with the tiny guest in it, and its vCPUs."""

from __future__ import annotations

import mmap
import os

from guestclock.abi import ioctl as abi
from guestclock.abi.kvm import KvmUserspaceMemoryRegion
from guestclock.kvm.device import guest, native
from guestclock.kvm.device.ioctls import Answer, IoctlError, call, supported_cpuid
from guestclock.kvm.device.vcpu import Vcpu

_TSS_GPA = 0xFFFB_D000
"""Three pages that old Intel CPUs need for real mode (no unrestricted guest); anywhere without memory below 4 GiB."""


class Vm:
    """One VM. `vcpus` in order of creation, which is the order of their ids."""

    def __init__(self, kvm_fd: int) -> None:
        self._kvm_fd = kvm_fd
        self.fd = -1
        self.vcpus: list[Vcpu] = []
        self.created = call(kvm_fd, abi.KVM_CREATE_VM)
        self.fd = self.created.value
        self._mapping = mmap.mmap(-1, guest.MEMORY_SIZE)
        self.memory = memoryview(self._mapping)
        try:
            guest.install(self.memory)
            region = KvmUserspaceMemoryRegion(0, 0, guest.MEMORY_SIZE, native.address_of(self._mapping))
            call(self.fd, abi.KVM_SET_USER_MEMORY_REGION, region.pack())
            call(self.fd, abi.KVM_SET_TSS_ADDR, _TSS_GPA)
            self._run_size = call(kvm_fd, abi.KVM_GET_VCPU_MMAP_SIZE).value
            self._cpuid = supported_cpuid(kvm_fd)
        except BaseException:
            self.close()
            raise

    def create_vcpu(self, cpu: int) -> Vcpu:
        index = len(self.vcpus)
        if index >= guest.MAX_VCPUS:
            now = native.rdtsc()
            raise IoctlError("EINVAL", (now, now), f"the guest has room for {guest.MAX_VCPUS} vCPUs")
        vcpu = Vcpu(self.fd, index, self.memory, cpu, self._cpuid, self._run_size)
        self.vcpus.append(vcpu)
        return vcpu

    def ioctl(self, request: int, argument: int | bytes = 0) -> Answer:
        return call(self.fd, request, argument)

    def close(self) -> None:
        for vcpu in self.vcpus:
            vcpu.close()
        self.vcpus.clear()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        self.memory.release()
        if not self._mapping.closed:
            self._mapping.close()
