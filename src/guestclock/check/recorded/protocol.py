"""I11, I12, I15, I21, I24, I25: the two protocols' own books: sums, epochs, freezes, entries and owners."""

from __future__ import annotations

from guestclock.check.recorded.block import Block
from guestclock.check.recorded.checking import Check, Finding
from guestclock.check.recorded.columns import FAST, Event
from guestclock.check.recorded.header import Header
from guestclock.errors import UserError


class Totals(Check):
    number, name = 11, "totals"
    about = "at rest the page's total, the guest's and the host's are equal"
    needs = "totals rows"
    tolerance = "none"
    blind = "what lies between two of them"

    def on_totals(self, event: Event) -> None:
        self.compare()
        told = [event.number(name) for name in ("shared_ns", "injected_ns", "believed_ns")]
        off = max(told) - min(told)
        if off:
            said = f"shared {told[0]}, injected {told[1]}, believed {told[2]} ns"
            self.violate(Finding(said, (event.at,), off))


class Idempotence(Check):
    number, name = 12, "once-per-epoch"
    about = "an epoch is injected once, however often its interrupt comes; it is acknowledged after that, not before"
    needs = "inject rows with epoch; irq and ack rows"
    tolerance = "none"
    blind = "what another number of interrupts would have done: several traces tell that"

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.injected: dict[int, Event] = {}
        self.interrupts: dict[int, int] = {}

    def on_irq(self, event: Event) -> None:
        epoch = event.number("epoch")
        self.interrupts[epoch] = self.interrupts.get(epoch, 0) + 1

    def on_inject(self, event: Event) -> None:
        epoch = event.get("epoch")
        if epoch is None:
            return
        self.compare()
        before = self.injected.get(epoch)
        if before is not None:
            said = f"epoch {epoch} is injected again ({self.interrupts.get(epoch, 0)} interrupts)"
            self.violate(Finding(said, (before.at, event.at), abs(event.number("ns"))))
        self.injected[epoch] = event

    def on_ack(self, event: Event) -> None:
        epoch = event.number("epoch")
        self.compare()
        if epoch not in self.injected:
            self.violate(Finding(f"epoch {epoch} is acknowledged, and was not injected", (event.at,), 0, ""))


class Frozen(Check):
    number, name = 15, "freeze"
    about = "from frozen to thawed the timekeeper's image stays the same, no clock is read and no NMI handler runs"
    needs = "freeze rows (with the image's hash as id)"
    tolerance = "none"
    blind = "what the hash does not cover"

    STATES = ("frozen", "acked", "moved", "reconf", "thawed")

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.state: Event | None = None
        self.image: Event | None = None

    def on_freeze(self, event: Event) -> None:
        state = event.word("text")
        if state not in self.STATES:
            raise UserError(f"{event.at}: text: {state!r}, expected one of {', '.join(self.STATES)}")
        if state == "frozen" and self.state is not None:
            raise UserError(f"{event.at}: frozen again, since {self.state.at}")
        if state != "frozen" and self.state is None:
            raise UserError(f"{event.at}: {state}, but nothing is frozen")
        self.compare()
        if state == "thawed":
            self.state = self.image = None
            return
        self.state = event
        if event.word("id"):
            if self.image is not None and event.word("id") != self.image.word("id"):
                said = f"the frozen timekeeper's image has changed between {self.image.word('text')} and {state}"
                self.violate(Finding(said, (self.image.at, event.at), 0, ""))
            self.image = event

    def readings(self, block: Block) -> None:
        if self.state is None or not len(block):
            return
        slow = block.path != FAST
        if slow.any():
            row = int(slow.argmax())
            said = f"vcpu{block.vcpu[row]} reads a clock that is frozen"
            found = Finding(said, (self.state.at, block.at(row)), 0, "", {"vcpu": int(block.vcpu[row])})
            self.violate(found, int(slow.sum()))

    def on_nmi(self, event: Event) -> None:
        if self.state is not None:
            said = f"an NMI handler runs on vcpu{event.vcpu} while the timekeeper is frozen"
            self.violate(Finding(said, (self.state.at, event.at), 0, ""))


