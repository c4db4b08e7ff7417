"""A real VM: its descriptor, 1 MiB of memory with the tiny guest in it, and its vCPUs."""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

from guestclock.abi import ioctl as abi
from guestclock.abi.kvm import KvmUserspaceMemoryRegion
from guestclock.errors import UserError
from guestclock.kvm.device import native
from guestclock.kvm.device.ioctls import Answer, IoctlError, call
from guestclock.kvm.device.vcpu import Vcpu

VcpuT = TypeVar("VcpuT", bound=Vcpu[Any])


class Vm(ABC, Generic[VcpuT]):
    """One VM. `vcpus` in order of creation, which is the order of their ids."""

    memory_gpa: ClassVar[int]
    memory_size: ClassVar[int]
    max_vcpus: ClassVar[int]

    def __init__(self, kvm_fd: int) -> None:
        self._kvm_fd = kvm_fd
        self.fd = -1
        self.vcpus: list[VcpuT] = []
        self.created = call(kvm_fd, abi.KVM_CREATE_VM)
        self.fd = self.created.value
        self._mapping = mmap.mmap(-1, self.memory_size)
        self.memory = memoryview(self._mapping)
        try:
            address = native.address_of(self._mapping)
            region = KvmUserspaceMemoryRegion(0, self.memory_gpa, self.memory_size, address)
            call(self.fd, abi.KVM_SET_USER_MEMORY_REGION, region.pack())
            self._run_size = call(kvm_fd, abi.KVM_GET_VCPU_MMAP_SIZE).value
            self.prepare(kvm_fd)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def prepare(self, kvm_fd: int) -> None:
        """The guest's code into `memory`, and what else an architecture's VM needs before its first vCPU."""

    @abstractmethod
    def new_vcpu(self, index: int, cpu: int) -> VcpuT:
        """KVM_CREATE_VCPU and what makes of it a vCPU that runs our guest."""

    def create_vcpu(self, cpu: int, wanted: int | None = None) -> VcpuT:
        """The next vCPU, on physical CPU `cpu`; wanted: its id. IoctlError of KVM's where that one exists already."""
        index = len(self.vcpus)
        if wanted is not None and wanted < index:
            call(self.fd, abi.KVM_CREATE_VCPU, wanted)
            raise AssertionError(f"KVM created vCPU {wanted} twice")
        if wanted not in (None, index):
            raise UserError(f"CreateVcpu: id {wanted}: expected the next free one, {index}, or one that exists")
        if index >= self.max_vcpus:
            now = native.counter()
            raise IoctlError("EINVAL", (now, now), f"the guest has room for {self.max_vcpus} vCPUs")
        vcpu = self.new_vcpu(index, cpu)
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
