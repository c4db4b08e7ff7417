"""Traces made by hand, event by event, from a TSC and a raw clock of the test's own: no model involved."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.arith import clocks_calc_mult_shift, kvm_get_time_scale, pvclock_scale_delta
from guestclock.kvm.api import (
    ClockData,
    ClockReading,
    CreateVcpu,
    CreateVm,
    GetClock,
    HostSleep,
    KvmError,
    Op,
    SetTscKhz,
    SetTscOffset,
)
from guestclock.kvm.record import as_json, record
from guestclock.sim import Event, Trace

PS = 10**12
M64 = 2**64 - 1


class Hand:
    """A host, one VM at a time, and a trace of what is done to them.

    sandwich: cycles by which every reading of the host's TSC is uncertain on either side, as on real hosts.
    """

    def __init__(self, khz: int = 2_596_122, *, sandwich: int = 0, vcpus: int = 2, frac_bits: int = 0) -> None:
        self.khz, self.sandwich, self.frac_bits = khz, sandwich, frac_bits
        self.mult, self.shift = clocks_calc_mult_shift(khz)
        self.ps = 0
        self.host_base = khz * 1000 * 7 + 12_345
        self.trace = Trace(meta={"on": "model", "kernel": "by-hand", "tsc_khz": khz, "tsc_frac_bits": frac_bits})
        self.steps = 0
        self.vm = -1
        self.trace.emit(Event("step", "start", 0, 0, None, {"index": -1}))
        self.new_vm(vcpus)

    # ---- the host

    def host_tsc(self, ps: int | None = None) -> int:
        return self.host_base + (self.ps if ps is None else ps) * self.khz // 10**9

    def raw_ns(self, tsc: int) -> int:
        return tsc * self.mult >> self.shift

    def wait(self, ns: int) -> None:
        self.ps += ns * 1000

    def sleep_with_reset(self, ns: int) -> None:
        """The host's TSC starts again at 0; KVM makes up for it, so guests go on where they stopped."""
        held = self.host_tsc()
        self.op(HostSleep(ns, "reset"), None)
        self.ps += ns * 1000
        self.host_base = -(self.ps * self.khz // 10**9)
        for vcpu in range(self.vcpus):
            self.offset[vcpu] += held

    # ---- the VM

    def new_vm(self, vcpus: int) -> None:
        self.vm += 1
        self.op(CreateVm(), self.vm)
        self.vcpus = 0
        self.offset: list[int] = []
        self.ratio: list[int] = []
        self.pages: list[PvclockVcpuTimeInfo | None] = []
        for _ in range(vcpus):
            self.new_vcpu()

    def new_vcpu(self) -> None:
        self.op(CreateVcpu(self.vm), self.vcpus)
        self.vcpus += 1
        self.offset.append(-self.host_base)
        self.ratio.append(1 << self.frac_bits)
        self.pages.append(None)

    def move_tsc(self, vcpu: int, cycles: int) -> None:
        """As the VMM does it, by the TSC offset."""
        self.offset[vcpu] += cycles
        self.op(SetTscOffset(self.vm, vcpu, self.offset[vcpu] & M64), None)

    def set_khz(self, vcpu: int, khz: int) -> None:
        self.op(SetTscKhz(self.vm, khz, vcpu), None)
        self.ratio[vcpu] = (khz << self.frac_bits) // self.khz

    def guest_tsc(self, vcpu: int) -> int:
        return (self.host_tsc() * self.ratio[vcpu] >> self.frac_bits) + self.offset[vcpu] & M64

    def snapshot(self, *vcpus: int, flags: int = 1, ahead_ns: int = 0, page_khz: int | None = None) -> None:
        """These vCPUs' pages (all of them by default) anew, from the raw clock at one instant."""
        shift, mul = kvm_get_time_scale(10**9, (page_khz or self.khz) * 1000)
        now = self.raw_ns(self.host_tsc()) + ahead_ns
        for vcpu in vcpus or range(self.vcpus):
            old = self.pages[vcpu]
            version = 2 if old is None else old.version + 2
            self.pages[vcpu] = PvclockVcpuTimeInfo(version, self.guest_tsc(vcpu), now, mul, shift, flags)

    def change(self, vcpu: int, **fields: Any) -> None:
        page = self.pages[vcpu]
        assert page is not None
        self.pages[vcpu] = replace(page, **fields)

    def kvmclock(self, vcpu: int) -> int | None:
        page = self.pages[vcpu]
        if page is None:
            return None
        delta = self.guest_tsc(vcpu) - page.tsc_timestamp & M64
        return page.system_time + pvclock_scale_delta(delta, page.tsc_to_system_mul, page.tsc_shift) & M64

    # ---- the trace

    def op(self, op: Op, answer: Any) -> None:
        record(self.trace.emit, op, self.ps, self.ps, answer)

    def refuse(self, op: Op, errno: str) -> None:
        self.op(op, KvmError(errno, op))
        self.trace.emit(Event("note", "refused", self.ps, self.ps, None, {"errno": errno, "op": op.name}))

    def step(self, say: str = "a step", do: str = "wait") -> int:
        index = self.steps
        self.trace.emit(Event("step", say, self.ps, self.ps, None, {"index": index, "do": do}))
        self.steps += 1
        return index

    def look(self, *, clock_ahead_ns: int | None = 0) -> None:
        """All vCPUs from outside, then KVM_GET_CLOCK as vCPU 0's clock with so much added; None: do not ask KVM."""
        slack = self.sandwich * 10**9 // self.khz + 1 if self.sandwich else 0
        now = self.host_tsc()
        host = Event("host", "tsc", self.ps - slack, self.ps + slack, None, {"value": now})
        self.trace.emit(host)
        for vcpu in range(self.vcpus):
            reading = ClockReading(
                self.guest_tsc(vcpu), self.pages[vcpu], self.kvmclock(vcpu), (now - self.sandwich, now + self.sandwich)
            )
            self.trace.emit(Event("peek", "clocks", self.ps - slack, self.ps + slack, vcpu, as_json(reading)))
        first = self.kvmclock(0)
        if clock_ahead_ns is not None and first is not None:
            answer = ClockData(first + clock_ahead_ns, 14, 0, now)
            record(self.trace.emit, GetClock(self.vm), self.ps - slack, self.ps + slack, answer)


def clean(*, khz: int = 1_000_000, sandwich: int = 0, vcpus: int = 2) -> Hand:
    """Nothing wrong anywhere: pages, five seconds of time, a look each. At 1 GHz re-snapshots do not step."""
    hand = Hand(khz, sandwich=sandwich, vcpus=vcpus)
    hand.snapshot()
    hand.look()
    for _ in range(3):
        hand.step("a second passes")
        hand.wait(1_000_000_007)
        hand.look()
    return hand
