"""A VMM with one vCPU, whose host sleeps again and again: who is in the guest before its clocks are put right?

The vCPU's thread goes round and round: it looks at what it looks at, and enters the guest, which reads its clocks once
and comes out. Another process puts the host to sleep, at any moment of such a round; the kernel's freezer holds the
thread wherever it is, and lets it go on from there.

Program: "vmm": "asked", the process asks before each sleep, waits until the vCPU is out and its counter is noted, and
tells afterwards; "told": it tells afterwards only; "looks": nobody tells anything, and the thread looks before each
KVM_RUN whether BOOTTIME has gained on MONOTONIC. "nights": how often; "away_ns": for how long each. Emits "rates", a
line per night, and "rounds". Standard library only.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

from guestclock.abi import arm64 as arm64_abi
from guestclock.abi import ioctl as abi
from guestclock.abi.kvm import KvmClockData
from guestclock.abi.msr import KVM_MSR_ENABLED, MSR_KVM_SYSTEM_TIME_NEW
from guestclock.arith.kernel import u64
from guestclock.errors import UserError
from guestclock.kvm.device import host, native
from guestclock.kvm.device.ioctls import IoctlError, Stamps, call, open_kvm

Emit = Callable[[dict[str, Any]], None]

VMMS = ("asked", "told", "looks")
ELSEWHERE, WINDOW, IN_KVM_RUN = "elsewhere", "window", "kvm_run"
ABOUT, WOKEN, DONE, OUT = b"?", b"!", b".", b"o"
"""What the process that puts the host to sleep says, and what it is answered."""

FIRST_NS, LATER_NS = 20_000_000, 1_618_034
"""It waits so long before a sleep, and each time so much longer: nothing is in the same phase then."""

LEAST_NS = 1_000_000
"""BOOTTIME gains no less on MONOTONIC where the host has slept; two readings of them are not so far apart."""


Round = tuple[int, int, int, bool, dict[str, int]]
"""The counter before the last look, before KVM_RUN and after it; whether that was interrupted; what was shown."""


class Guest(Protocol):
    """One architecture's guest: a VM with one vCPU."""

    hz: int
    """Of its counter."""
    vcpu: Any

    def command(self) -> Any:
        """Reads its clocks once."""

    def shown(self, command: Any) -> dict[str, int]:
        """What it read: clock -> cycles, or ns of kvmclock."""

    def hide(self, cycles: int, ns: int) -> None:
        """Its clocks are set back, with the vCPU out of the guest, on the vCPU's thread."""


class X86Guest:
    """TSC and kvmclock. Since 5.16."""

    def __init__(self) -> None:
        from guestclock.kvm.device.x86 import guest
        from guestclock.kvm.device.x86.ioctls import get_tsc_offset, set_msr
        from guestclock.kvm.device.x86.vm import X86Vm

        self._guest = guest
        self.vm = X86Vm(open_kvm())
        self.vcpu = self.vm.create_vcpu(0)
        self.hz = self.vcpu.tsc_khz * 1000
        try:
            self.vcpu.do(lambda: get_tsc_offset(self.vcpu.fd))
        except IoctlError:
            raise UserError("race: this kernel has no KVM_VCPU_TSC_OFFSET, expected Linux 5.16 or later") from None
        page = guest.system_time_gpa(0) | KVM_MSR_ENABLED
        self.vcpu.do(lambda: set_msr(self.vcpu.fd, MSR_KVM_SYSTEM_TIME_NEW, page))
        self.vcpu.register_page(page)

    def command(self) -> Any:
        return self.vcpu.mailbox.reader(self._guest.READ, self.vcpu.page_gpa)

    def shown(self, command: Any) -> dict[str, int]:
        from guestclock.abi.pvclock import PvclockVcpuTimeInfo
        from guestclock.kvm.device.x86.entry import reading

        read = reading(command.tsc, PvclockVcpuTimeInfo.unpack(command.page), (0, 0))
        return {"tsc": read.tsc, **({} if read.kvmclock_ns is None else {"kvmclock": read.kvmclock_ns})}

    def hide(self, cycles: int, ns: int) -> None:
        from guestclock.kvm.device.x86.ioctls import get_tsc_offset, set_tsc_offset

        offset, _ = get_tsc_offset(self.vcpu.fd)
        set_tsc_offset(self.vcpu.fd, u64(offset - cycles))
        now = KvmClockData.unpack(call(self.vm.fd, abi.KVM_GET_CLOCK, bytes(KvmClockData.SIZE)).data)
        then = KvmClockData(u64(now.clock - ns), abi.KVM_CLOCK_REALTIME, now.realtime)
        call(self.vm.fd, abi.KVM_SET_CLOCK, then.pack())


