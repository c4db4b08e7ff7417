"""What x86's vCPUs have: MSRs, one at a time, the TSC offset as an attribute, CPUID."""

from __future__ import annotations

from guestclock.abi import ioctl as abi
from guestclock.abi.kvm import KvmOneMsr
from guestclock.kvm.device.ioctls import Answer, IoctlError, Stamps, call, get_attr, set_attr


def set_msr(vcpu_fd: int, index: int, data: int) -> Answer:
    answer = call(vcpu_fd, abi.KVM_SET_MSRS, KvmOneMsr(index, data).pack())
    if answer.value != 1:  # the ioctl's way to refuse an MSR is to stop counting before it
        raise IoctlError("EINVAL", answer.stamps, f"KVM_SET_MSRS took {answer.value} of 1 MSRs, index {index:#x}")
    return answer


def get_msr(vcpu_fd: int, index: int) -> tuple[int, Stamps]:
    """(value, sandwich)."""
    answer = call(vcpu_fd, abi.KVM_GET_MSRS, KvmOneMsr(index).pack())
    if answer.value != 1:
        raise IoctlError("EINVAL", answer.stamps, f"KVM_GET_MSRS gave {answer.value} of 1 MSRs, index {index:#x}")
    return KvmOneMsr.unpack(answer.data).data, answer.stamps


def set_tsc_offset(vcpu_fd: int, offset: int) -> Answer:
    return set_attr(vcpu_fd, abi.KVM_VCPU_TSC_CTRL, abi.KVM_VCPU_TSC_OFFSET, offset.to_bytes(8, "little"))


def get_tsc_offset(vcpu_fd: int) -> tuple[int, Stamps]:
    """(offset u64, sandwich). EINVAL before 5.16 (no such ioctl)."""
    answer = get_attr(vcpu_fd, abi.KVM_VCPU_TSC_CTRL, abi.KVM_VCPU_TSC_OFFSET, 8)
    return int.from_bytes(answer.data, "little"), answer.stamps


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
