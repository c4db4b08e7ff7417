"""A clock is a line between two events: where a line breaks, by how much, and which vCPUs' lines are one.

Values are compared at one instant, never readings that were taken at different ones. Bounds are computed: from the
sandwich of each reading, from the truncations on the way. Nothing is a guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.check.span import WORD, Span, through_zero
from guestclock.check.story import Instant, Look, Reading, Story
from guestclock.guest import kvmclock_ns
from guestclock.vmm.clocks import CLOCKS


def counter_on_line(story: Story, reading: Reading, clock: str, at: Instant) -> Span:
    """What that counter of the vCPU shows at another instant if nothing happens to it: below 2^64 as read."""
    count = reading.counts[clock]
    line = story.elapsed(reading.rate, count.when, at) + count.value
    return line - WORD if line.lo >= WORD else line


def kvmclock_on_line(story: Story, reading: Reading, at: Instant) -> Span:
    """What its kvmclock shows then, by its page as it is: ns.

    Where the sandwich leaves open whether the TSC had passed the page's tsc_timestamp, it had: a page is written later
    than its snapshot is taken. Where it surely had not, the guest reads centuries ahead, and so does this.
    """
    page, tsc = _page(reading), counter_on_line(story, reading, "tsc", at)
    first = tsc.lo
    if _precedes(tsc.lo, page.tsc_timestamp) and not _precedes(tsc.hi, page.tsc_timestamp):
        first = page.tsc_timestamp
    return Span.of(kvmclock_ns(page, first), kvmclock_ns(page, tsc.hi))


def _page(reading: Reading) -> PvclockVcpuTimeInfo:
    assert reading.page is not None, "a kvmclock was read, so there is a page"
    return reading.page


def rounding_ns(*pages: PvclockVcpuTimeInfo) -> int:
    """By how many ns two kvmclocks of one ideal line can differ through truncation alone.

    A page's system_time is truncated, and so is what is added to it; a negative shift first drops up to
    2^-shift - 1 cycles. Each reading so lies within (ideal - 2 - dropped, ideal]. 2 for TSCs from 1 GHz on.
    """
    worst = max(2 + _dropped_ns(page) for page in pages)
    return worst.__ceil__() - 1


def _dropped_ns(page: PvclockVcpuTimeInfo) -> Fraction:
    if page.tsc_shift >= 0:
        return Fraction(0)
    return Fraction((2**-page.tsc_shift - 1) * page.tsc_to_system_mul, 2 ** (32 - page.tsc_shift))


def same_line(a: PvclockVcpuTimeInfo, b: PvclockVcpuTimeInfo) -> bool:
    """Whether two pages mean the same function of the TSC, whatever their versions and flags."""
    return (a.tsc_timestamp, a.system_time, a.tsc_to_system_mul, a.tsc_shift) == (
        b.tsc_timestamp, b.system_time, b.tsc_to_system_mul, b.tsc_shift,
    )  # fmt: skip


# ---- breaks


@dataclass(frozen=True, slots=True)
class Break:
    """A clock's line before and after, at the same instant: after minus before, in the clock's unit.

    rounding: what truncation alone explains. seen: what a guest sees of it that looks whenever it can, against the last
    it saw: all of it, or less where nobody could look meanwhile. A clock that stood still is behind, and went nowhere
    back.
    """

    clock: str
    before: Reading
    after: Reading
    amount: Span
    rounding: Span
    seen: Span

    @property
    def is_step(self) -> bool:
        return not self.amount.meets(self.rounding)


def counter_break(story: Story, before: Reading, after: Reading, clock: str) -> Break:
    """Between two readings of one vCPU. A break smaller than the two sandwiches cannot be told from none."""
    now = after.counts[clock]
    amount = through_zero(-(counter_on_line(story, before, clock, now.when) - now.value))
    return Break(clock, before, after, amount, Span(0, 0), _seen(story, before, after, clock, amount))


def _seen(story: Story, before: Reading, after: Reading, clock: str, amount: Span) -> Span:
    """What a guest sees of a break: the difference since its VM's last moment in the guest, where that is known; else
    all of it, or nothing where it slept meanwhile and reads no less than before.
    """
    if before.moves != after.moves and after.away is not None:
        left, moved = after.away
        return amount if left == moved else amount + story.elapsed(after.rate, left, moved)
    if before.pauses == after.pauses or after.value(clock) < before.value(clock):
        return amount
    return Span(0, 0)


def kvmclock_break(story: Story, before: Reading, after: Reading) -> Break | None:
    """None where one of the two readings has no page that was ever written.

    Exact, also on a real host, where the TSC's line goes on and only the page is new: both pages are then evaluated
    at the new one's tsc_timestamp. Where something was done to the TSC, what the sandwiches leave open of it is open.
    """
    old, new = before.page, after.page
    if old is None or new is None or before.kvmclock_ns is None or after.kvmclock_ns is None:
        return None
    moved = counter_break(story, before, after, "tsc").amount
    if 0 in moved:
        open_ns = _ns_of(new, moved) if before.moves != after.moves else Span(0, 0)
        if same_line(old, new):
            return Break("kvmclock", before, after, open_ns, Span(0, 0), open_ns)
        at = old.tsc_timestamp if _precedes(new.tsc_timestamp, old.tsc_timestamp) else new.tsc_timestamp
        step = through_zero(Span.of(kvmclock_ns(new, at) - kvmclock_ns(old, at))) + open_ns
        # The new page's own value is truncated once where the old line is twice: truncation never reads as a step back.
        below = 0 if at == new.tsc_timestamp else -rounding_ns(old, new)
        return Break("kvmclock", before, after, step, Span(below, rounding_ns(old, new)), step)
    amount = through_zero(-(kvmclock_on_line(story, before, after.when) - after.kvmclock_ns))
    slack = rounding_ns(old, new)
    return Break(
        "kvmclock", before, after, amount, Span(-slack, slack), _seen(story, before, after, "kvmclock", amount)
    )


def _ns_of(page: PvclockVcpuTimeInfo, cycles: Span) -> Span:
    """So many cycles of a TSC as ns at a page's rate, rounded outwards."""
    ns_per_cycle = Fraction(page.tsc_to_system_mul, 2**32) * Fraction(2) ** page.tsc_shift
    return Span((cycles.lo * ns_per_cycle).__floor__(), (cycles.hi * ns_per_cycle).__ceil__())


