"""A Linux guest that is told of its host's sleep: registration, the interrupt's handler, what it does to the clocks.

One class per series, as posted, and one for our own design. The timekeeper is the whole one of `linux`; of its ticks
only what they do to readings is done here: at a constant multiplier a tick moves cycle_last, and no reading that is not
behind it (`GuestTimekeeper.tick`).
"""

from __future__ import annotations

from typing import Any

from guestclock.kvm.model.x86.suspend_time import SuspendPage
from guestclock.linux import Timekeeper
from guestclock.linux.clocksource import Clocksource
from guestclock.linux.timekeeper import TK_CLEAR_NTP, TK_CLOCK_WAS_SET, TK_MIRROR
from guestclock.sim import State
from guestclock.sim.field import flag, integer, ref, s64, text, u32, u64

FIRST_MONOTONIC_NS, FIRST_REALTIME_NS = 100 * 10**9, 10**18


class GuestTimekeeper(Timekeeper):
    """A guest's timekeeper within one epoch: nobody changes its multiplier (the contract under unknown times).

    What the kernel keeps twice, and every writer must change together, is kept twice here: E1 to E3.
    """

    wall_to_monotonic_ns = s64("MONOTONIC - REALTIME; whole readings of REALTIME are made of it")
    monotonic_to_boot_ns = s64("BOOTTIME - MONOTONIC once more: the vDSO's")
    offs_tai_kept_ns = s64("TAI - MONOTONIC, for hrtimers")

    def add_sleeptime(self, ns: int) -> bool:
        believed = super().add_sleeptime(ns)
        if believed:
            self.wall_to_monotonic_ns = self.wall_to_monotonic_ns - ns
            self.monotonic_to_boot_ns = self.monotonic_to_boot_ns + ns
            self.offs_tai_kept_ns = self.offs_tai_kept_ns + ns
        return believed

    def tick(self, cycles: int) -> None:
        """A tick at `cycles` as far as readers see it: what waited in the tick's own copy, and cycle_last.

        tests/guest/test_suspend_time.py holds it against timekeeping_advance() at a multiplier that stays.
        """
        self._take_shadow(cycles, forced=True)
        self.forward_now(cycles)

    @classmethod
    def booted(cls, clock: Clocksource, cycles: int) -> GuestTimekeeper:
        """One whose MONOTONIC and BOOTTIME are 100 s, and whose REALTIME is 10^9 s, where its counter is `cycles`."""
        tk = cls.start(clock, cycles, hz=250, monotonic_ns=FIRST_MONOTONIC_NS, realtime_ns=FIRST_REALTIME_NS)
        assert isinstance(tk, GuestTimekeeper)
        tk.wall_to_monotonic_ns, tk.offs_tai_kept_ns = -tk.offs_real_ns, tk.offs_tai_ns
        return tk

    def copy(self) -> Timekeeper:
        """As it stands, for onlookers."""
        return Timekeeper(**{name: getattr(self, name) for name in Timekeeper.fields})


class GuestLinux(State):
    """What a guest's kernel keeps; `told` says which series it was built with."""

    tk: GuestTimekeeper = ref("its timekeeper")
    told: Any = ref("the class of handlers: NoHandler, HandlerV1, ...")
    page: SuspendPage | None = ref("the record that it registered, or None")
    injected_ns = u64("the record's total that is in its clocks (tk->kvm_suspend_time in v3)")
    epoch = u32("the record's epoch that is in its clocks (+suspend-corrected)")
    injections = integer("sleeps that were injected since this kernel booted")
    irqs_off = flag("it runs with interrupts disabled")
    asleep = flag("it has suspended itself: timekeeping_suspended")
    absorbed = flag(
        "its own suspend has measured a sleep of the host with the RTC, and the record not been looked at since"
    )
    wall_bases = integer("how often hrtimers of REALTIME and TAI were told that clocks were set")
    boot_bases = integer("how often those of BOOTTIME were")
    ticks_seen = integer("stores to the record that a tick has seen (v1)")
    version = integer("how often the timekeeper was written: for onlookers")
    why = text("what the last injection was")
    slept_ns = s64("what its own resume path injected last, ns")


class NoHandler:
    """A guest that is not told anything, or does not listen."""

    msr_written = False
    ticks = False
    """Whether ticks have anything to do with it."""

    @staticmethod
    def tick_has_work(guest: GuestLinux) -> bool:
        """A guard: the next tick will change more than cycle_last."""
        return False

    @staticmethod
    def register(guest: GuestLinux, page: SuspendPage) -> None:
        """After the WRMSR."""

    @staticmethod
    def interrupt(guest: GuestLinux, cycles: int) -> None:
        """The interrupt's handler, on a vCPU whose clocksource reads `cycles`."""

    @staticmethod
    def tick(guest: GuestLinux, cycles: int) -> None:
        """timekeeping_advance() on a vCPU whose clocksource reads `cycles`."""
        guest.tk.tick(cycles)
        guest.version = guest.version + 1

    @staticmethod
    def resumed(guest: GuestLinux, slept_ns: int) -> None:
        """After the guest's own timekeeping_resume(), which injected slept_ns as the RTC measured it."""


