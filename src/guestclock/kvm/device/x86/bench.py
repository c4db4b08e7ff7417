"""The x86 guest of the benchmark: one vCPU in 64-bit mode, in memory of its own behind our real-mode guest's.

    0x20_0000  page tables: the first 4 MiB, mapped as they are, for ring 3 too
    0x20_3000  timekeepers: of a TSC clocksource, of kvm-clock
    0x20_4000  kvm-clock's page, which KVM writes
    0x20_5000  the loops of `reads`
    0x20_8000  samples, u64 each

There are no interrupts and no IDT: a guest that faults has ended (KVM_EXIT_SHUTDOWN).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from struct import pack_into, unpack_from
from typing import Any

from guestclock.abi import ioctl as abi
from guestclock.abi.kvm import KvmRegs, KvmRun, KvmSregs
from guestclock.abi.msr import KVM_MSR_ENABLED, MSR_IA32_TSC, MSR_KVM_SYSTEM_TIME_NEW
from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.arith.kernel import pvclock_scale_delta, u64
from guestclock.kvm.device.executor import DeviceKvm
from guestclock.kvm.device.ioctls import IoctlError, call
from guestclock.kvm.device.samples import GuestMemory, Samples
from guestclock.kvm.device.stats import Stats
from guestclock.kvm.device.x86.ioctls import get_msr, set_msr
from guestclock.kvm.device.x86.reads import READS, Timekeeper
from guestclock.kvm.device.x86.vcpu import X86Vcpu
from guestclock.kvm.device.x86.vm import X86Vm
from guestclock.linux.clocksource import clocksource

GPA = 0x20_0000
SIZE = 0x20_0000
PDPT, PD, TIMEKEEPERS, KVM_CLOCK, CODE, SAMPLES = 0x1000, 0x2000, 0x3000, 0x4000, 0x5000, 0x8000
CODE_STRIDE = 0x200
_BIG_PAGE = 0x20_0000
_USER_WRITABLE, _BIG = 7, 0x80
_IOPL_3 = 3 << 12 | 2

CONVERTS = {"tsc-clocksource": 0, "kvm-clock": 1}
"""Reads that convert, and which of the timekeepers they use."""
STAND_IN = {"rdmsr-tsc-adjust": "rdmsr-tsc"}
"""A read that KVM always keeps to itself, for one that this KVM may let the guest have (VMX: RDMSR of the TSC)."""


class BenchVcpu(X86Vcpu):
    """Its end of an entry is an OUT. `prepare` leaves it in real mode, `X86Bench` takes it from there."""

    def has_ended(self, run: mmap.mmap) -> bool:
        return KvmRun.exit_reason(run[:64]) == abi.KVM_EXIT_IO


class BenchVm(X86Vm):
    room: GuestMemory

    def prepare(self, kvm_fd: int) -> None:
        super().prepare(kvm_fd)
        self.room = GuestMemory(self.fd, GPA, SIZE)
        pack_into("<Q", self.room.memory, 0, GPA + PDPT | _USER_WRITABLE)
        pack_into("<Q", self.room.memory, PDPT, GPA + PD | _USER_WRITABLE)
        for i in range((GPA + SIZE) // _BIG_PAGE):
            pack_into("<Q", self.room.memory, PD + 8 * i, i * _BIG_PAGE | _BIG | _USER_WRITABLE)
        for i, read in enumerate(READS.values()):
            assert len(read.code) <= CODE_STRIDE
            at = CODE + i * CODE_STRIDE
            self.room.memory[at : at + len(read.code)] = read.code

    def new_vcpu(self, index: int, cpu: int) -> BenchVcpu:
        return BenchVcpu(self.fd, index, cpu, self._run_size, memory=self.memory, cpuid=self._cpuid)

    def close(self) -> None:
        super().close()
        if hasattr(self, "room"):
            self.room.close()


class X86Bench:
    """Times x86's reads in a guest of its own. To be closed."""

    max_count = (SIZE - SAMPLES) // 8

    def __init__(self, kvm: DeviceKvm[Any, Any]) -> None:
        self._vm = BenchVm(kvm.kvm_fd)
        try:
            self._vcpu = self._vm.create_vcpu(kvm.cpus[0])
            self._stats = self._vcpu.do(lambda: Stats(self._vcpu.fd))
            page = GPA + KVM_CLOCK | KVM_MSR_ENABLED
            self._vcpu.do(lambda: set_msr(self._vcpu.fd, MSR_KVM_SYSTEM_TIME_NEW, page))
            tsc, _ = self._vcpu.do(lambda: get_msr(self._vcpu.fd, MSR_IA32_TSC))
        except BaseException:
            self._vm.close()
            raise
        self._timekeepers: list[Timekeeper] = []
        for name, cycle_last in (("tsc", tsc), ("kvm-clock", 0)):
            source = clocksource(name, tsc_khz=self._vcpu.tsc_khz)
            timekeeper = Timekeeper(source.mult, source.shift, cycle_last, source.mask, source.max_cycles)
            at = TIMEKEEPERS + len(self._timekeepers) * Timekeeper.SIZE
            self._vm.room.memory[at : at + Timekeeper.SIZE] = timekeeper.pack()
            self._timekeepers.append(timekeeper)

    def close(self) -> None:
        self._stats.close()
        self._vm.close()

    def series(self, count: int) -> Iterator[tuple[str, Samples]]:
        """Every read by its name in `READS`, `count` times after so many to warm up."""
        trapped: dict[str, bool] = {}
        for name in READS:
            if not trapped.get(STAND_IN.get(name, ""), False):
                self.sample(name, count)
                samples = self.sample(name, count)
                trapped[name] = samples.trapped
                yield name, samples

    def sample(self, name: str, count: int) -> Samples:
        """`count` reads, timed one by one. Raises IoctlError where the guest did not come to its end."""
        assert 0 < count <= self.max_count
        timekeeper = CONVERTS.get(name, 0)
        self._vcpu.do(lambda: self._set_registers(name, count, timekeeper))
        before = [self._stats.read(stat) for stat in Samples.COUNTED]
        _, stamps = self._vcpu.run([])
        after = [self._stats.read(stat) for stat in Samples.COUNTED]
        registers = self._vcpu.do(self._registers)
        if registers.rsi != 0:
            why = f"{name}: {registers.rsi} of {count} reads are missing: the host slept (GUEST_STOPPED), or more"
            raise IoctlError("EINTR", stamps, why)
        if name in CONVERTS:
            self._check_conversion(name, registers)
        ticks = list(unpack_from(f"<{count}Q", self._vm.room.memory, SAMPLES))
        return Samples.of(ticks, before, after)

    def _set_registers(self, name: str, count: int, timekeeper: int) -> None:
        fd = self._vcpu.fd
        sregs = KvmSregs(call(fd, abi.KVM_GET_SREGS, bytes(KvmSregs.SIZE)).data)
        sregs.set_long_mode(GPA, READS[name].ring)
        call(fd, abi.KVM_SET_SREGS, sregs.pack())
        registers = KvmRegs(
            rip=GPA + CODE + list(READS).index(name) * CODE_STRIDE,
            rdi=GPA + SAMPLES,
            rsi=count,
            rbx=GPA + TIMEKEEPERS + timekeeper * Timekeeper.SIZE,
            rbp=GPA + KVM_CLOCK,
            rflags=_IOPL_3,
        )
        call(fd, abi.KVM_SET_REGS, registers.pack())

    def _registers(self) -> KvmRegs:
        self._vcpu.complete_exit()
        return KvmRegs.unpack(call(self._vcpu.fd, abi.KVM_GET_REGS, bytes(KvmRegs.SIZE)).data)

    def _check_conversion(self, name: str, registers: KvmRegs) -> None:
        """What the guest's code made of the last counter lies between what is made of its neighbours here."""
        page = PvclockVcpuTimeInfo.unpack(self._vm.room.memory[KVM_CLOCK : KVM_CLOCK + PvclockVcpuTimeInfo.SIZE])
        if name == "kvm-clock" and registers.r9 != page.version:
            return  # KVM has written the page since the last read

        def ktime_ns(tsc: int) -> int:
            scaled = pvclock_scale_delta(u64(tsc - page.tsc_timestamp), page.tsc_to_system_mul, page.tsc_shift)
            cycles = u64(page.system_time + scaled) if name == "kvm-clock" else tsc
            return self._timekeepers[CONVERTS[name]].ktime_ns(cycles)

        lo, hi = ktime_ns(registers.r15), ktime_ns(registers.r11)
        assert lo <= registers.r12 <= hi, f"{name}: the guest computed {registers.r12} ns, expected {lo}..{hi}"
