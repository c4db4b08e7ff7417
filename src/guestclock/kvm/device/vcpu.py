"""A vCPU of a real VM: its file descriptor, its mailbox, and the one thread that may use them."""

from __future__ import annotations

import mmap
import os
import signal
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from guestclock.abi import ioctl as abi
from guestclock.abi.kvm import KvmRegs, KvmRun, KvmSregs
from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.device import guest, native
from guestclock.kvm.device.ioctls import Answer, IoctlError, call, get_msr

T = TypeVar("T")

ENTRY_TIMEOUT_S = 60.0
"""A guest that has not halted after so long is kicked out. Long, because a lab may emulate every instruction."""

_EXITS = {
    abi.KVM_EXIT_SHUTDOWN: "KVM_EXIT_SHUTDOWN",
    abi.KVM_EXIT_FAIL_ENTRY: "KVM_EXIT_FAIL_ENTRY",
    abi.KVM_EXIT_INTERNAL_ERROR: "KVM_EXIT_INTERNAL_ERROR",
}


def page_of(system_time: int) -> int | None:
    """Where the page is by the system-time MSR: gpa, bit 0 enabled. None: disabled, or outside the guest's memory."""
    gpa = system_time & ~1
    return gpa if system_time & 1 and gpa + 32 <= guest.MEMORY_SIZE else None


class Pending(Generic[T]):
    """Something a worker will do; `result` waits for it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function, self._done = function, threading.Event()
        self._value: T
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:  # handed to whoever waits, whatever it is
            self._error = error
        self._done.set()

    def wait(self, timeout_s: float) -> bool:
        return self._done.wait(timeout_s)

    def result(self) -> T:
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value


class Worker:
    """One thread that does what it is given, one thing after the other."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Pending[Any] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()

    def submit(self, function: Callable[[], T]) -> Pending[T]:
        pending = Pending(function)
        self._jobs.put(pending)
        return pending

    def close(self) -> None:
        self._jobs.put(None)
        self.thread.join()


