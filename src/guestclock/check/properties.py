"""The properties a guest's clocks should have whatever its VMM does, each checked at every look of a trace.

They state what is so, not whose fault it is: a VMM that writes the TSC makes it jump, and the mark says by how much.
"""

from __future__ import annotations

from guestclock.check.clocks import agrees, never_back, runs, together
from guestclock.check.marks import Mark, Property
from guestclock.check.pages import PAGE_PROPERTIES
from guestclock.check.story import Story

PROPERTIES: tuple[Property, ...] = (
    never_back("kvmclock"),
    never_back("tsc"),
    runs("kvmclock"),
    runs("tsc"),
    agrees("tsc"),
    agrees("kvmclock"),
    *PAGE_PROPERTIES,
    never_back("cntvct"),
    never_back("cntpct"),
    runs("cntvct"),
    runs("cntpct"),
    agrees("cntvct"),
    agrees("cntpct"),
    together(
        "cntpct",
        "cntvct",
        "counters-together",
        "KVM_ARM_SET_COUNTER_OFFSET gives both one offset; by value a VMM moves one without the other",
    ),
)


def properties_of(story: Story) -> tuple[Property, ...]:
    """Those of the trace's architecture: the others say nothing of it."""
    return tuple(prop for prop in PROPERTIES if prop.arch == story.arch)


def marks(story: Story) -> list[Mark]:
    """Everything every property finds, by step."""
    found = [mark for prop in properties_of(story) for mark in prop.check(story)]
    return sorted(found, key=lambda mark: mark.step)


def unjudged(story: Story) -> tuple[Property, ...]:
    """The properties that this trace can neither keep nor break."""
    return tuple(prop for prop in properties_of(story) if not prop.judges(story))