class Arm64Guest:
    """CNTVCT and CNTPCT, by one offset. Since 6.4."""

    def __init__(self) -> None:
        from struct import Struct

        from guestclock.kvm.device.arm64 import guest
        from guestclock.kvm.device.arm64.vm import Arm64Vm

        self._guest, self._offset = guest, Struct("<QQ")
        kvm = open_kvm()
        if call(kvm, abi.KVM_CHECK_EXTENSION, arm64_abi.KVM_CAP_COUNTER_OFFSET).value == 0:
            raise UserError("race: this kernel has no KVM_CAP_COUNTER_OFFSET (227), expected Linux 6.4 or later")
        self.vm = Arm64Vm(kvm)
        self.vcpu = self.vm.create_vcpu(0)
        self.hz = native.frequency()
        self.hidden = 0
        self.hide(0, 0)

    def command(self) -> Any:
        return self._guest.Command(self._guest.READ)

    def shown(self, command: Any) -> dict[str, int]:
        return {"cntvct": command.x[0], "cntpct": command.x[1]}

    def hide(self, cycles: int, ns: int) -> None:
        self.hidden += cycles
        call(self.vm.fd, arm64_abi.KVM_ARM_SET_COUNTER_OFFSET, self._offset.pack(self.hidden, 0))


class Host:
    """How long the host has slept, by its clocks: BOOTTIME and RAW, and its counter as of one instant."""

    def __init__(self, hz: int) -> None:
        self.hz = hz
        self.slept_ns, self.raw_ns, self.counter = self.look()
        self.hidden = 0
        """Cycles that were hidden since."""

    def look(self) -> tuple[int, int, int]:
        """(BOOTTIME - MONOTONIC, RAW, counter). Looked at again where a sleep came in between."""
        while True:
            slept_ns = self.offset()
            raw_ns, counter = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW), native.counter()
            if self.offset() - slept_ns < LEAST_NS:
                return slept_ns, raw_ns, counter

    def offset(self) -> int:
        boottime_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return boottime_ns - time.clock_gettime_ns(time.CLOCK_MONOTONIC)

    def has_slept(self) -> bool:
        return self.offset() - self.slept_ns >= LEAST_NS

    def to_hide(self) -> int:
        """Cycles: what the counter counted and RAW, which is the counter but for the host's sleeps, did not.

        Of both since the beginning: an error does not add up. RAW's rate is its clocksource's mult, 0.1 ppm off.
        """
        self.slept_ns, raw_ns, counter = self.look()
        missed = counter - self.counter - (raw_ns - self.raw_ns) * self.hz // 1_000_000_000
        more = missed - self.hidden
        self.hidden = missed
        return more


