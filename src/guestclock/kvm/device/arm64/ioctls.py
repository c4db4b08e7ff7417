"""What arm64's vCPUs have: registers, one at a time, and how a vCPU is initialised."""

from __future__ import annotations

import ctypes
from struct import Struct

from guestclock.abi import arm64 as abi
from guestclock.abi import ioctl
from guestclock.kvm.device.ioctls import Answer, IoctlError, Stamps, call

_ONE_REG = Struct("<QQ")
_VCPU_INIT = Struct("<I7I")


def set_one_reg(vcpu_fd: int, id_: int, value: int) -> Answer:
    room = ctypes.c_uint64(value)
    return call(vcpu_fd, abi.KVM_SET_ONE_REG, _ONE_REG.pack(id_, ctypes.addressof(room)))


def get_one_reg(vcpu_fd: int, id_: int) -> tuple[int, Stamps]:
    """(value, sandwich)."""
    room = ctypes.c_uint64()
    answer = call(vcpu_fd, abi.KVM_GET_ONE_REG, _ONE_REG.pack(id_, ctypes.addressof(room)))
    return room.value, answer.stamps


def get_reg_list(vcpu_fd: int) -> tuple[list[int], Stamps]:
    """(every register's id, in KVM's order; sandwich)."""
    room = 1024
    while True:
        try:
            answer = call(vcpu_fd, abi.KVM_GET_REG_LIST, room.to_bytes(8, "little") + bytes(8 * room))
        except IoctlError as refusal:
            if refusal.errno != "E2BIG" or room >= 65536:
                raise
            room *= 2
            continue
        count, *ids = Struct(f"<{1 + room}Q").unpack(answer.data)
        return ids[:count], answer.stamps


def preferred_target(vm_fd: int) -> bytes:
    """struct kvm_vcpu_init for KVM_ARM_VCPU_INIT: this machine's own CPU, with PSCI 0.2 and later."""
    target, *features = _VCPU_INIT.unpack(call(vm_fd, abi.KVM_ARM_PREFERRED_TARGET, bytes(_VCPU_INIT.size)).data)
    features[0] |= 1 << abi.KVM_ARM_VCPU_PSCI_0_2
    return _VCPU_INIT.pack(target, *features)


def create_device(vm_fd: int, kind: int) -> int:
    """KVM_CREATE_DEVICE: a descriptor of it."""
    answer = call(vm_fd, ioctl.KVM_CREATE_DEVICE, Struct("<III").pack(kind, 0, 0))
    return int(Struct("<III").unpack(answer.data)[1])
