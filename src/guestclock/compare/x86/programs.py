"""Random programs on x86: what the matching rules and the masterclock react to."""

from __future__ import annotations

from random import Random
from typing import Any

from guestclock.compare.author import NS_PER_S, Author, Limits, Step, Verbs


class X86Author(Author):
    """Writes of TSCs, offsets, rates and kvmclock, by VMM and guest."""

    def __init__(self, rng: Random, limits: Limits) -> None:
        super().__init__(rng, limits)
        self.written_ns = [0]
        self.offsets = [rng.randrange(-(2**40), 2**40) for _ in range(2)]

    def head(self) -> dict[str, Any]:
        kvmclock = "old" if self.rng.random() < 0.1 else "new"
        boot = self.rng.random() < 0.7
        return {"vcpus": self.vcpus, "kvmclock": kvmclock, "boot": boot}

    def verbs(self) -> Verbs:
        limits = self.limits
        verbs: Verbs = [
            (6, self.set_tsc),
            (2, self.set_tsc_at_an_edge),
            (1, self.set_saved_tscs),
            (1, self.set_saved_clock),
            *super().verbs(),
            (2, self.set_clock),
            (1, self.write_tsc),
            (1, self.write_tsc_adjust),
            (1, self.kvmclock_ctrl),
            (1, self.clear_stopped),
        ]
        if self.vcpus < limits.vcpus:
            verbs.append((2, self.create_vcpu))
        if limits.offset_attribute:
            verbs.append((3, self.set_tsc_offset))
        if limits.tsc_khz_upwards:
            verbs.append((1, self.set_tsc_khz))
        if limits.clocksource_switch:
            verbs.append((1, self.clocksource))
        if limits.sleep:
            verbs.append((1, self.sleep))
        return verbs

    def value_ns(self) -> int:
        """0, near the last written value, on either side of its 1 s window, or far away."""
        last = self.written_ns[-1]
        edge = self.limits.edge_ns
        near = self.rng.randint(-NS_PER_S + edge, NS_PER_S - edge)
        outside = self.rng.choice((-1, 1)) * self.rng.randint(NS_PER_S + edge, 3 * NS_PER_S)
        pick = self.rng.random()
        if pick < 0.15:
            return 0
        if pick < 0.45:
            return abs(last + near)
        if pick < 0.65:
            return abs(last + outside)
        if pick < 0.85:
            return self.rng.choice(self.written_ns)
        return self.rng.randint(0, 10**6 * NS_PER_S)

    # ---- verbs

    def set_tsc(self) -> Step:
        i, ns = self.one(), self.value_ns()
        self.written_ns.append(ns)
        return self.entry("vmm", "set-tsc", f"vCPU {i}: MSR_IA32_TSC := {ns} ns", vcpus=[i], value=[["ns", ns]])

    def set_tsc_at_an_edge(self) -> list[Step]:
        """Just inside or just outside of 1 s from where the TSC is, or should be by KVM's reckoning."""
        i, name = self.one(), self.saved_as()
        side, inside = self.rng.choice((-1, 1)), self.rng.choice((-1, 1))
        ns = side * (NS_PER_S + inside * self.limits.edge_ns)
        read = self.entry("vmm", "get-tsc", f"vCPU {i}: MSR_IA32_TSC is read as {name}", vcpus=[i], **{"as": name})
        say = f"vCPU {i}: MSR_IA32_TSC := {name} {ns:+d} ns"
        return [read, self.entry("vmm", "set-tsc", say, vcpus=[i], value=[["own", name], ["ns", ns]])]

    def set_saved_tscs(self) -> list[Step]:
        """What a restore by value does."""
        chosen, name = self.some(), self.saved_as()
        say = f"vCPUs {chosen}: MSR_IA32_TSC"
        return [
            self.entry("vmm", "get-tsc", f"{say} is read as {name}", vcpus=chosen, **{"as": name}),
            self.wait(),
            self.entry("vmm", "set-tsc", f"{say} := {name}", vcpus=chosen, value=[["own", name]]),
        ]

    def set_saved_clock(self) -> list[Step]:
        name = self.saved_as()
        return [
            self.entry("vmm", "get-clock", f"KVM_GET_CLOCK as {name}", **{"as": name}),
            self.wait(),
            self.entry("vmm", "set-clock", f"KVM_SET_CLOCK := {name}", value=[["var", name]]),
        ]

    def set_tsc_offset(self) -> Step:
        i = self.one()
        offset = self.rng.choice(self.offsets) + (self.rng.random() < 0.2)
        return self.entry("vmm", "set-tsc-offset", f"vCPU {i}: offset := {offset}", vcpus=[i], value=[["int", offset]])

    def set_tsc_khz(self) -> Step:
        i, host = self.one(), self.limits.tsc_khz
        khz = self.rng.choice([host, host + host // 10_000, host + host // 5])
        return self.entry("vmm", "set-tsc-khz", f"vCPU {i}: {khz} kHz", vcpus=[i], khz=khz)

    def set_clock(self) -> Step:
        ns = self.rng.choice([0, self.rng.randint(0, 10**15)])
        return self.entry("vmm", "set-clock", f"KVM_SET_CLOCK {ns}", value=[["int", ns]])

    def write_tsc(self) -> Step:
        i, ns = self.one(), self.value_ns()
        say = f"guest on vCPU {i}: WRMSR TSC {ns} ns"
        return self.entry("guest", "write-tsc", say, vcpus=[i], value=[["ns", ns]])

    def write_tsc_adjust(self) -> Step:
        i, cycles = self.one(), self.rng.randrange(-(2**32), 2**32)
        say = f"guest on vCPU {i}: WRMSR TSC_ADJUST {cycles}"
        return self.entry("guest", "write-tsc-adjust", say, vcpus=[i], value=[["int", cycles]])

    def kvmclock_ctrl(self) -> Step:
        i = self.one()
        return self.entry("vmm", "kvmclock-ctrl", f"vCPU {i}: KVM_KVMCLOCK_CTRL", vcpus=[i])

    def clear_stopped(self) -> Step:
        i = self.one()
        return self.entry("guest", "clear-stopped", f"guest on vCPU {i} clears GUEST_STOPPED", vcpus=[i])

    def clocksource(self) -> Step:
        to = self.rng.choice(["hpet", "tsc"])
        return self.entry("host", "clocksource", f"host clocksource := {to}", to=to)

    def sleep(self) -> Step:
        ns = self.rng.randint(1, 20) * NS_PER_S
        return self.entry("host", "sleep", f"the host sleeps {ns} ns (S3)", value=[["ns", ns]])
