"""I10, I16, I18, I19: what the guest's kernel says of itself: its log, its pages, its NTP state, its vmclock."""

from __future__ import annotations

import re

from guestclock.check.recorded.checking import Check, Finding
from guestclock.check.recorded.columns import Event
from guestclock.check.recorded.header import Header

STA_UNSYNC = 0x40
NTP_PHASE_LIMIT_US = 16_000_000

COMPLAINTS = re.compile(
    r"soft lockup|hard LOCKUP|blocked for more than \d+ seconds|rcu.*(?:detected stalls?|self-detected stall)"
    r"|BUG: workqueue lockup|hrtimer: interrupt took|clocksource.*unstable|timekeeping watchdog"
    r"|[Mm]arking clocksource|Clocksource .* skewed|scheduling-clock tick .* lost",
)


class Complaints(Check):
    number, name = 10, "log"
    about = "no soft lockup, hung task, RCU or workqueue stall, hrtimer hang, unstable clocksource in the guest's log"
    needs = "dmesg rows (all lines of the log, or none of these would be seen)"
    tolerance = "none"
    blind = "a watchdog that is off, or was told to be quiet"

    def on_dmesg(self, event: Event) -> None:
        self.compare()
        text = event.word("text")
        if COMPLAINTS.search(text):
            self.violate(Finding(f"the log says: {text}", (event.at,), 0, ""))


class Pages(Check):
    number, name = 16, "pages"
    about = "a page that was taken for good has an even version, and one version has one content"
    needs = "page rows: what a reader accepted, or what a sequence count was at rest"
    tolerance = "none"
    blind = "a torn content that never has a second reader of its version"

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.seen: dict[str, tuple[int, str, str]] = {}

    def on_page(self, event: Event) -> None:
        self.compare()
        name, version, text = event.word("id"), event.number("version"), event.word("text")
        if version % 2:
            said = f"page {name}: version {version} is odd, its content is being written"
            self.violate(Finding(said, (event.at,), 0, ""))
        before = self.seen.get(name)
        if before is not None and before[0] == version and before[1] != text:
            said = f"page {name}: version {version} has two contents, so one reader saw a torn page"
            self.violate(Finding(said, (before[2], event.at), 0, ""))
        if before is not None and version < before[0] and before[0] - version < 2**31:
            said = f"page {name}: version {version} after {before[0]}"
            self.violate(Finding(said, (before[2], event.at), 0, ""))
        self.seen[name] = version, text, event.at

    def on_move(self, event: Event) -> None:
        self.seen.clear()


class NtpState(Check):
    number, name = 18, "ntp"
    about = "after an injection the clock says it is unsynchronised, and keeps its frequency"
    needs = "an ntp row after each inject row, and one before for the frequency"
    tolerance = "none"
    blind = "a daemon that has answered before the ntp row was read"

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.injected: Event | None = None
        self.ppm: float | None = None

    def on_inject(self, event: Event) -> None:
        self.injected = event

    def on_freq(self, event: Event) -> None:
        self.ppm = float(event.data["ppm"])

    def on_move(self, event: Event) -> None:
        self.ppm = None  # another crystal: what was found out of the old one is to be forgotten

    def on_ntp(self, event: Event) -> None:
        ppm, injected = float(event.data["ppm"]), self.injected
        self.injected = None
        if injected is not None:
            self.compare()
            wrong = []
            if not event.number("status") & STA_UNSYNC:
                wrong.append("it does not say STA_UNSYNC")
            if event.number("maxerror_us") < NTP_PHASE_LIMIT_US:
                wrong.append(f"maxerror is {event.number('maxerror_us')} µs, not 16 s")
            if event.number("offset_ns"):
                wrong.append(f"an offset of {event.number('offset_ns')} ns is left")
            if self.ppm is not None and ppm != self.ppm:
                wrong.append(f"the frequency went from {self.ppm:g} to {ppm:g} ppm")
            if wrong:
                said = f"after an injection {'; '.join(wrong)}"
                self.violate(Finding(said, (injected.at, event.at), 0, ""), len(wrong))
        self.ppm = ppm


class Vmclock(Check):
    number, name = 19, "vmclock"
    about = "vmclock's marker changes when the VM was moved (and may over a sleep), its generation when it was copied"
    needs = "two vmclock rows; move and sleep rows for whatever happened"
    tolerance = "none"
    blind = "a marker that changed twice between two rows"

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.before: Event | None = None
        self.disrupted: Event | None = None
        self.slept = False
        self.copied: Event | None = None

    def on_move(self, event: Event) -> None:
        self.disrupted = event
        if event.word("text") in ("clone", "restore"):
            self.copied = event

    def on_sleep(self, event: Event) -> None:
        self.slept = self.slept or event.number("ns") > 0

    def on_vmclock(self, event: Event) -> None:
        before, self.before = self.before, event
        if event.number("version") % 2:
            self.compare()
            self.violate(Finding(f"sequence {event.number('version')} is odd at rest", (event.at,), 0, ""))
        if before is None:
            return
        self.compare()
        if self.disrupted is not None or not self.slept:  # after a sleep alone it may change, and need not
            self._changed("disruption marker", "marker", before, event, self.disrupted)
        if "generation" in event.data and "generation" in before.data:
            self._changed("generation", "generation", before, event, self.copied)
        self.disrupted = self.copied = None
        self.slept = False

    def _changed(self, what: str, column: str, before: Event, now: Event, why: Event | None) -> None:
        changed = before.number(column) != now.number(column)
        if changed and why is None:
            said = f"the {what} changed, and nothing had happened"
            self.violate(Finding(said, (before.at, now.at), 0, ""))
        elif not changed and why is not None:
            said = f"the {what} did not change after {why.word('text') or why.kind}"
            self.violate(Finding(said, (why.at, now.at), 0, ""))