class Vcpu:
    """A vCPU and its thread, pinned to one physical CPU so that migration adds no requests of its own.

    Every ioctl on it is made by that thread. Between `start` and `kick` the thread is in KVM_RUN and takes nothing.
    """

    def __init__(self, vm_fd: int, index: int, memory: memoryview, cpu: int, cpuid: bytes, run_size: int) -> None:
        self.index, self.cpu, self._memory = index, cpu, memory
        self.fd = -1
        self.page_gpa: int | None = None
        """Where the system-time page is, as the last write of its MSR said; None while disabled."""
        self.tsc_khz = 0
        self.anchor: tuple[int, tuple[int, int]] | None = None
        """(guest TSC, host TSC around its reading), taken when the thread went into KVM_RUN to stay."""
        self._run_page: mmap.mmap | None = None
        self._spinning: Pending[tuple[int, int]] | None = None
        self._worker = Worker(f"vcpu{index}")
        try:
            self.created = self.do(lambda: self._create(vm_fd, cpuid, run_size))
        except BaseException:
            self.close()
            raise

    def _create(self, vm_fd: int, cpuid: bytes, run_size: int) -> Answer:
        os.sched_setaffinity(0, {self.cpu})
        created = call(vm_fd, abi.KVM_CREATE_VCPU, self.index)
        self.fd = created.value
        self._run_page = mmap.mmap(self.fd, run_size)
        call(self.fd, abi.KVM_SET_CPUID2, cpuid)
        sregs = KvmSregs(call(self.fd, abi.KVM_GET_SREGS, bytes(KvmSregs.SIZE)).data)
        sregs.set_real_mode_segment("cs", guest.CODE_GPA >> 4)
        for name in ("ds", "ss"):
            sregs.set_real_mode_segment(name, guest.segment(self.index))
        call(self.fd, abi.KVM_SET_SREGS, sregs.pack())
        call(self.fd, abi.KVM_SET_REGS, KvmRegs(rip=guest.LABELS["start"], rsp=guest.STACK_TOP).pack())
        self.mailbox = guest.Mailbox(self._memory, self.index)
        self.tsc_khz = call(self.fd, abi.KVM_GET_TSC_KHZ).value
        return created

    # ---- on the thread

    def do(self, function: Callable[[], T]) -> T:
        """`function` on the vCPU's thread."""
        assert self._spinning is None, "the thread is in KVM_RUN"
        return self._worker.submit(function).result()

    def ioctl(self, request: int, argument: int | bytes = 0) -> Answer:
        return self.do(lambda: call(self.fd, request, argument))

    @property
    def tid(self) -> int | None:
        return self._worker.thread.native_id

    def move_to(self, cpu: int) -> None:
        self.do(lambda: os.sched_setaffinity(0, {cpu}))
        self.cpu = cpu

    def register_page(self, value: int) -> None:
        """The system-time MSR is now `value`."""
        self.page_gpa = page_of(value)

    # ---- in the guest

    @property
    def spinning(self) -> bool:
        return self._spinning is not None

    def run(self, commands: list[guest.Command]) -> tuple[list[guest.Command], tuple[int, int]]:
        """One entry: the guest carries out `commands` and halts. The commands as it left them, and the sandwich."""
        assert self._spinning is None
        self.mailbox.put(commands)
        pending = self._worker.submit(self._enter)
        late = not pending.wait(ENTRY_TIMEOUT_S)
        if late:
            self._force_out(pending)
        stamps = pending.result()
        if late:
            raise IoctlError("ETIMEDOUT", stamps, f"the guest did not halt within {ENTRY_TIMEOUT_S:.0f} s")
        return self.mailbox.take(len(commands)), stamps

    def start(self) -> tuple[int, int]:
        """Into KVM_RUN to stay; returns when the guest has read its clocks once, with the TSC before and after that."""
        self.anchor = self.do(lambda: get_msr(self.fd, MSR_IA32_TSC))
        self.mailbox.put([self.mailbox.reader(guest.SPIN, self.page_gpa)])
        spins, before = self.mailbox.spins, native.rdtsc()
        self._spinning = self._worker.submit(self._enter)
        deadline = time.monotonic() + ENTRY_TIMEOUT_S
        while self.mailbox.spins == spins:
            if self._spinning.wait(0.0002):  # it came out at once: entry failed
                pending, self._spinning = self._spinning, None
                raise IoctlError("EINTR", pending.result(), "the guest left its spin")
            if time.monotonic() > deadline:
                self.kick()
                raise IoctlError("ETIMEDOUT", (before, native.rdtsc()), "the guest does not run")
        return before, native.rdtsc()

    def kick(self) -> tuple[int, int]:
        """Out of KVM_RUN, from wherever it is; the TSC before the signal and after the thread was out."""
        before = native.rdtsc()
        if self._spinning is not None:
            pending, self._spinning = self._spinning, None
            self._force_out(pending)
            self.anchor = None
            pending.result()
        return before, native.rdtsc()

    def _enter(self) -> tuple[int, int]:
        """KVM_RUN until the guest halts or is kicked. (TSC before, after)."""
        assert self._run_page is not None
        first: int | None = None
        while True:
            try:
                stamps = call(self.fd, abi.KVM_RUN).host_tsc
            except IoctlError as refusal:
                if refusal.errno != "EINTR":
                    raise
                first = refusal.host_tsc[0] if first is None else first
                if self._run_page[KvmRun.IMMEDIATE_EXIT]:
                    return first, refusal.host_tsc[1]
                continue  # a signal of somebody else's
            first = stamps[0] if first is None else first
            reason = KvmRun.exit_reason(self._run_page[:64])
            if reason != abi.KVM_EXIT_HLT:
                detail = int.from_bytes(self._run_page[KvmRun.UNION : KvmRun.UNION + 4], "little")
                name = _EXITS.get(reason, f"KVM_EXIT {reason}")
                raise IoctlError("EIO", (first, stamps[1]), f"the guest ended with {name}, detail {detail:#x}")
            return first, stamps[1]

    def _force_out(self, pending: Pending[Any]) -> None:
        """immediate_exit catches an entry that is yet to come, the signal one that has been; so neither is missed."""
        assert self._run_page is not None
        assert self._worker.thread.ident is not None
        self._run_page[KvmRun.IMMEDIATE_EXIT] = 1
        while True:
            signal.pthread_kill(self._worker.thread.ident, native.kick_signal())
            if pending.wait(0.1):
                break
        self._run_page[KvmRun.IMMEDIATE_EXIT] = 0

    def close(self) -> None:
        """Out of the guest, the thread joined, the descriptor closed. May be called twice."""
        if self._spinning is not None:
            pending, self._spinning = self._spinning, None
            self._force_out(pending)
        self._worker.close()
        if self._run_page is not None:
            self._run_page.close()
            self._run_page = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if hasattr(self, "mailbox"):
            self.mailbox.release()
