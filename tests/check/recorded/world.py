"""A guest that keeps every invariant, as rows: it runs, sleeps with its host, gets a vCPU, moves and is frozen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from guestclock.arith import clocks_calc_mult_shift

KHZ = 2_596_122
MULT, SHIFT = clocks_calc_mult_shift(KHZ)
NS_PER_S = 10**9
TAI_S = 37
MS = 1_000_000

Row = dict[str, Any]

HEADER: Row = {
    "tsc_khz": KHZ, "clocksource": "tsc", "counters": "common", "freq_ppm": 0, "logs": "inject set timer",
    "design": "corrected", "host_hz": KHZ * 1000, "vcpus": 4,
}  # fmt: skip


def ns(cycles: int) -> int:
    return cycles * MULT >> SHIFT


class World:
    """h: the host's counter. Its guest's is h + offset, hidden while it is stopped."""

    def __init__(self, design: str = "corrected", vcpus: int = 2) -> None:
        self.design, self.vcpus = design, list(range(vcpus))
        self.header = {**HEADER, "design": design}
        self.h, self.offset = 10**12, -(10**11)
        self.boot_ns, self.real_ns = 0, 1_790_000_000 * NS_PER_S
        self.host_slept_ns = 0
        self.host_apart_ns = 0
        self.total_ns = 0
        self.epoch = 1
        self.rows: list[Row] = []
        self.version = 2
        self.marker = 100
        self.host = "a"

    # ---- clocks

    @property
    def c(self) -> int:
        return self.h + self.offset

    def clock(self, name: str, c: int) -> int:
        mono = ns(c)
        return {
            "MONOTONIC": mono, "MONOTONIC_RAW": mono + 123, "BOOTTIME": mono + self.boot_ns,
            "REALTIME": mono + self.boot_ns + self.real_ns,
            "TAI": mono + self.boot_ns + self.real_ns + TAI_S * NS_PER_S, "KVMCLOCK": mono + 5_000,
            "SCHED_CLOCK": mono + 77, "COUNTER": c,
        }[name]  # fmt: skip

    def host_ns(self, name: str, c: int) -> int:
        return self.clock(name, c) + (self.host_apart_ns if name == "KVMCLOCK" else 0)

    # ---- rows

    def read(self, name: str, vcpu: int, **more: Any) -> Row:
        self.h += 700
        taken = self.c + 40
        row = {
            "vcpu": vcpu, "c0": self.c, "c1": self.c + 80, "h0": self.h, "h1": self.h + 80, "clock": name,
            "value": self.clock(name, taken), "epoch": self.epoch, **more,
        }  # fmt: skip
        if name in ("KVMCLOCK", "REALTIME"):
            row |= {"host_ns": self.host_ns(name, taken), "err_ns": 50}
        self.h += 80
        self.rows.append(row)
        return row

    def event(self, kind: str, **data: Any) -> Row:
        self.h += 100
        row = {"event": kind, **data}
        self.rows.append(row)
        return row

    def round(self, vcpu: int) -> None:
        for name in ("MONOTONIC", "BOOTTIME", "REALTIME", "TAI", "MONOTONIC", "MONOTONIC_RAW", "KVMCLOCK",
                     "SCHED_CLOCK", "COUNTER"):  # fmt: skip
            self.read(name, vcpu)
        self.h += KHZ // 10  # 0.1 ms

    def run(self, rounds: int) -> World:
        for number in range(rounds):
            for vcpu in self.vcpus:
                if number % 10 == 0:
                    self.event("entry", vcpu=vcpu, epoch=self.epoch, vm_epoch=self.epoch, id=self.host)
                self.round(vcpu)
            if number % 7 == 0:
                token = f"t{len(self.rows)}"
                self.event("send", vcpu=self.vcpus[0], id=token)
                self.event("recv", vcpu=self.vcpus[-1], id=token)
        self.page()
        self.event("vmclock", version=self.version, marker=self.marker, generation=7)
        self.event("dmesg", text="e1000: eth0 NIC Link is Up")
        return self

    def page(self) -> None:
        self.event("page", id="vcpu0", version=self.version, text=f"{self.version}/9/8")
        self.event("page", id="vcpu0", version=self.version, text=f"{self.version}/9/8")

    def timer(self, clock: str = "MONOTONIC", late_ns: int = 60_000, name: str = "t") -> None:
        due = self.clock(clock, self.c) + MS
        self.event("arm", id=name, clock=clock, ns=due)
        self.wait(MS)
        self.event("fire", id=name, value=due + late_ns)

    def periodic(self) -> None:
        """Every ms; the handler is 2.5 ms late once."""
        begin = self.clock("MONOTONIC", self.c)
        self.event("arm", id="p", clock="MONOTONIC", ns=begin + MS, interval_ns=MS)
        self.event("fire", id="p", value=begin + MS + 500, overruns=0)
        self.event("fire", id="p", value=begin + 4 * MS + 500_000, overruns=2)
        self.event("disarm", id="p")

    def wait(self, passed_ns: int) -> None:
        self.h += passed_ns * KHZ // 1_000_000

    def sleep(self, slept_ns: int = 30 * NS_PER_S, ran_ns: int = 200 * MS, aborted: bool = False) -> None:
        """The host sleeps, and runs for ran_ns while the guest is stopped."""
        before, at = ns(self.h), self.h
        self.stopped("stop")
        self.wait(ran_ns // 2)
        if aborted:
            slept_ns = 0
            self.event("abort")
        self.wait(slept_ns)
        self.host_slept_ns += slept_ns
        if slept_ns:
            self.event("sleep", ns=slept_ns)
        self.wait(ran_ns - ran_ns // 2)
        corrected = self.design == "corrected" and not aborted
        hidden_ns = ns(self.h) - before if corrected else slept_ns
        if hidden_ns:
            self.offset -= self.h - at if corrected else hidden_ns * KHZ // 1_000_000
            self.host_apart_ns += hidden_ns
            self.epoch += 1
            if not corrected:
                self.total_ns += slept_ns
            else:
                self.total_ns += hidden_ns
        self.stopped("resume")
        if not hidden_ns:
            return
        for vcpu in self.vcpus:
            self.event("entry", vcpu=vcpu, epoch=self.epoch, vm_epoch=self.epoch, id=self.host)
            self.read("MONOTONIC", vcpu)
            self.read("BOOTTIME", vcpu)  # not yet told
            self.read("MONOTONIC", vcpu)
        for _ in range(2):
            self.event("irq", vcpu=0, epoch=self.epoch)
        self.event("inject", ns=hidden_ns, epoch=self.epoch)
        self.boot_ns += hidden_ns
        self.event("ack", epoch=self.epoch)
        self.event("ntp", status=0x40, maxerror_us=16_000_000, offset_ns=0, ppm=0.0)
        self.event("totals", shared_ns=self.total_ns, injected_ns=self.total_ns, believed_ns=self.total_ns)
        self.version += 2
        self.marker += 1

    def stopped(self, kind: str) -> None:
        host_ns = ns(self.h)
        self.event(
            kind, c0=self.c, c1=self.c, h0=self.h, h1=self.h, host_monotonic_ns=host_ns - self.host_slept_ns,
            host_boottime_ns=host_ns,
        )  # fmt: skip

    def set(self, step_ns: int) -> None:
        self.event("arm", id="wall", clock="REALTIME", ns=self.clock("REALTIME", self.c) + 10**15)
        self.real_ns += step_ns
        self.event("set", clock="REALTIME", ns=step_ns)
        self.event("cancel", id="wall")
        self.event("disarm", id="wall")

    def freeze(self) -> None:
        for state in ("frozen", "acked", "moved", "reconf", "thawed"):
            self.event("freeze", text=state, id="8f3a")

    def plug_in(self) -> None:
        vcpu = len(self.vcpus)
        self.event("online", vcpu=vcpu)
        self.vcpus.append(vcpu)
        self.round(vcpu)

    def moves(self, host: str) -> None:
        """To another host, which has it alone from then on."""
        self.event("commit", id=host)
        self.host = host
        self.event("move", text="migrate")
        self.epoch += 1
        self.marker += 1
        self.version += 2


def whole(design: str = "corrected") -> World:
    """A world in which every invariant has something to be held to."""
    world = World(design)
    world.run(15)
    world.event("commit", id="a")
    world.timer()
    world.timer("BOOTTIME", name="b")
    world.periodic()
    world.sleep()
    world.run(10)
    world.plug_in()
    world.run(10)
    world.sleep(aborted=True)
    world.run(10)
    world.set(-3 * NS_PER_S)
    world.run(5)
    world.freeze()
    world.sleep(7 * NS_PER_S)
    world.run(40)
    world.moves("b")
    world.run(5)
    return world


def readings(rows: Iterable[Row], clock: str, vcpu: int | None = None) -> list[Row]:
    return [r for r in rows if r.get("clock") == clock and "value" in r and vcpu in (None, r.get("vcpu"))]
