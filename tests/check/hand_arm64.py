"""arm64 traces made by hand, event by event, from a counter of the test's own: no model involved."""

from __future__ import annotations

from typing import Any

from guestclock.abi.arm64 import KVM_REG_ARM_TIMER_CNT
from guestclock.kvm.api import (
    CounterReading,
    CreateVcpu,
    CreateVm,
    HostSleep,
    Kick,
    KvmError,
    Op,
    Run,
    SetCounterOffset,
    SetOneReg,
    Start,
)
from guestclock.kvm.record import as_json, record
from guestclock.sim import Event, Trace

M64 = 2**64 - 1
HZ = 62_500_000


class Hand:
    """A host, one VM at a time, and a trace of what is done to them.

    sandwich: ticks that pass before and after the three counters of a reading are read, as on real hosts; apart_ticks:
    ticks that pass from one of the three to the next.
    """

    def __init__(self, hz: int = HZ, *, sandwich: int = 0, apart_ticks: int = 0, vcpus: int = 2) -> None:
        self.hz, self.sandwich, self.apart_ticks = hz, sandwich, apart_ticks
        self.ps = 0
        self.start = hz * 7 + 12_345
        meta = {"on": "model", "kernel": "by-hand", "arch": "arm64", "counter_hz": hz, "counter_start": self.start}
        self.trace = Trace(meta=meta)
        self.steps = 0
        self.vm = -1
        self.trace.emit(Event("step", "start", 0, 0, None, {"index": -1}))
        self.new_vm(vcpus)

    # ---- the host

    def host_counter(self) -> int:
        return self.start + self.ps * self.hz // 10**12

    def wait(self, ns: int) -> None:
        self.ps += ns * 1000

    def ticks(self, count: int) -> None:
        """So many ticks pass, to the beginning of one."""
        reached = (self.ps * self.hz // 10**12) + count
        self.ps = -(-reached * 10**12 // self.hz)

    def sleep(self, ns: int) -> None:
        self.op(HostSleep(ns, "running", "s2idle"), None)
        self.wait(ns)

    # ---- the VM

    def new_vm(self, vcpus: int, *, ran: bool = True) -> None:
        self.vm += 1
        self.op(CreateVm(), self.vm)
        self.vcpus = 0
        self.virtual, self.physical = [0], [0]
        for _ in range(vcpus):
            self.new_vcpu()
        if ran:
            self.run()

    def new_vcpu(self) -> None:
        """What KVM makes of it: the VM's virtual counter starts again, whoever runs."""
        self.op(CreateVcpu(self.vm), self.vcpus)
        self.vcpus += 1
        self.virtual, self.physical = [self.host_counter()] * self.vcpus, [0] * self.vcpus

    def set_offset(self, offset: int) -> None:
        """KVM_ARM_SET_COUNTER_OFFSET."""
        self.op(SetCounterOffset(self.vm, offset), None)
        self.virtual, self.physical = [offset] * self.vcpus, [offset] * self.vcpus

    def set_virtual(self, value: int, *vcpus: int) -> None:
        """TIMER_CNT by value, by way of vCPU 0; seen by these vCPUs (all of them by default)."""
        self.op(SetOneReg(self.vm, 0, KVM_REG_ARM_TIMER_CNT, value), None)
        for vcpu in vcpus or range(self.vcpus):
            self.virtual[vcpu] = self.host_counter() - value & M64

    def move(self, clock: str, ticks: int, *vcpus: int) -> None:
        """A counter goes ahead by so much, and nothing in the trace says why."""
        offsets = self.virtual if clock == "cntvct" else self.physical
        for vcpu in vcpus or range(self.vcpus):
            offsets[vcpu] -= ticks

    # ---- the trace

    def op(self, op: Op, answer: Any) -> None:
        record(self.trace.emit, op, self.ps, self.ps, answer)

    def refuse(self, op: Op, errno: str) -> None:
        self.op(op, KvmError(errno, op))
        self.trace.emit(Event("note", "refused", self.ps, self.ps, None, {"errno": errno, "op": op.name}))

    def run(self) -> None:
        """Every vCPU, in and out."""
        for vcpu in range(self.vcpus):
            self.op(Run(self.vm, vcpu), [])

    def into_kvm_run(self, vcpu: int) -> None:
        self.op(Start(self.vm, vcpu), None)

    def out_of_kvm_run(self, vcpu: int) -> None:
        self.op(Kick(self.vm, vcpu), None)

    def step(self, say: str = "a step", do: str = "wait") -> int:
        index = self.steps
        self.trace.emit(Event("step", say, self.ps, self.ps, None, {"index": index, "do": do}))
        self.steps += 1
        return index

    def look(self, *, with_cntpct: bool = True, source: str = "peek") -> None:
        """The host's counter, then all vCPUs', one after the other."""
        self.trace.emit(Event("host", "cntfrq", self.ps, self.ps, None, {"value": self.hz}))
        self.trace.emit(Event("host", "counter", self.ps, self.ps, None, {"value": self.host_counter()}))
        for vcpu in range(self.vcpus):
            self.read(vcpu, with_cntpct=with_cntpct, source=source)

    def read(self, vcpu: int, *, with_cntpct: bool = True, source: str = "peek") -> None:
        began, before = self.ps, self.host_counter()
        self.pass_ticks(self.sandwich)
        first = self.host_counter() - self.virtual[vcpu] & M64
        self.pass_ticks(self.apart_ticks)
        cntpct = self.host_counter() - self.physical[vcpu] & M64 if with_cntpct else None
        self.pass_ticks(self.apart_ticks)
        last = self.host_counter() - self.virtual[vcpu] & M64
        self.pass_ticks(self.sandwich)
        reading = CounterReading(first, cntpct, last, (before, self.host_counter()))
        data = {"vm": self.vm, **as_json(reading)}
        self.trace.emit(Event(source, "counters", began, self.ps, vcpu, data))

    def pass_ticks(self, count: int) -> None:
        if count:
            self.ticks(count)


def clean(hz: int = HZ, *, sandwich: int = 0, apart_ticks: int = 0, vcpus: int = 2) -> Hand:
    """Nothing wrong anywhere: three seconds of time, a look each."""
    hand = Hand(hz, sandwich=sandwich, apart_ticks=apart_ticks, vcpus=vcpus)
    hand.look()
    for _ in range(3):
        hand.step("a second passes")
        hand.wait(1_000_000_007)
        hand.look()
    return hand
