"""Random programs on arm64: counters by value and by offset, timers' registers, vCPUs that come late or are running."""

from __future__ import annotations

from random import Random
from typing import Any

from guestclock.abi.arm64 import ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID, KVM_PTP_PHYS_COUNTER, KVM_PTP_VIRT_COUNTER
from guestclock.compare.author import NS_PER_S, Author, Limits, Step, Verbs

EDGES = (0, 1, 2**63 - 1, 2**63, 2**64 - 1)
TIMERS = ("virtual", "physical")
REGISTERS = ("TIMER_CTL", "TIMER_CVAL", "PTIMER_CTL", "PTIMER_CVAL")
SYSREGS = ("CNTV_CTL_EL0", "CNTV_CVAL_EL0", "CNTP_CTL_EL0", "CNTP_CVAL_EL0")
IMASK = 2
"""Timers are armed with their interrupt masked: without an irqchip an unmasked one ends a KVM_RUN of its own."""


class Arm64Author(Author):
    """Whatever a VMM and a guest may do to counters and timers."""

    def __init__(self, rng: Random, limits: Limits) -> None:
        super().__init__(rng, limits)
        self.running: set[int] = set()
        self.irqchip = False

    def head(self) -> dict[str, Any]:
        return {"arch": "arm64", "vcpus": self.vcpus, "boot": self.rng.random() < 0.7}

    def verbs(self) -> Verbs:
        verbs: Verbs = [
            *super().verbs(),
            (5, self.set_counter),
            (3, self.set_saved_counter),
            (2, self.set_reg),
            (1, self.get_reg),
            (1, self.init),
            (2, self.write_sysreg),
            (1, self.read_sysreg),
            (2, self.ptp),
            (2, self.set_counter_offset),
            (2, self.while_one_runs),
        ]
        if self.vcpus < self.limits.vcpus:
            verbs.append((2, self.create_vcpu))
        if self.limits.sleep:
            verbs.append((1, self.sleep))
        return verbs

    def timer(self) -> str:
        """The virtual one more often: before 6.4 the other has no register."""
        return self.rng.choice((*TIMERS, "virtual"))

    def ticks(self) -> int:
        """Any value: an edge of 64 bits, or a time after power-on."""
        if self.rng.random() < 0.3:
            return self.rng.choice(EDGES)
        return self.rng.randint(0, 10**6 * self.limits.counter_hz)

    def deadline(self) -> int:
        """Any CVAL but "never": QEMU 7.2 does not come back from a timer due beyond the counter's end."""
        return min(self.ticks(), 2**64 - 1 - 10**7 * self.limits.counter_hz)

    # ---- verbs

    def set_counter(self) -> Step:
        i, timer, ticks = self.one(), self.timer(), self.ticks()
        say = f"vCPU {i}: the {timer} counter := {ticks}"
        return self.entry("vmm", "set-counter", say, vcpus=[i], timer=timer, value=[["int", ticks]])

    def set_saved_counter(self) -> list[Step]:
        """What a restore by value does, one vCPU after the other."""
        chosen, timer, name = self.some(), self.timer(), self.saved_as()
        say = f"vCPUs {chosen}: the {timer} counter"
        return [
            self.entry("vmm", "get-counter", f"{say} is read as {name}", vcpus=chosen, timer=timer, **{"as": name}),
            self.wait(),
            self.entry("vmm", "set-counter", f"{say} := {name}", vcpus=chosen, timer=timer, value=[["own", name]]),
        ]

    def set_counter_offset(self) -> Step:
        ticks = self.ticks()
        reserved = 1 if self.rng.random() < 0.15 else 0
        say = f"KVM_ARM_SET_COUNTER_OFFSET {ticks}" + (", reserved 1" if reserved else "")
        return self.entry("vmm", "set-counter-offset", say, value=[["int", ticks]], reserved=reserved)

    def set_reg(self) -> Step:
        i, reg = self.one(), self.rng.choice(REGISTERS)
        value = self.rng.choice((0, IMASK, IMASK | 1, IMASK | 5)) if reg.endswith("CTL") else self.deadline()
        return self.entry("vmm", "set-reg", f"vCPU {i}: {reg} := {value}", vcpus=[i], reg=reg, value=[["int", value]])

    def get_reg(self) -> Step:
        i, reg = self.one(), self.rng.choice(REGISTERS)
        return self.entry("vmm", "get-reg", f"vCPU {i}: {reg} is read", vcpus=[i], reg=reg)

    def init(self) -> Step:
        i = self.one()
        return self.entry("vmm", "init", f"vCPU {i}: KVM_ARM_VCPU_INIT again", vcpus=[i])

    def write_sysreg(self) -> Step:
        i, reg = self.one(), self.rng.choice(SYSREGS)
        value = self.rng.choice((0, IMASK, IMASK | 1)) if "CTL" in reg else self.deadline()
        say = f"guest on vCPU {i}: {reg} := {value}"
        return self.entry("guest", "write-sysreg", say, vcpus=[i], reg=reg, value=[["int", value]])

    def read_sysreg(self) -> Step:
        i, reg = self.one(), self.rng.choice(SYSREGS)
        return self.entry("guest", "read-sysreg", f"guest on vCPU {i} reads {reg}", vcpus=[i], reg=reg)

    def ptp(self) -> Step:
        i, which = self.one(), self.rng.choice((KVM_PTP_VIRT_COUNTER, KVM_PTP_PHYS_COUNTER))
        say = f"guest on vCPU {i}: PTP hypercall, counter {which}"
        return self.entry("guest", "hvc", say, vcpus=[i], x0=ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID, x1=which)

    def while_one_runs(self) -> list[Step]:
        """One vCPU is in KVM_RUN; another's counter is written, or all vCPUs' offset, which is refused then."""
        if self.vcpus < 2:
            return [self.run()]
        i = self.one()
        other = self.rng.choice([v for v in range(self.vcpus) if v != i])
        if self.rng.random() < 0.3:
            within = [self.set_counter_offset()]
        else:
            within = [{**self.set_counter(), "vcpus": [other]}]
            within[0]["say"] += f" (by vCPU {other}, while vCPU {i} is in KVM_RUN)"
        return [
            self.entry("vmm", "start", f"vCPU {i}: into KVM_RUN, to stay", vcpus=[i]),
            self.short_wait(),
            *within,
            self.short_wait(),
            self.entry("vmm", "kick", f"vCPU {i}: kicked out of KVM_RUN", vcpus=[i]),
        ]

    def sleep(self) -> Step:
        ns = self.rng.randint(1, 20) * NS_PER_S
        return self.entry("host", "sleep", f"the host sleeps {ns} ns (s2idle)", value=[["ns", ns]], kind="s2idle")
