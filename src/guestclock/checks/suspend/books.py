"""What goes with the readings of a run of the suspend thread: entries, sleeps, injections, interrupts, pages, totals.

It looks at host and guest after each step, and notes what has changed. docs/traces.md says what each row means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from guestclock.checks.readings import Row, ntp_columns, units_of
from guestclock.checks.suspend.setting import Outcome
from guestclock.kvm.model.x86.suspend_corrected import SuspendCorrected
from guestclock.kvm.model.x86.suspend_time import SuspendPage, SuspendV3
from guestclock.linux import Ntp

Placed = tuple[int, float, Row]
ABOUT_IRQ = "interrupt pending"


class Books:
    """gated: the host is of the corrected design, and the guest has asked it."""

    def __init__(self, world: Any, outcome: Outcome) -> None:
        self.world, self.outcome = world, outcome
        self.placed: list[tuple[int, int, float, Row]] = []
        self.sleeps: list[int] = []
        self.opened: list[int] = []
        self._offs_boot_ns = 0
        self._injected_ns = self._version = self._kernel = 0
        self._page_was: SuspendPage | None = None
        self._gate = False
        self._ack: tuple[SuspendPage | None, int] = (None, 0)
        self._page: tuple[SuspendPage | None, int, int] = (None, 0, 0)
        self._vms = 1
        self._told_ntp = False
        world.after_step(self._look)

    @property
    def rule(self) -> Any:
        return self.outcome.kvm.host.profile.suspend_time

    @property
    def gated(self) -> bool:
        return isinstance(self.rule, type) and issubclass(self.rule, SuspendCorrected)

    def _note(self, number: int, kind: str, **columns: Any) -> None:
        event = self.world.events[number]
        at = units_of(self.world, event.start)
        self.placed.append((self._kernel, at, number, {"event": kind, **columns}))

    def _look(self, number: int) -> None:
        outcome = self.outcome
        host, guest = outcome.kvm.host, outcome.guest
        self._host(number, host)
        if guest.tk is None or not host.vms:
            return
        if outcome.tracker.kernel != self._kernel:
            # Another kernel: its books begin, and nothing was slept since.
            self._kernel = outcome.tracker.kernel
            self._injected_ns = 0
            self._told_ntp = False
            self._note(number, "sleep", ns=0)
        if not self._told_ntp:
            self._told_ntp = True
            self._ntp(number, guest.tk.ntp)
        if len(host.vms) > self._vms:
            self._vms = len(host.vms)
            self._note(number, "move", text="migrate")
        label, page = self.world.events[number].label, guest.page
        if label == ABOUT_IRQ and page is not None and page.epoch:
            self._note(number, "irq", epoch=page.epoch)
        self._injection(number, guest, page)
        self._guest_page(number, page)

    def _host(self, number: int, host: Any) -> None:
        machine = host.machine
        if machine.awake() and len(self.outcome.sleeps) > len(self.sleeps):
            believed = machine.ktime_get_offs_boot_ns() - self._offs_boot_ns
            self._offs_boot_ns += believed
            self.sleeps.append(number)
            guest = self.outcome.guest
            # A guest that listens, and has not asked yet, is not to be told.
            if guest.page is not None or not guest.told.msr_written:
                self._note(number, "sleep", ns=believed)
        gate = bool(host.vms and host.vms[-1].suspend is not None and host.vms[-1].suspend.gate)
        if self._gate and not gate:
            self.opened.append(number)
        self._gate = gate

    def opened_between(self, first: int, last: int) -> int | None:
        """The step in which the gate was opened, of those after the first and before the last."""
        return next((number for number in reversed(self.opened) if first < number < last), None)

    def _injection(self, number: int, guest: Any, page: SuspendPage | None) -> None:
        """A row where BOOTTIME moves: by how much the guest has taken from its record, or its own RTC has told it."""
        states = self.outcome.states.seen
        state, before = states[-1], states[-2] if len(states) > 1 else None
        if state.number == number and before is not None and before.kernel == state.kernel:
            moved = guest.tk.offs_boot_ns - before.offs_boot_ns
            woke = before.asleep and not state.asleep
            if moved:
                ns = moved if woke else guest.injected_ns - self._injected_ns
                told = page is not None and page.epoch and (not woke or page.ack != self._ack[1])
                self._note(number, "inject", ns=ns, **({"epoch": page.epoch} if page is not None and told else {}))
                self._injected_ns = guest.injected_ns
                # What moves BOOTTIME alone is no business of NTP's.
                if not woke and guest.tk.offs_real_ns != before.offs_real_ns:
                    self._ntp(number, guest.tk.ntp)
            elif woke:
                self._injected_ns = guest.injected_ns
        if page is not None and self._page_was is not page:
            self._injected_ns = guest.injected_ns  # registered: counted from here
        if page is not None and self._ack[0] is page and page.ack != self._ack[1]:
            self._note(number, "ack", epoch=page.ack)
        self._ack = page, 0 if page is None else page.ack
        self._page_was = page

    def _ntp(self, number: int, ntp: Ntp) -> None:
        self._note(number, "ntp", **ntp_columns(ntp))

    def _guest_page(self, number: int, page: SuspendPage | None) -> None:
        guest = self.outcome.guest
        if page is not None:
            # What has no sequence is counted by its stores.
            version = page.seq or 2 * page.stores
            if (page, version) != self._page[:2]:
                self._page = page, version, 0
                text = f"{page.suspend_time_ns}/{page.epoch}"
                name = f"record {len(self.outcome.kvm.host.vms)}.{self._kernel}"
                self._note(number, "page", id=name, version=version, text=text)
        if guest.version != self._version:
            self._version = guest.version
            tk = guest.tk
            for each in (tk, tk.shadow or tk):
                text = f"{each.offs_real_ns}/{each.offs_boot_ns}"
                self._note(number, "page", id="timekeeper", version=2 * guest.version, text=text)

    # ---- afterwards

    def rows(self, kernel: int, stops: Sequence[tuple[int, int]]) -> Iterator[Placed]:
        """Of one kernel, but for sleeps and moves, which are its host's. stops: the steps that began and ended each."""
        for of, at, number, row in self.placed:
            if of == kernel:
                yield at, number, row
        for first, last in stops:
            if not any(first < number < last for number in self.sleeps):
                yield units_of(self.world, self.world.events[last].start), last - 0.5, {"event": "abort"}
        yield from self._entries(kernel)
        yield from self._at_rest()

    def _entries(self, kernel: int) -> Iterator[Placed]:
        outcome = self.outcome
        begins = min((k.opener for k in outcome.tracker.keepers() if k.kernel == kernel), default=0)
        seen: set[int] = set()
        for span in outcome.tracker.cpus():
            at = units_of(self.world, self.world.events[span.opener].start)
            if span.late and span.vcpu not in seen:
                yield at, span.opener, {"event": "online", "vcpu": span.vcpu}
            seen.add(span.vcpu)
            if span.entry and span.opener >= begins:
                epoch = span.slept if span.applied else max(span.slept - 1, 0)
                vm_epoch = span.slept if span.applied else epoch + 1
                yield at, span.opener + 0.25, {
                    "event": "entry", "vcpu": span.vcpu, "epoch": epoch, "vm_epoch": vm_epoch,
                }  # fmt: skip

    def _at_rest(self) -> Iterator[Placed]:
        """The three sums, where nothing is pending any more."""
        outcome = self.outcome
        guest, vm = outcome.guest, outcome.kvm.host.vms[-1]
        page = guest.page
        if page is None or any(vcpu.suspend_irq for vcpu in vm.vcpus) or guest.told.tick_has_work(guest):
            return
        last = len(self.world.events) - 1
        row = {
            "event": "totals", "shared_ns": page.suspend_time_ns, "injected_ns": guest.injected_ns,
            "believed_ns": self._believed_ns(vm, page),
        }  # fmt: skip
        yield units_of(self.world, self.world.events[last].end), last + 0.75, row

    def _believed_ns(self, vm: Any, page: SuspendPage) -> int:
        """By the host: v3 counts its own sleeps; the others keep a sum; a VMM has its page alone."""
        if not self.rule.msr:
            return page.suspend_time_ns
        if isinstance(self.rule, type) and issubclass(self.rule, SuspendV3):
            return int(SuspendV3.total(vm))
        return int(vm.suspend.suspend_time_ns)


__all__ = ["Books"]
