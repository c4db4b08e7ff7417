"""What the guest's kernel keeps besides its clocks, after each write of its timekeeper (`checks.suspend.states`)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from guestclock.checks.asks import Ask
from guestclock.checks.suspend.invariants.asking import ask, count
from guestclock.checks.suspend.setting import Outcome, S
from guestclock.linux.ntp import NTP_PHASE_LIMIT_US, STA_UNSYNC


def twins(outcome: Outcome) -> Iterator[Ask]:
    """E1 to E3 after each write: each clock's offset is the same wherever the kernel keeps it.

    E4 to E8 are sums in the model, and hold by their making (linux.image).
    """
    for state in outcome.states.seen:
        for name, off in (
            ("wall_to_monotonic", state.offs_real_ns + state.wall_to_monotonic_ns),
            ("offs_tai", state.tai_less_real_ns - state.tai_offset * S),
            ("monotonic_to_boot", state.monotonic_to_boot_ns - state.offs_boot_ns),
        ):
            for sense, value in (("ahead of its twin", off), ("behind its twin", -off)):
                yield ask(
                    sense, "ns", name, f"{name} {sense} {state.step}", (state.number,), (), (),
                    lambda t, value=value: value,  # type: ignore[misc]
                )  # fmt: skip


def at_rest(outcome: Outcome) -> Iterator[Ask]:
    """E9: after a write the tick's copy is the timekeeper. That pages are whole, `guestclock check` asks of recipes."""
    parted = sum(state.parted for state in outcome.states.seen)
    yield count(outcome, "not in the tick's copy", "writes", "the timekeeper", parted)


def ntp_forgets(outcome: Outcome) -> Iterator[Ask]:
    """After an injection that moves the wall clock NTP says that it knows nothing, and keeps its frequency."""
    wrong = 0
    states = outcome.states.seen
    for before, state in pairwise(states):
        if state.kernel != before.kernel or state.injections == before.injections or state.parted:
            continue
        if state.offs_real_ns is before.offs_real_ns:
            continue
        ntp = state.ntp
        forgot = ntp.status & STA_UNSYNC and ntp.maxerror_us >= NTP_PHASE_LIMIT_US and not ntp.offset
        wrong += not (forgot and ntp.freq == before.ntp.freq)
    # What waits in the tick's copy became visible with a tick, which clears nothing.
    wrong += sum(
        one.parted and not other.parted and not other.ntp.status & STA_UNSYNC for one, other in pairwise(states)
    )
    if outcome.guest.page is not None or wrong:
        yield count(outcome, "that left NTP in sync", "injections", "the guest", wrong)
