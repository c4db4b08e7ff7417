"""KVM's ioctls, raw: one call, its answer, and the host TSC on both sides of it."""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass

from guestclock.abi import ioctl as abi
from guestclock.abi.kvm import KvmDeviceAttr, KvmOneMsr
from guestclock.errors import UserError
from guestclock.kvm.device import native

DEVICE = "/dev/kvm"


class IoctlError(Exception):
    """KVM refused: `errno` is the name ("EINVAL"), `host_tsc` the sandwich of the call, `why` what is known besides."""

    def __init__(self, errno_name: str, host_tsc: tuple[int, int], why: str = "") -> None:
        super().__init__(f"{errno_name}" + (f" ({why})" if why else ""))
        self.errno, self.host_tsc, self.why = errno_name, host_tsc, why


@dataclass(frozen=True, slots=True)
class Answer:
    """What an ioctl returned, the bytes of its argument afterwards, and (before, after) of the host's TSC."""

    value: int
    host_tsc: tuple[int, int]
    data: bytes = b""


def errno_name(number: int) -> str:
    return errno.errorcode.get(number, f"errno {number}")


def call(fd: int, request: int, argument: int | bytes = 0) -> Answer:
    """One ioctl. Bytes are copied to a buffer whose address is passed. Raises IoctlError with the errno's name."""
    if isinstance(argument, int):
        value, before, after = native.sandwich(fd, request, argument)
        data = b""
    else:
        buffer = ctypes.create_string_buffer(argument, len(argument))
        value, before, after = native.sandwich(fd, request, ctypes.addressof(buffer))
        data = buffer.raw
    if value < 0:
        raise IoctlError(errno_name(-value), (before, after))
    return Answer(value, (before, after), data)


def set_msr(vcpu_fd: int, index: int, data: int) -> Answer:
    answer = call(vcpu_fd, abi.KVM_SET_MSRS, KvmOneMsr(index, data).pack())
    if answer.value != 1:  # the ioctl's way to refuse an MSR is to stop counting before it
        raise IoctlError("EINVAL", answer.host_tsc, f"KVM_SET_MSRS took {answer.value} of 1 MSRs, index {index:#x}")
    return answer


def get_msr(vcpu_fd: int, index: int) -> tuple[int, tuple[int, int]]:
    """(value, sandwich)."""
    answer = call(vcpu_fd, abi.KVM_GET_MSRS, KvmOneMsr(index).pack())
    if answer.value != 1:
        raise IoctlError("EINVAL", answer.host_tsc, f"KVM_GET_MSRS gave {answer.value} of 1 MSRs, index {index:#x}")
    return KvmOneMsr.unpack(answer.data).data, answer.host_tsc


def set_tsc_offset(vcpu_fd: int, offset: int) -> Answer:
    value = ctypes.c_uint64(offset)
    attr = KvmDeviceAttr(abi.KVM_VCPU_TSC_CTRL, abi.KVM_VCPU_TSC_OFFSET, ctypes.addressof(value))
    return call(vcpu_fd, abi.KVM_SET_DEVICE_ATTR, attr.pack())


def get_tsc_offset(vcpu_fd: int) -> tuple[int, tuple[int, int]]:
    """(offset u64, sandwich). EINVAL before 5.16 (no such ioctl)."""
    value = ctypes.c_uint64()
    attr = KvmDeviceAttr(abi.KVM_VCPU_TSC_CTRL, abi.KVM_VCPU_TSC_OFFSET, ctypes.addressof(value))
    answer = call(vcpu_fd, abi.KVM_GET_DEVICE_ATTR, attr.pack())
    return value.value, answer.host_tsc


def supported_cpuid(kvm_fd: int) -> bytes:
    """struct kvm_cpuid2 of all that this KVM can offer a guest; KVM_SET_CPUID2 takes it as it is."""
    room = 64
    while True:
        try:
            return call(kvm_fd, abi.KVM_GET_SUPPORTED_CPUID, room.to_bytes(4, "little") + bytes(4 + 40 * room)).data
        except IoctlError as refusal:
            if refusal.errno != "E2BIG" or room >= 4096:
                raise
        room *= 2


def open_kvm(path: str = DEVICE) -> int:
    """A file descriptor of /dev/kvm, checked to speak API version 12. Raises UserError saying what is missing."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        raise UserError(f"{path}: no such device: no KVM module is loaded, or this machine has none") from None
    except PermissionError:
        raise UserError(f"{path}: permission denied: read and write access is needed (group kvm, or root)") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    try:
        version = call(fd, abi.KVM_GET_API_VERSION).value
    except IoctlError as refusal:
        os.close(fd)
        raise UserError(f"{path}: not a KVM device ({refusal})") from None
    if version != abi.KVM_API_VERSION:
        os.close(fd)
        raise UserError(f"{path}: API version {version}, expected {abi.KVM_API_VERSION}")
    return fd
