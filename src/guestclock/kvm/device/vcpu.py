"""A vCPU of a real VM: its file descriptor, its mailbox, and the one thread that may use them."""

from __future__ import annotations

import mmap
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from guestclock.abi import ioctl as abi
from guestclock.abi.kvm import KvmRun
from guestclock.kvm.device import native
from guestclock.kvm.device.ioctls import Answer, IoctlError, Stamps, call
from guestclock.kvm.device.worker import Pending, Worker

T = TypeVar("T")
CommandT = TypeVar("CommandT")

ENTRY_TIMEOUT_S = 60.0
"""A guest that has not halted after so long is kicked out. Long, because a lab may emulate every instruction."""

_EXITS = {
    abi.KVM_EXIT_MMIO: "KVM_EXIT_MMIO",
    abi.KVM_EXIT_SHUTDOWN: "KVM_EXIT_SHUTDOWN",
    abi.KVM_EXIT_FAIL_ENTRY: "KVM_EXIT_FAIL_ENTRY",
    abi.KVM_EXIT_INTERNAL_ERROR: "KVM_EXIT_INTERNAL_ERROR",
    abi.KVM_EXIT_SYSTEM_EVENT: "KVM_EXIT_SYSTEM_EVENT",
}


class Mailbox(Protocol[CommandT]):
    """The host's side of what a vCPU and its guest share: commands go in, answers come out, a spin counts its rounds.

    To be written only while the vCPU is out of the guest.
    """

    def put(self, commands: list[CommandT]) -> None: ...
    def take(self, count: int) -> list[CommandT]: ...
    @property
    def spins(self) -> int: ...
    def release(self) -> None: ...


class Vcpu(ABC, Generic[CommandT]):
    """A vCPU and its thread, pinned to one physical CPU so that migration adds no requests of its own.

    Every ioctl on it is made by that thread. Between `start` and `kick` the thread is in KVM_RUN and takes nothing.
    A subclass knows its architecture's registers (`prepare`, on the thread) and what its guest's end looks like.
    """

    mailbox: Mailbox[CommandT]

    def __init__(self, vm_fd: int, index: int, cpu: int, run_size: int) -> None:
        self.index, self.cpu = index, cpu
        self.fd = -1
        self.run_page: mmap.mmap | None = None
        """struct kvm_run."""
        self._spinning: Pending[Stamps] | None = None
        self._worker = Worker(f"vcpu{index}")
        try:
            self.created = self.do(lambda: self._create(vm_fd, run_size))
        except BaseException:
            self.close()
            raise

    def _create(self, vm_fd: int, run_size: int) -> Answer:
        os.sched_setaffinity(0, {self.cpu})
        created = call(vm_fd, abi.KVM_CREATE_VCPU, self.index)
        self.fd = created.value
        self.run_page = mmap.mmap(self.fd, run_size)
        self.prepare()
        return created

    # ---- an architecture's own

    @abstractmethod
    def prepare(self) -> None:
        """On the thread, right after KVM_CREATE_VCPU: registers, so that the guest begins at its start; the mailbox."""

    @abstractmethod
    def has_ended(self, run: mmap.mmap) -> bool:
        """Is this exit the guest's own end of an entry? run: struct kvm_run."""

    @abstractmethod
    def spin(self) -> CommandT:
        """The command that `start` gives."""

    def facts(self) -> dict[str, Any]:
        """What the trace says of a vCPU that was created."""
        return {"vcpu": self.index, "cpu": self.cpu}

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

    # ---- in the guest

    @property
    def spinning(self) -> bool:
        return self._spinning is not None

    def run(self, commands: list[CommandT]) -> tuple[list[CommandT], Stamps]:
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

    def start(self) -> Stamps:
        """Into KVM_RUN to stay; returns when the guest has gone round once, with the counter before and after that."""
        self.mailbox.put([self.spin()])
        spins, before = self.mailbox.spins, native.counter()
        self._spinning = self._worker.submit(self._enter)
        deadline = time.monotonic() + ENTRY_TIMEOUT_S
        while self.mailbox.spins == spins:
            if self._spinning.wait(0.0002):  # it came out at once: entry failed
                pending, self._spinning = self._spinning, None
                raise IoctlError("EINTR", pending.result(), "the guest left its spin")
            if time.monotonic() > deadline:
                self.kick()
                raise IoctlError("ETIMEDOUT", (before, native.counter()), "the guest does not run")
        return before, native.counter()

    def kick(self) -> Stamps:
        """Out of KVM_RUN, from wherever it is; the counter before the signal and after the thread was out."""
        before = native.counter()
        if self._spinning is not None:
            pending, self._spinning = self._spinning, None
            self._force_out(pending)
            pending.result()
        return before, native.counter()

    def _enter(self) -> Stamps:
        """KVM_RUN until the guest ends its entry or is kicked. The counter before and after."""
        assert self.run_page is not None
        first: int | None = None
        while True:
            try:
                stamps = call(self.fd, abi.KVM_RUN).stamps
            except IoctlError as refusal:
                if refusal.errno != "EINTR":
                    raise
                first = refusal.stamps[0] if first is None else first
                if self.run_page[KvmRun.IMMEDIATE_EXIT]:
                    return first, refusal.stamps[1]
                continue  # a signal of somebody else's
            first = stamps[0] if first is None else first
            if not self.has_ended(self.run_page):
                reason = KvmRun.exit_reason(self.run_page[:64])
                detail = int.from_bytes(self.run_page[KvmRun.UNION : KvmRun.UNION + 4], "little")
                name = _EXITS.get(reason, f"KVM_EXIT {reason}")
                raise IoctlError("EIO", (first, stamps[1]), f"the guest ended with {name}, detail {detail:#x}")
            return first, stamps[1]

    def complete_exit(self) -> None:
        """On the thread: finishes the port or memory access that the latest exit was for, and enters no guest.

        Until then the guest's registers are not to be touched (Documentation/virt/kvm/api.rst, KVM_RUN).
        """
        assert self.run_page is not None
        self.run_page[KvmRun.IMMEDIATE_EXIT] = 1
        try:
            call(self.fd, abi.KVM_RUN)
        except IoctlError as refusal:
            if refusal.errno != "EINTR":
                raise
        finally:
            self.run_page[KvmRun.IMMEDIATE_EXIT] = 0

    def _force_out(self, pending: Pending[Any]) -> None:
        """immediate_exit catches an entry that is yet to come, the signal one that has been; so neither is missed."""
        assert self.run_page is not None
        assert self._worker.thread.ident is not None
        self.run_page[KvmRun.IMMEDIATE_EXIT] = 1
        while True:
            signal.pthread_kill(self._worker.thread.ident, native.kick_signal())
            if pending.wait(0.1):
                break
        self.run_page[KvmRun.IMMEDIATE_EXIT] = 0

    def close(self) -> None:
        """Out of the guest, the thread joined, the descriptor closed. May be called twice."""
        if self._spinning is not None:
            pending, self._spinning = self._spinning, None
            self._force_out(pending)
        self._worker.close()
        if self.run_page is not None:
            self.run_page.close()
            self.run_page = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        if hasattr(self, "mailbox"):
            self.mailbox.release()
