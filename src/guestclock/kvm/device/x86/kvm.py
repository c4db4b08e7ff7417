"""x86's operations on this machine's KVM: clocks, rates, MSRs, TSC offsets, the system-time page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from guestclock.abi import ioctl as abi
from guestclock.abi.kvm import KvmClockData, pack_xen_shared_info
from guestclock.abi.msr import (
    KVM_MSR_ENABLED,
    MSR_IA32_TSC,
    MSR_KVM_SYSTEM_TIME,
    MSR_KVM_SYSTEM_TIME_NEW,
    SYSTEM_TIME_MSRS,
)
from guestclock.arith.kernel import u64
from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.device import host, native
from guestclock.kvm.device.executor import DeviceKvm, Handler, Took, handles
from guestclock.kvm.device.ioctls import IoctlError, call
from guestclock.kvm.device.x86 import guest
from guestclock.kvm.device.x86.entry import Entry, reading
from guestclock.kvm.device.x86.ioctls import get_msr, get_tsc_offset, set_msr, set_tsc_offset
from guestclock.kvm.device.x86.tracing import X86Tracing
from guestclock.kvm.device.x86.vcpu import X86Vcpu
from guestclock.kvm.device.x86.vm import X86Vm
from guestclock.kvm.record import as_json

MIN_TSC_KHZ = 100_000
"""Below, scaled rates come near 0, and a rate of 0 hangs a kernel before 6.16 for good (4578a747f3c7)."""


class X86DeviceKvm(DeviceKvm[X86Vm, X86Vcpu]):
    """KVM of an x86-64 machine."""

    handlers: ClassVar[dict[type[api.Op], Handler]] = DeviceKvm.handlers.copy()
    registers: ClassVar[Mapping[str, Callable[[], int]]] = {"tsc": native.counter}
    stamps_key = "host_tsc"
    model_only: ClassVar[Mapping[str, str]] = {
        "StopAllTscs": "no kernel has this call (it was proposed in 2010)",
        "StartAllTscs": "no kernel has this call (it was proposed in 2010)",
        "MarkTscUnstable": "host-wide and permanent, nothing outside the kernel asks for it",
    }

    @property
    def tsc_khz(self) -> int:
        return self.counter_hz // 1000

    def rate_hz(self) -> int:
        """KVM_GET_TSC_KHZ of a fresh vCPU: the rate by which all of KVM reckons."""
        vm = self.new_vm()
        try:
            return vm.create_vcpu(self.cpus[0]).tsc_khz * 1000
        finally:
            vm.close()

    def new_vm(self) -> X86Vm:
        return X86Vm(self.kvm_fd)

    def tracing(self) -> X86Tracing:
        return X86Tracing()

    def rates(self) -> dict[str, Any]:
        return {"tsc_khz": self.tsc_khz, "tsc_start": self.counter_start}


def _handles(op: type[api.Op]) -> Callable[[Handler], Handler]:
    return handles(X86DeviceKvm.handlers, op)


@_handles(api.GetClock)
def _get_clock(self: X86DeviceKvm, op: api.GetClock, took: Took) -> api.ClockData:
    answer = self.vm(op).ioctl(abi.KVM_GET_CLOCK, bytes(KvmClockData.SIZE))
    took.at(answer.stamps)
    data = KvmClockData.unpack(answer.data)
    return api.ClockData(data.clock, data.flags, data.realtime, data.host_tsc)


@_handles(api.SetClock)
def _set_clock(self: X86DeviceKvm, op: api.SetClock, took: Took) -> None:
    data = KvmClockData(u64(op.clock_ns), op.flags, u64(op.realtime_ns), u64(op.host_tsc))
    took.at(self.vm(op).ioctl(abi.KVM_SET_CLOCK, data.pack()).stamps)
    after = Took()
    self.read_back(took, as_json(_get_clock(self, api.GetClock(op.vm), after)), (after.start, after.end))


@_handles(api.SetTscKhz)
def _set_tsc_khz(self: X86DeviceKvm, op: api.SetTscKhz, took: Took) -> None:
    if op.khz != 0 and not MIN_TSC_KHZ <= op.khz < 2**32:
        raise UserError(
            f"SetTscKhz: {op.khz} kHz: expected 0 (the host's rate) or {MIN_TSC_KHZ}..{2**32 - 1}: "
            "kernels before 6.16 hang on rates near zero"
        )
    target = self.vm(op) if op.vcpu is None else self.vcpu(op)
    refusal = None
    try:
        took.at(target.ioctl(abi.KVM_SET_TSC_KHZ, op.khz).stamps)
    except IoctlError as error:
        refusal = error
        if op.vcpu is None:  # before 5.18 a VM has neither of the two calls
            raise
    answer = target.ioctl(abi.KVM_GET_TSC_KHZ)
    if isinstance(target, X86Vcpu):
        target.tsc_khz = answer.value  # a rate that was refused can have been kept all the same (kvm-x86.md 7.9)
    self.read_back(took, answer.value, answer.stamps, answer.value == (op.khz or self.tsc_khz))
    if refusal is not None:
        raise refusal


@_handles(api.GetTscKhz)
def _get_tsc_khz(self: X86DeviceKvm, op: api.GetTscKhz, took: Took) -> int:
    target = self.vm(op) if op.vcpu is None else self.vcpu(op)
    answer = target.ioctl(abi.KVM_GET_TSC_KHZ)
    took.at(answer.stamps)
    return answer.value


@_handles(api.XenSharedInfoInit)
def _xen_shared_info_init(self: X86DeviceKvm, op: api.XenSharedInfoInit, took: Took) -> None:
    offered = call(self.kvm_fd, abi.KVM_CHECK_EXTENSION, abi.KVM_CAP_XEN_HVM)
    if not offered.value & abi.KVM_XEN_HVM_CONFIG_SHARED_INFO:
        raise IoctlError("ENOTTY", offered.stamps, "KVM_CAP_XEN_HVM (38) does not offer shared_info here")
    config = abi.KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL
    self.vm(op).ioctl(abi.KVM_XEN_HVM_CONFIG, config.to_bytes(4, "little") + bytes(52))
    attr = pack_xen_shared_info(guest.XEN_SHARED_INFO_GPA >> 12)
    took.at(self.vm(op).ioctl(abi.KVM_XEN_HVM_SET_ATTR, attr).stamps)


@_handles(api.SetMsr)
def _set_msr(self: X86DeviceKvm, op: api.SetMsr, took: Took) -> None:
    vcpu, data = self.vcpu(op), u64(op.data)
    took.at(vcpu.do(lambda: set_msr(vcpu.fd, op.index, data)).stamps)
    if op.index in SYSTEM_TIME_MSRS:
        vcpu.register_page(data)
    value, stamps = vcpu.do(lambda: get_msr(vcpu.fd, op.index))
    same = value == data
    if op.index == MSR_IA32_TSC:  # it has been running since
        least, most = (c * vcpu.tsc_khz // self.tsc_khz for c in (stamps[0] - took.end, stamps[1] - took.start))
        same = u64(value - data - least) <= most - least + 1
    self.read_back(took, value, stamps, same)


@_handles(api.GetMsr)
def _get_msr(self: X86DeviceKvm, op: api.GetMsr, took: Took) -> int:
    vcpu = self.vcpu(op)
    value, stamps = vcpu.do(lambda: get_msr(vcpu.fd, op.index))
    took.at(stamps)
    return value


@_handles(api.SetTscOffset)
def _set_tsc_offset(self: X86DeviceKvm, op: api.SetTscOffset, took: Took) -> None:
    vcpu, offset = self.vcpu(op), u64(op.offset)
    took.at(vcpu.do(lambda: set_tsc_offset(vcpu.fd, offset)).stamps)
    value, stamps = vcpu.do(lambda: get_tsc_offset(vcpu.fd))
    self.read_back(took, value, stamps, value == offset)


@_handles(api.GetTscOffset)
def _get_tsc_offset(self: X86DeviceKvm, op: api.GetTscOffset, took: Took) -> int:
    vcpu = self.vcpu(op)
    value, stamps = vcpu.do(lambda: get_tsc_offset(vcpu.fd))
    took.at(stamps)
    return value


@_handles(api.EnableKvmclock)
def _enable_kvmclock(self: X86DeviceKvm, op: api.EnableKvmclock, took: Took) -> None:
    index = MSR_KVM_SYSTEM_TIME if op.old else MSR_KVM_SYSTEM_TIME_NEW
    page = guest.system_time_gpa(op.vcpu) | KVM_MSR_ENABLED
    _set_msr(self, api.SetMsr(op.vm, op.vcpu, index, page), took)


@_handles(api.KvmclockCtrl)
def _kvmclock_ctrl(self: X86DeviceKvm, op: api.KvmclockCtrl, took: Took) -> None:
    took.at(self.vcpu(op).ioctl(abi.KVM_KVMCLOCK_CTRL).stamps)


@_handles(api.Run)
def _run(self: X86DeviceKvm, op: api.Run, took: Took) -> list[Any]:
    vcpu = self.vcpu(op)
    if len(op.actions) > guest.MAX_COMMANDS:
        raise UserError(f"Run: {len(op.actions)} actions, the guest's mailbox holds {guest.MAX_COMMANDS}")
    entry = Entry(vcpu, op)
    try:
        commands, stamps = vcpu.run(entry.commands)
    finally:  # even an entry that failed can have come as far as writing the MSR
        vcpu.page_gpa = entry.page_after
    took.at(stamps)
    return entry.answers(commands, stamps)


@_handles(api.Peek)
def _peek(self: X86DeviceKvm, op: api.Peek, took: Took) -> api.ClockReading:
    vcpu = self.vcpu(op, in_guest_too=True)
    if vcpu.anchor is None:
        tsc, stamps = vcpu.do(lambda: get_msr(vcpu.fd, MSR_IA32_TSC))
    else:  # read when the host's TSC was between `first` and `last`; what has passed since one of them has passed
        then, (first, last) = vcpu.anchor
        now = native.counter()
        tsc, stamps = u64(then + (now - first) * vcpu.tsc_khz // self.tsc_khz), (now, now + last - first)
    took.at(stamps)
    page = None if vcpu.page_gpa is None else guest.read_page(self.vm(op).memory, vcpu.page_gpa)
    return reading(tsc, page, stamps)


# ---- the host


@_handles(api.HostSleep)
def _host_sleep(self: X86DeviceKvm, op: api.HostSleep, took: Took) -> None:
    self.change_host(op)
    if op.tsc != "running":
        raise UserError(f"HostSleep: a TSC that is {op.tsc}: a real host's does in its sleep what it does")
    sleeps = {"s3": host.sleep_s3, "s2idle": host.sleep_s2idle}
    sleeps[op.kind](op.ns)