class Race:
    """The VMM, on its vCPU's thread."""

    def __init__(self, guest: Guest, vmm: str, nights: int, hear: int, tell: int) -> None:
        self.guest, self.vmm, self.nights, self.hear, self.tell = guest, vmm, nights, hear, tell
        self.host = Host(guest.hz)
        self.stop: int | None = None
        """The counter when the vCPU was stopped for a sleep."""
        self.woken = 0
        self.rounds: list[Round] = []
        self.adjusted: list[int] = []
        """The counter after each adjustment."""

    def run(self) -> None:
        os.set_blocking(self.hear, False)
        while self.woken < self.nights:
            self.round()
        for _ in range(3):
            self.round()

    def round(self) -> None:
        mailbox, vcpu = self.guest.vcpu.mailbox, self.guest.vcpu
        mailbox.put([self.guest.command()])
        interrupted = False
        while True:
            self.listen()
            looks = native.counter()
            while self.vmm == "looks" and self.host.has_slept():
                self.adjust(self.host.to_hide())
                looks = native.counter()
            try:
                stamps: Stamps = call(vcpu.fd, abi.KVM_RUN).stamps
            except IoctlError as refusal:
                if refusal.errno != "EINTR":
                    raise
                self.rounds.append((looks, *refusal.stamps, True, {}))
                interrupted = True
                continue
            if not vcpu.has_ended(vcpu.run_page):
                raise RuntimeError("race: the guest came out, and had not done what it was told")
            break
        self.rounds.append((looks, *stamps, interrupted, self.guest.shown(mailbox.take(1)[0])))

    def listen(self) -> None:
        """To whoever puts the host to sleep, while there is somebody."""
        if self.woken == self.nights:
            return
        try:
            said = os.read(self.hear, 1)
        except BlockingIOError:
            return
        if said == ABOUT:  # the vCPU is out: this is its thread
            self.stop = native.counter()
            os.write(self.tell, OUT)
            os.set_blocking(self.hear, True)
            said = os.read(self.hear, 1)
            os.set_blocking(self.hear, False)
            self.adjust(native.counter() - self.stop)
        elif self.vmm == "told":
            self.adjust(self.host.to_hide())
        if said != WOKEN:
            raise RuntimeError(f"race: the host was not put to sleep: {(said + os.read(self.hear, 4096)).decode()}")
        self.woken += 1
        os.write(self.tell, DONE)

    def adjust(self, cycles: int) -> None:
        self.guest.hide(cycles, cycles * 1_000_000_000 // self.guest.hz)
        self.adjusted.append(native.counter())


def run_race(program: dict[str, Any], emit: Emit) -> None:
    vmm, nights, away_ns = program["vmm"], int(program["nights"]), int(program["away_ns"])
    if vmm not in VMMS:
        raise ValueError(f"race: unknown vmm {vmm!r} (known: {', '.join(VMMS)})")
    to_vmm, to_sleeper = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            asleep(to_sleeper[0], to_vmm[1], asks=vmm == "asked", nights=nights, away_ns=away_ns)
        except BaseException as error:
            os.write(to_vmm[1], repr(error).encode())
        finally:
            os._exit(1)
    os.close(to_vmm[1])
    guest: Guest = X86Guest() if platform.machine() == "x86_64" else Arm64Guest()
    os.write(to_sleeper[1], DONE)
    race = Race(guest, vmm, nights, to_vmm[0], to_sleeper[1])
    guest.vcpu.do(race.run)
    os.waitpid(child, 0)
    emit({"rates": {"counter_hz": guest.hz}})
    for night in nights_of(race.rounds, race.adjusted, away_ns * guest.hz // 2_000_000_000):
        emit(night)
    emit({"rounds": durations(race.rounds, guest.hz)})


def asleep(hear: int, tell: int, *, asks: bool, nights: int, away_ns: int) -> None:
    """The other process: it puts the host to sleep, and says so or not. Never returns."""
    sleep = host.sleep_s3 if platform.machine() == "x86_64" else host.sleep_s2idle
    for night in range(nights):
        os.read(hear, 1)
        time.sleep((FIRST_NS + night * LATER_NS) / 1e9)
        if asks:
            os.write(tell, ABOUT)
            os.read(hear, 1)
        sleep(away_ns)
        os.write(tell, WOKEN)
    os._exit(0)


def nights_of(rounds: list[Round], adjusted: list[int], much: int) -> list[dict[str, Any]]:
    """Each sleep as the vCPU's thread and its guest saw it. much: over a sleep the counter gains more, and only then.

    "frozen": where the thread was: "window", from where its last look began to KVM_RUN; "kvm_run", which was
    interrupted; "elsewhere" in its round. "before": entries into the guest between the sleep and the clocks' being put
    right. By clock, cycles or ns of kvmclock: "saw", how far it leapt in these; "back", how far it stepped back then;
    "went_on", from the last reading before the sleep to the first one when all is right.
    """
    found = []
    for earlier, over_it in pairwise(rounds):
        looks, entered, left, interrupted, shown = over_it
        if left - earlier[2] <= much:
            continue
        before = [r for r in rounds if r[4] and r[2] <= earlier[2]][-1]
        counter = next(iter(before[4]))
        right = next(instant for instant in adjusted if instant > earlier[2])
        early = [r for r in rounds if r[4] and earlier[2] < r[2] < right]
        places = {ELSEWHERE: looks - earlier[2], WINDOW: entered - looks, IN_KVM_RUN: left - entered}
        frozen = max(places, key=lambda name: places[name])
        if frozen == IN_KVM_RUN and not interrupted:  # by an instruction or two: before it, or when the guest was out
            frozen = WINDOW if shown[counter] - before[4][counter] > much else ELSEWHERE
            if frozen == ELSEWHERE:
                early.remove(over_it)
        told: dict[str, Any] = {"frozen": frozen, "before": 0, "saw": {}, "back": {}, "went_on": {}}
        after = next(r for r in rounds if r[4] and r[1] > right)
        told["before"] = len(early)
        for clock, value in before[4].items():
            highest = max((r[4][clock] for r in early), default=value)
            told["saw"][clock] = highest - value
            told["back"][clock] = max(0, highest - after[4][clock])
            told["went_on"][clock] = after[4][clock] - value
        found.append(told)
    return found


def durations(rounds: list[Round], hz: int) -> dict[str, int]:
    """How long a round takes, and how long of it the window is: medians, ns."""
    whole = sorted(later[2] - earlier[2] for earlier, later in pairwise(rounds))
    window = sorted(entered - looks for looks, entered, *_ in rounds)

    def median(values: list[int]) -> int:
        return values[len(values) // 2] * 1_000_000_000 // hz

    return {"count": len(rounds), "round_ns": median(whole), "window_ns": median(window)}