def _precedes(a: int, b: int) -> bool:
    """a before b on a counter that wraps."""
    return (a - b) % WORD >= WORD // 2


def breaks(story: Story, clock: str) -> list[Break]:
    """Every place where a clock's line may have broken, in order; most amounts are 0."""
    if clock not in story.clocks:
        return []
    if CLOCKS[clock].counts:
        return [counter_break(story, before, after, clock) for before, after in story.pairs(clock)]
    found = (kvmclock_break(story, before, after) for before, after in story.pairs(clock))
    return [broken for broken in found if broken is not None]


def step_at(story: Story, step: int, clock: str, vcpu: int = 0) -> Span:
    """By how much a clock's line broke in a step of the scenario, in the clock's unit; 0 if it did not.

    Raises KeyError where that vCPU was not read before and in that step.
    """
    amounts = [b.amount for b in breaks(story, clock) if b.after.step == step and b.after.vcpu == vcpu]
    if not amounts:
        raise KeyError(f"step {step}: no {clock} of vcpu{vcpu} before and after it")
    total = amounts[0]
    for amount in amounts[1:]:
        total += amount
    return total


# ---- agreement


def counter_ahead(story: Story, one: Reading, other: Reading, clock: str) -> Span:
    """By how much one vCPU's counter is ahead of another's, both at the later reading's instant."""
    at = later(one, other)
    return through_zero(counter_on_line(story, one, clock, at) - counter_on_line(story, other, clock, at))


def kvmclock_ahead(story: Story, one: Reading, other: Reading) -> Span:
    """The same of their kvmclocks, ns.

    Exact, also on a real host, where the two TSCs agree within their sandwiches and both pages say STABLE: KVM took
    the TSCs for one. Without STABLE they may be apart by less than the sandwiches tell, each page made for its own.
    """
    ours, theirs = _page(one), _page(other)
    apart = counter_ahead(story, one, other, "tsc")
    if 0 in apart:
        open_ns = Span(0, 0) if one.stable and other.stable else _ns_of(ours, apart)
        tsc = other.tsc if _precedes(one.tsc, other.tsc) else one.tsc
        return through_zero(Span.of(kvmclock_ns(ours, tsc) - kvmclock_ns(theirs, tsc))) + open_ns
    at = later(one, other)
    return through_zero(kvmclock_on_line(story, one, at) - kvmclock_on_line(story, other, at))


def later(one: Reading, other: Reading) -> Instant:
    return max(one.when, other.when, key=lambda when: when.at_ps.hi)


@dataclass(frozen=True, slots=True)
class Group:
    """vCPUs whose clocks are one, and how far ahead they are of the first group's."""

    vcpus: tuple[int, ...]
    ahead: Span


def groups(story: Story, look: Look, clock: str) -> list[Group]:
    """The vCPUs of a look by what their clock shows at one instant; [] where none was read.

    A vCPU joins the first group whose first member it cannot be told from: by more than the sandwiches, and for
    kvmclock by more than truncation explains.
    """
    found: list[tuple[list[int], Reading, Span]] = []
    for vcpu, reading in look.showing(clock).items():
        for members, first, _ in found:
            if differs(story, reading, first, clock) is None:
                members.append(vcpu)
                break
        else:
            ahead = _ahead(story, reading, found[0][1], clock) if found else Span(0, 0)
            found.append(([vcpu], reading, ahead))
    return [Group(tuple(members), ahead) for members, _, ahead in found]


def differs(story: Story, one: Reading, other: Reading, clock: str) -> Span | None:
    """How far one is ahead of the other, or None if they cannot be told apart."""
    ahead, slack = _ahead(story, one, other, clock), 0
    if clock == "kvmclock":
        ours, theirs = _page(one), _page(other)
        slack = 0 if same_line(ours, theirs) else rounding_ns(ours, theirs)
    return None if ahead.meets(Span(-slack, slack)) else ahead


def _ahead(story: Story, one: Reading, other: Reading, clock: str) -> Span:
    if CLOCKS[clock].counts:
        return counter_ahead(story, one, other, clock)
    return kvmclock_ahead(story, one, other)
