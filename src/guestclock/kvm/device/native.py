"""A few bytes of machine code: the host's counter, and an ioctl between two readings of it.

Python's own way from a clock to a system call takes microseconds and any thread switch comes on top. Here the sandwich
is closed inside one native call: what is between its two readings is the system call and nothing else.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import platform
import signal
from collections.abc import Callable, Mapping
from types import MappingProxyType

from guestclock.errors import UserError

X86_64: Mapping[str, bytes] = MappingProxyType(
    {
        "counter": (
            b"\x0f\xae\xe8"  # lfence                 no earlier load is still under way
            b"\x0f\x31"  # rdtsc
            b"\x48\xc1\xe2\x20"  # shl rdx, 32
            b"\x48\x09\xd0"  # or rax, rdx
            b"\xc3"  # ret
        ),
        "sandwich": (
            b"\x49\x89\xca"  # mov r10, rcx           syscall destroys rcx, rdtsc destroys rdx
            b"\x49\x89\xd1"  # mov r9, rdx
            b"\x0f\xae\xe8"  # lfence
            b"\x0f\x31"  # rdtsc
            b"\x48\xc1\xe2\x20"  # shl rdx, 32
            b"\x48\x09\xd0"  # or rax, rdx
            b"\x49\x89\x02"  # mov [r10], rax
            b"\x4c\x89\xca"  # mov rdx, r9
            b"\xb8\x10\x00\x00\x00"  # mov eax, 16    ioctl
            b"\x0f\x05"  # syscall
            b"\x49\x89\xc1"  # mov r9, rax
            b"\x0f\xae\xe8"  # lfence
            b"\x0f\x31"  # rdtsc
            b"\x48\xc1\xe2\x20"  # shl rdx, 32
            b"\x48\x09\xd0"  # or rax, rdx
            b"\x49\x89\x42\x08"  # mov [r10 + 8], rax
            b"\x4c\x89\xc8"  # mov rax, r9
            b"\xc3"  # ret
        ),
        "call": (
            b"\x53"  # push rbx                       which a call leaves alone, and the stack is aligned for one
            b"\x48\x89\xcb"  # mov rbx, rcx
            b"\x49\x89\xd1"  # mov r9, rdx
            b"\x0f\xae\xe8"  # lfence
            b"\x0f\x31"  # rdtsc
            b"\x48\xc1\xe2\x20"  # shl rdx, 32
            b"\x48\x09\xd0"  # or rax, rdx
            b"\x48\x89\x03"  # mov [rbx], rax
            b"\x4c\x89\xca"  # mov rdx, r9
            b"\x31\xc0"  # xor eax, eax              no vector registers are passed
            b"\x41\xff\xd0"  # call r8
            b"\x49\x89\xc1"  # mov r9, rax
            b"\x0f\xae\xe8"  # lfence
            b"\x0f\x31"  # rdtsc
            b"\x48\xc1\xe2\x20"  # shl rdx, 32
            b"\x48\x09\xd0"  # or rax, rdx
            b"\x48\x89\x43\x08"  # mov [rbx + 8], rax
            b"\x4c\x89\xc8"  # mov rax, r9
            b"\x5b"  # pop rbx
            b"\xc3"  # ret
        ),
        "ignore": b"\xc3",  # ret
    }
)


def _words(*words: int) -> bytes:
    return b"".join(word.to_bytes(4, "little") for word in words)


def _aarch64_sandwich(system_call: int) -> bytes:
    return _words(
        0xD503_3FDF,  # isb
        0xD53B_E049,  # mrs x9, cntvct_el0
        0xF900_0069,  # str x9, [x3]
        0xD280_0008 | system_call << 5,  # mov x8, system_call
        0xD400_0001,  # svc 0                      destroys x0 alone
        0xD503_3FDF,  # isb
        0xD53B_E049,  # mrs x9, cntvct_el0
        0xF900_0469,  # str x9, [x3, 8]
        0xD65F_03C0,  # ret
    )


AARCH64: Mapping[str, bytes] = MappingProxyType(
    {
        "counter": _words(
            0xD503_3FDF,  # isb                    the counter shall not be read ahead
            0xD53B_E040,  # mrs x0, cntvct_el0     which is the physical one for a host, by its offset of 0
            0xD65F_03C0,  # ret
        ),
        "sandwich": _aarch64_sandwich(29),
        "clock": _aarch64_sandwich(113),
        "call": _words(
            0xA9BE_7BFD,  # stp x29, x30, [sp, -32]!
            0xF900_0BF3,  # str x19, [sp, 16]
            0xAA03_03F3,  # mov x19, x3
            0xD503_3FDF,  # isb
            0xD53B_E049,  # mrs x9, cntvct_el0
            0xF900_0269,  # str x9, [x19]
            0xD63F_0080,  # blr x4
            0xD503_3FDF,  # isb
            0xD53B_E049,  # mrs x9, cntvct_el0
            0xF900_0669,  # str x9, [x19, 8]
            0xF940_0BF3,  # ldr x19, [sp, 16]
            0xA8C2_7BFD,  # ldp x29, x30, [sp], 32
            0xD65F_03C0,  # ret
        ),
        "ignore": _words(0xD65F_03C0),  # ret
        "frequency": _words(
            0xD53B_E000,  # mrs x0, cntfrq_el0
            0xD65F_03C0,  # ret
        ),
    }
)

CODE: Mapping[str, Mapping[str, bytes]] = MappingProxyType({"x86_64": X86_64, "aarch64": AARCH64})
"""By what the machine calls itself, four functions:

counter: u64 counter(void); sandwich: s64 sandwich(fd, request, argument, u64 stamps[2]), the ioctl's result, -errno
where it failed; call: s64 call(a, b, c, u64 stamps[2], s64 (*function)(a, b, c)); ignore: void ignore(int signal), a
handler whose only effect is that a blocking system call returns.
arm64 has two more: s64 clock(id, struct timespec *, 0, u64 stamps[2]), which is clock_gettime; u64 frequency(void).
"""

_ROOM = 256
"""Bytes for each function."""


@functools.cache
def _code() -> dict[str, int]:
    """Addresses of the functions, in a mapping that stays for the life of the process."""
    functions = CODE.get(platform.machine())
    if functions is None:
        raise UserError(f"this machine is {platform.machine()}: guestclock.kvm.device needs {' or '.join(CODE)}")
    room = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE)
    base = address_of(room)
    addresses = {}
    for i, (name, code) in enumerate(functions.items()):
        room[i * _ROOM : i * _ROOM + len(code)] = code
        addresses[name] = base + i * _ROOM
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(base), ctypes.c_size_t(mmap.PAGESIZE), mmap.PROT_READ | mmap.PROT_EXEC):
        raise UserError(
            "this process may not map executable memory: it is needed to read the counter around a system call"
        )
    _kept.append(room)
    return addresses


_kept: list[mmap.mmap] = []


def address_of(room: mmap.mmap) -> int:
    """Where a mapping is. It must outlive every use of the address."""
    view = (ctypes.c_char * len(room)).from_buffer(room)
    address = ctypes.addressof(view)
    del view  # a living view would forbid room.close()
    return address


@functools.cache
def _reader(name: str) -> Callable[[], int]:
    return ctypes.CFUNCTYPE(ctypes.c_uint64)(_code()[name])


@functools.cache
def _sandwich(name: str) -> Callable[[int, int, int, object], int]:
    prototype = ctypes.CFUNCTYPE(
        ctypes.c_int64, ctypes.c_int64, ctypes.c_uint64, ctypes.c_uint64, ctypes.POINTER(ctypes.c_uint64)
    )
    return prototype(_code()[name])


def counter() -> int:
    """The host's counter, u64, not read ahead of what comes before: the TSC (lfence; rdtsc), CNTVCT_EL0 (isb; mrs)."""
    return _reader("counter")()


def frequency() -> int:
    """arm64: CNTFRQ_EL0, what the firmware says of the counter's rate, in Hz."""
    return _reader("frequency")()


def sandwich(fd: int, request: int, argument: int) -> tuple[int, int, int]:
    """ioctl(fd, request, argument) with the interpreter's lock released: (result or -errno, counter before, after)."""
    stamps = (ctypes.c_uint64 * 2)()
    result = _sandwich("sandwich")(fd, request, argument, stamps)
    return result, stamps[0], stamps[1]


def clock(clock_id: int) -> tuple[int, int, int]:
    """arm64: a clock of the kernel's, by a system call between two readings of the counter: (ns, before, after)."""
    stamps, timespec = (ctypes.c_uint64 * 2)(), (ctypes.c_int64 * 2)()
    if _sandwich("clock")(clock_id, ctypes.addressof(timespec), 0, stamps) < 0:
        raise UserError(f"clock_gettime: clock {clock_id} is not known to this kernel")
    return timespec[0] * 1_000_000_000 + timespec[1], stamps[0], stamps[1]


@functools.cache
def function(name: str) -> int:
    """The address of a function of the C library; its clock_gettime is the vDSO's where there is one."""
    libc = ctypes.CDLL(None, use_errno=True)
    return ctypes.cast(getattr(libc, name), ctypes.c_void_p).value or 0


@functools.cache
def _call() -> Callable[[int, int, int, object, int], int]:
    u64 = ctypes.c_uint64
    return ctypes.CFUNCTYPE(ctypes.c_int64, u64, u64, u64, ctypes.POINTER(u64), u64)(_code()["call"])


def call(name: str, *arguments: int) -> tuple[int, int, int]:
    """A function of the C library, up to three arguments, between two readings: (its result, before, after)."""
    stamps = (ctypes.c_uint64 * 2)()
    a, b, c = (*arguments, 0, 0, 0)[:3]
    result = _call()(a, b, c, stamps, function(name))
    return result, stamps[0], stamps[1]


@functools.cache
def kick_signal() -> int:
    """A real-time signal that nobody else handles, now ignored by a handler of ours, so that it interrupts KVM_RUN.

    The handler stays: a signal that arrives late must never find the default action, which ends the process. It is
    set below Python's `signal` module, which would refuse to do so in any thread but the first.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.signal.restype = ctypes.c_void_p
    for number in range(signal.SIGRTMIN + 8, signal.SIGRTMAX):
        if signal.getsignal(number) is signal.SIG_DFL:
            libc.signal(number, ctypes.c_void_p(_code()["ignore"]))
            return number
    raise UserError("every real-time signal of this process is taken: one is needed to kick a vCPU")
