"""One QEMU process, talked to by its monitor. Its end is always ours to bring about, also when we are killed.

Nothing it reads or writes has a name in a file system: monitor, memory, kernel, console are descriptors that it
inherits. So nothing can be left behind, and no directory can be full.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import TracebackType
from typing import Any, Self

from guestclock.lab import qmp
from guestclock.lab.tools import LabError, Stuck

TAIL_LINES = 25
GRACE_S = 10.0
"""So long a QEMU that has closed its monitor may take to exit."""
CPU_GRACE_S = 5
"""So much later the kernel ends a QEMU that does not die of SIGXCPU."""


class Memory:
    """Anonymous memory with a path that QEMU can open. A context manager."""

    def __init__(self, name: str, content: bytes = b"", *, size: int | None = None) -> None:
        """size: bytes; those behind the content are 0."""
        self.fd = os.memfd_create(name)
        if size is not None:
            os.ftruncate(self.fd, size)
        write_whole(self.fd, content)

    @property
    def path(self) -> str:
        return path_of(self.fd)

    def read(self, length: int, at: int = 0) -> bytes:
        return read_whole(self.fd, length, at)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        os.close(self.fd)


def path_of(fd: int) -> str:
    """A name for an inherited descriptor, for a program that wants to open something by its name."""
    return f"/proc/self/fd/{fd}"


def read_whole(fd: int, length: int | None = None, at: int = 0) -> bytes:
    """So many bytes, fewer only at the end of the file; None: to its end."""
    if length is None:
        length = os.fstat(fd).st_size - at
    parts = []
    while length > 0 and (part := os.pread(fd, length, at)):
        parts.append(part)
        length, at = length - len(part), at + len(part)
    return b"".join(parts)


def write_whole(fd: int, content: bytes, at: int = 0) -> None:
    """pwrite, all of it."""
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written


_alive: set[subprocess.Popen[bytes]] = set()
_alive_lock = threading.Lock()


def end_all() -> None:
    """Kills every QEMU of this process, from whatever thread: those who wait for one get a LabError."""
    with _alive_lock:
        for process in _alive:
            process.kill()


class Process:
    """A QEMU that was started. Use it as a context manager: at the end it is dead.

    command: how QEMU is started, and its arguments but for monitor and console. fds: what it inherits. timeout_s:
    wall-clock time for all that it is asked; whatever is waited for later than that raises a LabError. on_one_cpu: its
    threads never run side by side (see `qemu`). cpu_s: CPU time that it may use; beyond it, what is waited for raises
    Stuck.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        fds: Iterable[int],
        timeout_s: float,
        on_one_cpu: bool = False,
        cpu_s: int | None = None,
    ) -> None:
        self.timeout_s, self.cpu_s = timeout_s, cpu_s
        with ExitStack() as opened:
            ours, theirs = (opened.enter_context(end) for end in socket.socketpair())
            self._console = opened.enter_context(Memory("console"))
            self._errors = opened.enter_context(Memory("errors"))
            own = ["-chardev", f"socket,id=monitor,fd={theirs.fileno()}", "-mon", "chardev=monitor,mode=control"]
            own += ["-chardev", f"file,id=console,path={self._console.path}", "-serial", "chardev:console"]
            inherited = [theirs.fileno(), self._console.fd, *fds]
            with _only_one_cpu() if on_one_cpu else nullcontext():
                self._process = _started([*command, *own], inherited, self._errors.fd)
            opened.callback(self._forget)
            if cpu_s is not None:
                resource.prlimit(self._process.pid, resource.RLIMIT_CPU, (cpu_s, cpu_s + CPU_GRACE_S))
            theirs.close()
            try:
                self._monitor = qmp.Qmp(ours, deadline=time.monotonic() + timeout_s)
            except (qmp.Gone, qmp.Late) as trouble:
                raise self._told(trouble) from None
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._opened.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def command(self, name: str, *, fds: Sequence[int] = (), **arguments: Any) -> Any:
        """A monitor command's answer. `LabError` where QEMU refuses it, is gone, or the time is up."""
        try:
            return self._monitor.command(name, fds=fds, **arguments)
        except (qmp.Gone, qmp.Late) as trouble:
            raise self._told(trouble) from None
        except qmp.Refused as refusal:
            raise LabError(f"lab: QEMU: {refusal}") from None

    def event(self) -> qmp.Event:
        """What happens next. `LabError` where QEMU is gone or the time is up."""
        try:
            return self._monitor.event()
        except (qmp.Gone, qmp.Late) as trouble:
            raise self._told(trouble) from None

    def console(self) -> str:
        """What has come out of the serial port."""
        return read_whole(self._console.fd).decode(errors="replace")

    def end(self) -> None:
        """Kills it. May be called twice, and from another thread: whoever waits for it gets a LabError."""
        self._process.kill()
        self._process.wait()

    def _forget(self) -> None:
        self.end()
        with _alive_lock:
            _alive.discard(self._process)

    def _told(self, trouble: Exception) -> LabError:
        """Why nothing comes from it any more, with the last lines of the console."""
        if isinstance(trouble, qmp.Late):
            return LabError(f"lab: still running after {self.timeout_s:g} s\n{tail(self.console())}")
        try:
            status = self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.end()
            status = self._process.returncode
        if status == -signal.SIGXCPU:
            return Stuck(f"lab: not done after {self.cpu_s} s of CPU time\n{tail(self.console())}")
        if status != 0:
            errors = read_whole(self._errors.fd).decode(errors="replace").strip()
            return LabError(f"lab: QEMU failed (status {status}): {errors}")
        return LabError(f"lab: the machine powered off: the kernel or the program inside died\n{tail(self.console())}")


@contextmanager
def _only_one_cpu() -> Iterator[None]:
    """What this thread starts meanwhile runs on one of its CPUs: any of them, so that labs do not meet on the first."""
    ours = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {random.choice(sorted(ours))})
    try:
        yield
    finally:
        os.sched_setaffinity(0, ours)


def _started(command: Sequence[str], fds: Sequence[int], errors: int) -> subprocess.Popen[bytes]:
    setpriv = shutil.which("setpriv")
    if setpriv is not None:  # ends QEMU even when we are killed and cannot
        command = [setpriv, "--pdeathsig", "KILL", *command]
    silent = subprocess.DEVNULL
    with _alive_lock:
        try:
            process = subprocess.Popen(command, stdin=silent, stdout=silent, stderr=errors, pass_fds=fds)
        except OSError as error:
            raise LabError(f"lab: {command[0]}: {error.strerror}") from None
        _alive.add(process)
    return process


def tail(console: str) -> str:
    """The last lines of a console, to be shown below a message."""
    lines = [line.rstrip() for line in console.splitlines() if line.strip()]
    return "\n".join(f"  | {line}" for line in lines[-TAIL_LINES:]) or "  (nothing on the console)"
