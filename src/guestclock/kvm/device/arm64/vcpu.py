"""An arm64 vCPU: EL1, no interrupts, stage 1 on."""

from __future__ import annotations

import mmap
import time
from struct import unpack_from

from guestclock.abi import arm64 as abi
from guestclock.abi import ioctl
from guestclock.abi.kvm import KvmRun
from guestclock.kvm.device import native
from guestclock.kvm.device.arm64 import guest
from guestclock.kvm.device.arm64.ioctls import set_one_reg
from guestclock.kvm.device.ioctls import Answer, IoctlError, Stamps, call
from guestclock.kvm.device.vcpu import ENTRY_TIMEOUT_S, Vcpu

_PAUSE_S = 0.0001
"""So long a spinning guest is let on before what it has read is looked for: it may need this very CPU."""


class Arm64Vcpu(Vcpu[guest.Command]):
    mailbox: guest.Mailbox

    def __init__(self, vm_fd: int, index: int, cpu: int, run_size: int, *, memory: memoryview, init: bytes) -> None:
        self._memory, self._init = memory, init
        super().__init__(vm_fd, index, cpu, run_size)

    def prepare(self) -> None:
        self.mailbox = guest.Mailbox(self._memory, self.index)
        self.init()

    def init(self) -> Answer:
        """KVM_ARM_VCPU_INIT, on the thread; the guest begins at its start when it runs next."""
        answer = call(self.fd, abi.KVM_ARM_VCPU_INIT, self._init)
        self.mailbox.restart()
        for id_, value in (
            (abi.sysreg_id(3, 0, 1, 0, 0), guest.SCTLR_EL1),
            (abi.sysreg_id(3, 0, 2, 0, 0), guest.TABLE_GPA),  # TTBR0_EL1
            (abi.sysreg_id(3, 0, 2, 0, 2), guest.TCR_EL1),
            (abi.sysreg_id(3, 0, 10, 2, 0), guest.MAIR_EL1),
            (abi.sysreg_id(3, 0, 12, 0, 0), guest.VECTORS_GPA),  # VBAR_EL1
            (abi.KVM_REG_ARM_CORE_PC, guest.CODE_GPA + guest.LABELS["start"]),
            (abi.core_reg_id(19), guest.mailbox_gpa(self.index)),
            (abi.core_reg_id(20), guest.EXIT_GPA),
        ):
            set_one_reg(self.fd, id_, value)
        return answer

    def has_ended(self, run: mmap.mmap) -> bool:
        if KvmRun.exit_reason(run[:64]) != ioctl.KVM_EXIT_MMIO:
            return False
        return bool(unpack_from("<Q", run, KvmRun.UNION)[0] == guest.EXIT_GPA)

    def spin(self) -> guest.Command:
        return guest.Command(guest.SPIN)

    def sample(self) -> tuple[tuple[int, int, int], Stamps]:
        """What the guest, in its spin, has read of its counters since this was asked, and the sandwich of that."""
        assert self.spinning
        deadline = time.monotonic() + ENTRY_TIMEOUT_S
        while True:
            before, since = native.counter(), self.mailbox.sequence
            time.sleep(_PAUSE_S)
            sample, after = self.mailbox.sample(since), native.counter()
            if sample is not None:
                return sample, (before, after)
            if time.monotonic() > deadline:
                raise IoctlError("ETIMEDOUT", (before, after), "the guest does not run")
