"""The arm64 guest of the benchmark: our guest's one vCPU, sent to loops of their own in memory behind the guest's.

    0x4020_0000  the loops of `reads`
    0x4020_8000  samples, u64 each

Our guest's translation table covers both: the loops run cached, and what they store is what the host reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack_from
from typing import Any

from guestclock.abi import arm64 as abi
from guestclock.abi import ioctl
from guestclock.errors import UserError
from guestclock.kvm.device.arm64 import guest
from guestclock.kvm.device.arm64.ioctls import get_one_reg, set_one_reg
from guestclock.kvm.device.arm64.reads import LCG_INCREMENT, LCG_MULTIPLIER, READS
from guestclock.kvm.device.arm64.vm import Arm64Vm
from guestclock.kvm.device.executor import DeviceKvm
from guestclock.kvm.device.ioctls import call
from guestclock.kvm.device.samples import GuestMemory, Samples
from guestclock.kvm.device.stats import Stats

GPA = 0x4020_0000
SIZE = 0x20_0000
SAMPLES = 0x8000
CODE_STRIDE = 0x100

OFFSETS = {"cntpct-offset": 1}
"""What the VM's counters are set back by for a read, and for good: 1, as in the series of 2021, is enough."""


class BenchVm(Arm64Vm):
    room: GuestMemory

    def prepare(self, kvm_fd: int) -> None:
        super().prepare(kvm_fd)
        self.room = GuestMemory(self.fd, GPA, SIZE)
        for i, code in enumerate(READS.values()):
            assert len(code) <= CODE_STRIDE
            self.room.memory[i * CODE_STRIDE : i * CODE_STRIDE + len(code)] = code

    def close(self) -> None:
        super().close()
        if hasattr(self, "room"):
            self.room.close()


class Arm64Bench:
    """Times arm64's counters in a guest of its own. To be closed. Raises UserError where KVM has no counter offset."""

    max_count = (SIZE - SAMPLES) // 8

    def __init__(self, kvm: DeviceKvm[Any, Any]) -> None:
        if not call(kvm.kvm_fd, ioctl.KVM_CHECK_EXTENSION, abi.KVM_CAP_COUNTER_OFFSET).value:
            raise UserError(
                f"bench counter: {kvm.meta()['kernel']}: no KVM_CAP_COUNTER_OFFSET (227, since 6.4): without an offset "
                "no read of CNTPCT_EL0 traps, so there is nothing to compare"
            )
        self._vm = BenchVm(kvm.kvm_fd)
        try:
            self._vcpu = self._vm.create_vcpu(kvm.cpus[0])
            self._stats = self._vcpu.do(lambda: Stats(self._vcpu.fd))
        except BaseException:
            self._vm.close()
            raise

    def close(self) -> None:
        self._stats.close()
        self._vm.close()

    def series(self, count: int) -> Iterator[tuple[str, Samples]]:
        """Every read by its name in `READS`, `count` times after so many to warm up."""
        for name in READS:
            if name in OFFSETS:
                argument = OFFSETS[name].to_bytes(8, "little") + bytes(8)
                self._vm.ioctl(abi.KVM_ARM_SET_COUNTER_OFFSET, argument)
            self.sample(name, count)
            yield name, self.sample(name, count)

    def sample(self, name: str, count: int) -> Samples:
        """`count` reads, timed one by one. Raises IoctlError where the guest did not come to its end."""
        assert 0 < count <= self.max_count
        self._vcpu.do(lambda: self._set_registers(name, count))
        before = [self._stats.read(stat) for stat in Samples.COUNTED]
        self._vcpu.run([])
        after = [self._stats.read(stat) for stat in Samples.COUNTED]
        left = self._vcpu.do(self._samples_left)
        assert left == 0, f"{name}: the guest stopped {left} samples early"
        return Samples.of(list(unpack_from(f"<{count}Q", self._vm.room.memory, SAMPLES)), before, after)

    def _set_registers(self, name: str, count: int) -> None:
        pc = GPA + list(READS).index(name) * CODE_STRIDE
        set_one_reg(self._vcpu.fd, abi.KVM_REG_ARM_CORE_PC, pc)
        for x, value in enumerate((GPA + SAMPLES, count, guest.EXIT_GPA, 1, LCG_MULTIPLIER, LCG_INCREMENT)):
            set_one_reg(self._vcpu.fd, abi.core_reg_id(x), value)

    def _samples_left(self) -> int:
        self._vcpu.complete_exit()
        return get_one_reg(self._vcpu.fd, abi.core_reg_id(1))[0]
