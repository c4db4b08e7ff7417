"""KVM's ioctls, raw: one call, its answer, and the host's counter on both sides of it."""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass

from guestclock.abi import ioctl as abi
from guestclock.abi.kvm import KvmDeviceAttr
from guestclock.errors import UserError
from guestclock.kvm.device import native

DEVICE = "/dev/kvm"

Stamps = tuple[int, int]
"""The host's counter before and after something: x86's TSC, arm64's CNTVCT_EL0."""


class IoctlError(Exception):
    """KVM refused: `errno` is the name ("EINVAL"), `stamps` the sandwich of the call, `why` what is known besides."""

    def __init__(self, errno_name: str, stamps: Stamps, why: str = "") -> None:
        super().__init__(f"{errno_name}" + (f" ({why})" if why else ""))
        self.errno, self.stamps, self.why = errno_name, stamps, why


@dataclass(frozen=True, slots=True)
class Answer:
    """What an ioctl returned, its sandwich, and the bytes of its argument afterwards."""

    value: int
    stamps: Stamps
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


def set_attr(fd: int, group: int, attr: int, value: bytes) -> Answer:
    """KVM_SET_DEVICE_ATTR: of a device, or of a vCPU (no such ioctl there on x86 before 5.16: EINVAL)."""
    buffer = ctypes.create_string_buffer(value, len(value))
    return call(fd, abi.KVM_SET_DEVICE_ATTR, KvmDeviceAttr(group, attr, ctypes.addressof(buffer)).pack())


def get_attr(fd: int, group: int, attr: int, size: int) -> Answer:
    """KVM_GET_DEVICE_ATTR; `data` is the attribute's value, of so many bytes."""
    buffer = ctypes.create_string_buffer(size)
    answer = call(fd, abi.KVM_GET_DEVICE_ATTR, KvmDeviceAttr(group, attr, ctypes.addressof(buffer)).pack())
    return Answer(answer.value, answer.stamps, buffer.raw)


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