class HandlerV1(NoHandler):
    """v1: compared at each tick, after timekeeping_advance()."""

    msr_written = ticks = True

    @staticmethod
    def tick_has_work(guest: GuestLinux) -> bool:
        page = guest.page
        return page is not None and page.stores != guest.ticks_seen

    @staticmethod
    def register(guest: GuestLinux, page: SuspendPage) -> None:
        guest.page = page
        guest.ticks_seen = page.stores

    @staticmethod
    def tick(guest: GuestLinux, cycles: int) -> None:
        NoHandler.tick(guest, cycles)
        page = guest.page
        if page is None:
            return
        guest.ticks_seen = page.stores
        if page.suspend_time_ns > guest.injected_ns:
            delta = page.suspend_time_ns - guest.injected_ns
            guest.injected_ns = page.suspend_time_ns
            guest.tk.add_sleeptime(delta)
            guest.tk.timekeeping_update(TK_CLEAR_NTP | TK_MIRROR | TK_CLOCK_WAS_SET)
            _injected(guest, "tick")
            guest.wall_bases = guest.wall_bases + 1


class HandlerV2(HandlerV1):
    """v2: an interrupt of its own, 0xec; what it changes is the tick's working copy alone."""

    @staticmethod
    def tick_has_work(guest: GuestLinux) -> bool:
        return guest.tk.shadow is not None

    @staticmethod
    def tick(guest: GuestLinux, cycles: int) -> None:
        NoHandler.tick(guest, cycles)

    @staticmethod
    def interrupt(guest: GuestLinux, cycles: int) -> None:
        page = guest.page
        if page is not None and page.suspend_time_ns > guest.injected_ns:
            delta = page.suspend_time_ns - guest.injected_ns
            guest.injected_ns = page.suspend_time_ns
            guest.tk.parted().add_sleeptime(delta)
            _injected(guest, "interrupt")
            guest.wall_bases = guest.wall_bases + 1


class HandlerV3(HandlerV2):
    """v3: interrupt 0xf3, shared with async page faults; timekeeping_inject_virtual_suspend_time()."""

    ticks = False

    @staticmethod
    def interrupt(guest: GuestLinux, cycles: int) -> None:
        page = guest.page
        if page is not None and page.suspend_time_ns > guest.injected_ns:
            delta = page.suspend_time_ns - guest.injected_ns
            guest.injected_ns = page.suspend_time_ns
            guest.tk.forward_now(cycles)
            guest.tk.add_sleeptime(delta)
            guest.tk.timekeeping_update(TK_CLEAR_NTP | TK_MIRROR | TK_CLOCK_WAS_SET)
            _injected(guest, "interrupt")
            guest.wall_bases = guest.wall_bases + 1  # clock_was_set_delayed(): the wall's bases alone


class HandlerCorrected(NoHandler):
    """Our own: inject_sleeptime64() from task context, counted from registration, acknowledged by epoch.

    What the guest's own resume path has measured with the RTC is not injected again: the record's total is taken as
    known then. While the guest is suspended nothing is injected.
    """

    msr_written = True

    @staticmethod
    def register(guest: GuestLinux, page: SuspendPage) -> None:
        guest.page = page
        guest.injected_ns, guest.epoch = page.suspend_time_ns, page.epoch
        page.ack = page.epoch

    @staticmethod
    def interrupt(guest: GuestLinux, cycles: int) -> None:
        page = guest.page
        if page is None or guest.asleep or page.epoch == guest.epoch:
            return
        delta = page.suspend_time_ns - guest.injected_ns
        guest.injected_ns, guest.epoch = page.suspend_time_ns, page.epoch
        guest.tk.inject_sleeptime64(cycles, delta)
        page.ack = page.epoch
        _injected(guest, "interrupt")
        guest.wall_bases = guest.wall_bases + 1
        guest.boot_bases = guest.boot_bases + 1

    @staticmethod
    def resumed(guest: GuestLinux, slept_ns: int) -> None:
        page = guest.page
        if page is not None:
            guest.injected_ns, guest.epoch = page.suspend_time_ns, page.epoch
            page.ack = page.epoch


class HandlerByCounter(HandlerCorrected):
    """The same for a guest that measures its own suspend by its counter (arm64), from which its VMM hides the sleep.

    What it has measured then has no sleep of the host in it, so the record is injected on top; where it measures by an
    RTC that would be twice.
    """

    @staticmethod
    def resumed(guest: GuestLinux, slept_ns: int) -> None:
        pass


class HandlerDeaf(HandlerCorrected):
    """A guest that registers, and does nothing about the interrupt."""

    @staticmethod
    def interrupt(guest: GuestLinux, cycles: int) -> None:
        pass


class HandlerKnob(NoHandler):
    """Rejected in February 2021: user space writes what was slept to /sys/kernel/boottime_adj, when it gets to it."""

    @staticmethod
    def register(guest: GuestLinux, page: SuspendPage) -> None:
        HandlerCorrected.register(guest, page)

    @staticmethod
    def interrupt(guest: GuestLinux, cycles: int) -> None:
        page = guest.page
        if page is None:
            return
        more = page.suspend_time_ns - guest.injected_ns
        guest.tk.offs_boot_ns = guest.tk.offs_boot_ns + more
        guest.tk.monotonic_to_boot_ns = guest.tk.monotonic_to_boot_ns + more
        guest.injected_ns = page.suspend_time_ns
        _injected(guest, "sysfs")


def _injected(guest: GuestLinux, why: str) -> None:
    guest.injections = guest.injections + 1
    guest.version = guest.version + 1
    guest.why = why
