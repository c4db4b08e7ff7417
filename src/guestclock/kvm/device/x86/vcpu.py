"""An x86 vCPU: real mode, every CPUID bit KVM has, and where its system-time page is."""

from __future__ import annotations

import mmap
from typing import Any

from guestclock.abi import ioctl as abi
from guestclock.abi.kvm import KvmRegs, KvmRun, KvmSregs
from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.device.ioctls import Stamps, call
from guestclock.kvm.device.vcpu import Vcpu
from guestclock.kvm.device.x86 import guest
from guestclock.kvm.device.x86.ioctls import get_msr


def page_of(system_time: int) -> int | None:
    """Where the page is by the system-time MSR: gpa, bit 0 enabled. None: disabled, or outside the guest's memory."""
    gpa = system_time & ~1
    return gpa if system_time & 1 and gpa + 32 <= guest.MEMORY_SIZE else None


class X86Vcpu(Vcpu[guest.Command]):
    mailbox: guest.Mailbox

    def __init__(self, vm_fd: int, index: int, cpu: int, run_size: int, *, memory: memoryview, cpuid: bytes) -> None:
        self._memory, self._cpuid = memory, cpuid
        self.page_gpa: int | None = None
        """Where the system-time page is, as the last write of its MSR said; None while disabled."""
        self.tsc_khz = 0
        self.anchor: tuple[int, Stamps] | None = None
        """(guest TSC, host TSC around its reading), taken when the thread went into KVM_RUN to stay."""
        super().__init__(vm_fd, index, cpu, run_size)

    def prepare(self) -> None:
        call(self.fd, abi.KVM_SET_CPUID2, self._cpuid)
        sregs = KvmSregs(call(self.fd, abi.KVM_GET_SREGS, bytes(KvmSregs.SIZE)).data)
        sregs.set_real_mode_segment("cs", guest.CODE_GPA >> 4)
        for name in ("ds", "ss"):
            sregs.set_real_mode_segment(name, guest.segment(self.index))
        call(self.fd, abi.KVM_SET_SREGS, sregs.pack())
        call(self.fd, abi.KVM_SET_REGS, KvmRegs(rip=guest.LABELS["start"], rsp=guest.STACK_TOP).pack())
        self.mailbox = guest.Mailbox(self._memory, self.index)
        self.tsc_khz = call(self.fd, abi.KVM_GET_TSC_KHZ).value

    def has_ended(self, run: mmap.mmap) -> bool:
        return KvmRun.exit_reason(run[:64]) == abi.KVM_EXIT_HLT

    def spin(self) -> guest.Command:
        return self.mailbox.reader(guest.SPIN, self.page_gpa)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "tsc_khz": self.tsc_khz}

    def register_page(self, value: int) -> None:
        """The system-time MSR is now `value`."""
        self.page_gpa = page_of(value)

    def start(self) -> Stamps:
        self.anchor = self.do(lambda: get_msr(self.fd, MSR_IA32_TSC))
        return super().start()

    def kick(self) -> Stamps:
        try:
            return super().kick()
        finally:
            self.anchor = None
