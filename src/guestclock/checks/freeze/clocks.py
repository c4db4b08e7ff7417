"""One guest that is frozen, moved and thawed, with times: what its readers see, wherever in between they look.

Nothing fails here (that is `checks.freeze.faults`). Actors: the VMM, the vCPU that runs the handler (V0), and one
reader that takes two readings one after the other: on V1 in task context, or in an NMI on V0. What they share is
`clock_states`'; the timekeeper is the guest's own (`guest.freeze`), on forms as on ints. Of a tick only this is here,
where a move asks for one (`tick_step`): at any time V1 takes the lock, brings the time forward and changes the
multiplier, as NTP has it. That is what a tick does to readers: it keeps MONOTONIC where it is (tests/linux).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from guestclock.arith import u64
from guestclock.checks.freeze.clock_states import (
    BEGUN_CYCLES,
    BEGUN_NS,
    MOST_CYCLES,
    NO_TICK,
    ONE,
    SECOND,
    Line,
    Move,
    Outcome,
    Reading,
    Vm,
)
from guestclock.checks.freeze.protocol import Protocol
from guestclock.explore.world import World
from guestclock.guest.freeze import (
    MIGRATED,
    SAME_HOST,
    Record,
    freeze,
    reconfigure,
    reconfigure_sched_clock,
    unfreeze,
)
from guestclock.guest.ntp_client import synchronise
from guestclock.linux import Timekeeper
from guestclock.linux.sched_clock import NativeSchedClock
from guestclock.sim import cp


def build(protocol: Protocol, move: Move) -> Callable[[World], Outcome]:
    """The world of one design and one move."""
    return lambda world: _World(protocol, move, world).outcome


class _World:
    def __init__(self, protocol: Protocol, move: Move, world: World) -> None:
        self.protocol, self.move, self.world = protocol, move, world
        self.vm = vm = Vm()
        clock, _ = move.clocksources
        self.tk = Timekeeper.start(clock, BEGUN_CYCLES, hz=250, monotonic_ns=BEGUN_NS, realtime_ns=10**18)
        synchronise(self.tk.ntp)
        self.kernel, self.vdso, self.fast = lines = Line(), Line(), Line()
        for line in lines:
            line.store(self.tk, 0)
        self.vdso.clamps = not move.arm64
        self.sched = NativeSchedClock.start(move.guest_khz[0], BEGUN_CYCLES)
        self.sched.offset_ns = u64(self.sched.offset_ns + BEGUN_NS)
        self.record = Record()
        self.outcome = Outcome(world, protocol, move, vm, contracts=set() if move.tick_step else {NO_TICK}, guest=self)
        vm.offset0 = vm.offset1 = BEGUN_CYCLES
        self.any_tsc = world.unknown("the other TSC", 0, MOST_CYCLES)
        world.spawn("VMM", self.vmm())
        world.spawn("V0", self.handler())
        world.spawn("reader", self.reader())
        if move.tick_step:
            world.spawn("tick", self.tick())

    def tsc(self, vcpu: int) -> tuple[Any, Any]:
        """(the guest's counter, true time in ps) on a vCPU, now."""
        vm, now = self.vm, self.world.read_ps()
        offset = vm.offset1 if vcpu else vm.offset0
        return self._counted(now, vm.site) + offset, now

    def _counted(self, now: Any, site: int) -> Any:
        """A host's TSC: its own, or an L1's as the hypervisor below scales it."""
        move = self.move
        khz, ratio = (move.target_khz, move.target_ratio) if site else (move.source_khz, move.source_ratio)
        cycles = now * khz // SECOND
        return cycles if ratio == ONE else cycles * ratio >> 48

    # ---- the host

    async def vmm(self) -> None:
        vm, protocol, move = self.vm, self.protocol, self.move
        if protocol.gates:
            await cp("1 holds NMIs back")
            vm.gate = True
        if protocol.drains:
            await cp("1 has seen the last NMI", until=lambda: not vm.nmi_pending and not vm.nmi_active)
        await cp("2 injects the interrupt")
        vm.irq = True
        await cp("6 stops V1", until=lambda: vm.exited)
        vm.runs1 = False
        self.outcome.stop, vm.stop_ps = self.tsc(1)
        if protocol.stop_of_all:
            vm.stop_cycles = self.outcome.stop
        if move.sleep_ns:
            fell_asleep = self.world.read_ps()
            await cp("6 wakes up", delay_ps=move.sleep_ns * 1000)
            vm.slept_ps = self.world.read_ps() - fell_asleep
        await cp("6 has moved it", delay_ps=move.away)
        self._arrive()
        await cp("7 writes the record")
        self._write()
        await cp("8 lets it run")
        vm.runs0 = True
        vm.runs1 = not protocol.v0_first
        await cp("11 lets all run", until=lambda: vm.thawed)
        vm.runs1, vm.gate = True, False

    def _arrive(self) -> None:
        vm, move = self.vm, self.move
        vm.moved = True
        if move.status == SAME_HOST:
            if move.reset:
                vm.offset0 = vm.offset1 = self.any_tsc
            return
        vm.site = 1
        vm.offset0 = vm.offset1 = self.any_tsc
        if move.continuous:
            vm.offset0 = vm.offset1 = self._going_on()
            if not self.protocol.one_offset:
                vm.offset1 = self._going_on()

    def _going_on(self) -> Any:
        """The offset with which the guest's counter goes on from where it stopped."""
        return self.vm.stop_cycles - self._counted(self.world.read_ps(), 1)

    def _write(self) -> None:
        record, move, vm = self.record, self.move, self.vm
        record.status, record.policy, record.stop_cycles = move.status, move.policy, vm.stop_cycles
        if move.reset and self.protocol.admits_reset:
            record.status = MIGRATED
        record.clock = move.clocksources[move.tells_rate]
        record.as_of_cycles, now = self.tsc(0)
        asleep = 0 if self.protocol.counts_sleep else vm.slept_ps
        record.downtime_ns = (now - vm.stop_ps - asleep) // 1000
        record.epoch = 1
        vm.told = True

    # ---- the guest

    async def handler(self) -> None:
        vm, tk, protocol, record = self.vm, self.tk, self.protocol, self.record
        await cp("4 sequence odd", until=lambda: vm.irq and not vm.lock)
        vm.lock = True
        self.kernel.seq += 1
        await cp("4 frozen")
        vm.frozen = True
        cycles, _ = self.tsc(0)
        freeze(tk, cycles, protocol.rules)
        self._publish(self.vdso, 0, odd=protocol.blocks_vdso)
        self._publish(self.fast, 0)
        self.fast.halted = protocol.halts_fast
        await cp("5 exits")
        vm.stop_cycles, _ = self.tsc(0)
        vm.exited, vm.runs0 = True, False
        await cp("9 reconfigures", until=lambda: vm.runs0 and vm.told)
        cycles, _ = self.tsc(0)
        reconfigure(tk, record, cycles, protocol.rules)
        self.outcome.begins = tk.cycle_last
        if "sched" in self.move.readers and protocol.rules.sched_clock:
            reconfigure_sched_clock(self.sched, record, tk.cycle_last, protocol.rules)
            vm.sched_epoch = 1
        await cp("10 unfreezes")
        cycles, _ = self.tsc(0)
        unfreeze(tk, record, cycles, protocol.rules)
        self.fast.halted = False
        self._publish(self.fast, 1)
        self._publish(self.vdso, 1, odd=protocol.blocks_vdso)
        await cp("10 sequence even")
        self.kernel.store(tk, 1)
        self.kernel.seq += 1
        vm.lock = vm.frozen = False
        vm.thawed = True

    async def tick(self) -> None:
        vm, tk, kernel = self.vm, self.tk, self.kernel
        await cp("takes the lock", until=lambda: vm.runs1 and not vm.lock)
        vm.lock = True
        kernel.seq += 1
        await cp("changes mult", until=lambda: vm.runs1)
        cycles, _ = self.tsc(1)
        tk.forward_now(cycles)
        tk.mono_mult += self.move.tick_step
        epoch = 1 if vm.thawed else 0
        self._publish(self.vdso, epoch)
        self._publish(self.fast, epoch)
        await cp("sequence even", until=lambda: vm.runs1)
        kernel.store(tk, epoch)
        kernel.seq += 1
        vm.lock = False
        self.outcome.reached.add(f"a tick in epoch {epoch}")

    def _publish(self, line: Line, epoch: int, odd: bool = False) -> None:
        """A section of its own, complete in itself; odd: of two, of which this one is left open or closes the other."""
        line.store(self.tk, epoch)
        line.seq += 1 if odd else 2

    # ---- whoever reads

    async def reader(self) -> None:
        for index, kind in enumerate(self.move.readers):
            await {"nmi": self._nmi, "sched": self._sched}.get(kind, partial(self._task, kind))(index)
        self.outcome.finished = True

    async def _task(self, kind: str, index: int) -> None:
        vm, line = self.vm, {"syscall": self.kernel, "vdso": self.vdso, "fast": self.fast}[kind]
        while True:
            await cp(f"{kind} reads", until=lambda: vm.runs1 and line.seq % 2 == 0)
            seq, reading = line.seq, self._look(index, kind, line, 1)
            await cp(f"{kind} returns", until=lambda: vm.runs1)
            if line.seq == seq:
                break
        self._took(reading, line)

    async def _nmi(self, index: int) -> None:
        vm, line = self.vm, self.fast
        await cp("an NMI is sent", until=lambda: not vm.gate)
        vm.nmi_pending = True
        await cp("NMI reads", until=lambda: vm.runs0)
        vm.nmi_pending, vm.nmi_active = False, True
        while True:
            seq, reading = line.seq, self._look(index, "nmi", line, 0)
            await cp("NMI returns", until=lambda: vm.runs0)
            if line.seq == seq:
                break
        vm.nmi_active = False
        self._took(reading, line)

    async def _sched(self, index: int) -> None:
        """sched_clock(): the counter, then the factors. Nothing is blocked by the timekeeper's lock or sequence."""
        vm, sched = self.vm, self.sched
        while True:
            await cp("sched_clock reads", until=lambda: vm.runs1)
            number, epoch, site, (cycles, ps) = len(self.world.events), vm.sched_epoch, vm.site, self.tsc(1)
            await cp("sched_clock converts", until=lambda: vm.runs1)
            if vm.sched_epoch == epoch or not self.protocol.retries_sched:
                break
        ns, returned = sched.ns(cycles), len(self.world.events)
        reading = Reading(index, "sched", number, ns, ns, cycles, ps, vm.sched_epoch, site, returned)
        self.outcome.readings.append(reading)
        self.outcome.reached.add(f"sched at site {site}")

    def _look(self, index: int, kind: str, line: Line, vcpu: int) -> dict[str, Any]:
        cycles, ps = self.tsc(vcpu)
        ns = line.ns(cycles)
        return {
            "index": index, "kind": kind, "number": len(self.world.events), "ns": ns,
            "boottime_ns": ns + line.offs_boot_ns, "cycles": cycles, "ps": ps, "epoch": line.epoch,
            "site": self.vm.site, "halted": line.halted,
        }  # fmt: skip

    def _took(self, reading: dict[str, Any], line: Line) -> None:
        vm = self.vm
        old = vm.frozen and reading["epoch"] == 0  # what the new epoch says is right as soon as it can be read
        taken = Reading(
            **reading, frozen=old, moved=old and not vm.runs1 and vm.exited, returned=len(self.world.events),
            late=reading["epoch"] != line.epoch,
        )  # fmt: skip
        self.outcome.readings.append(taken)
        self.outcome.reached.add(f"{taken.kind} in epoch {taken.epoch}")
        if taken.frozen:
            self.outcome.reached.add(f"{taken.kind} while frozen")