class Counts(Check):
    number, name = 21, "once-per-sleep"
    about = "no more injections were accepted than sleeps there were, not none, and of v3 of the same length"
    needs = "sleep and inject rows"
    tolerance = "none (one injection may stand for several sleeps: the total is cumulative)"
    blind = "a sleep that nobody logged"

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.slept: list[Event] = []
        self.injected: list[Event] = []
        self.sleep_total = self.inject_total = 0
        self.logged = False

    def on_sleep(self, event: Event) -> None:
        self.logged = True
        if event.number("ns") > 0:
            self._settle(event)
            self.slept.append(event)
            self.sleep_total += event.number("ns")

    def on_inject(self, event: Event) -> None:
        self.injected.append(event)
        self.inject_total += event.number("ns")

    def _settle(self, at: Event) -> None:
        """The sleeps so far against the injections so far. The total is cumulative: one may stand for several."""
        if not self.slept or not self.injected:
            return
        self.compare()
        if len(self.injected) > len(self.slept):
            extra = self.injected[-1]
            said = f"{len(self.injected)} injections for {len(self.slept)} sleeps"
            self.violate(Finding(said, (self.slept[-1].at, extra.at), extra.number("ns")))
            self.injected.clear()
            self.slept.clear()
        elif self.header.design == "v3" and self.inject_total != self.sleep_total:
            said = f"the host slept {self.sleep_total} ns, and {self.inject_total} ns were injected"
            off = abs(self.inject_total - self.sleep_total)
            self.violate(Finding(said, (self.slept[-1].at, self.injected[-1].at), off))
        self.sleep_total = self.inject_total = 0

    def end(self) -> None:
        if self.logged and (self.slept or self.injected):
            self.compare()
            last = (self.slept or self.injected)[-1]
            if not self.injected:
                off = sum(event.number("ns") for event in self.slept)
                self.violate(Finding(f"{len(self.slept)} sleeps, and none was injected", (last.at,), off))
            elif len(self.injected) > len(self.slept):
                said = f"{len(self.injected)} injections for {len(self.slept)} sleeps"
                self.violate(Finding(said, (self.injected[-1].at,), abs(self.inject_total - self.sleep_total)))
            else:
                self._settle(last)


class Entries(Check):
    number, name = 24, "entries"
    about = "no vCPU enters the guest while an adjustment of its VM is not yet its own"
    needs = "entry rows with epoch and vm_epoch"
    tolerance = "none"
    blind = "entries that were not traced"

    def on_entry(self, event: Event) -> None:
        own, vm = event.get("epoch"), event.get("vm_epoch")
        if own is None or vm is None:
            return
        self.compare()
        if own != vm:
            said = f"vcpu{event.vcpu} enters the guest with epoch {own}, and its VM has {vm}"
            self.violate(Finding(said, (event.at,), 0, "", {"vcpu": event.vcpu}))


class Owner(Check):
    number, name = 25, "one-owner"
    about = "one host runs the image, and after the commit only the one it was handed to"
    needs = "commit rows, and entry rows with id"
    tolerance = "none"
    blind = "a host whose entries are not in the trace"

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.owner: Event | None = None
        self.former: set[str] = set()
        self.running: Event | None = None

    def on_commit(self, event: Event) -> None:
        owner = event.word("id")
        if self.owner is not None:
            if self.owner.word("id") == owner:
                raise UserError(f"{event.at}: committed to {owner!r}, which owns the VM since {self.owner.at}")
            self.former.add(self.owner.word("id"))
        self.owner = event

    def on_entry(self, event: Event) -> None:
        host = event.word("id")
        if not host:
            return
        owner = self.owner
        if owner is None:
            if self.running is not None and self.running.word("id") != host:
                self.violate(self._two(self.running, event))
            self.running = event
            self.compare()
            return
        self.compare()
        if host != owner.word("id"):
            self.violate(self._two(owner, event))

    @staticmethod
    def _two(owner: Event, entry: Event) -> Finding:
        said = f"{entry.word('id')} enters the guest, which is {owner.word('id')}'s"
        return Finding(said, (owner.at, entry.at), 0, "", {"vcpu": entry.vcpu})
