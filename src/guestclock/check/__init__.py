"""Properties of a guest's clocks, checked over a trace; where lines break and by how much; clock minus true time.

told = story(trace)
for mark in marks(told): ...
step_at(told, 3, "kvmclock", vcpu=0).exact
"""

from guestclock.check.drift import Point, errors, get_clock_error, host_error
from guestclock.check.lines import Break, Group, breaks, groups, step_at
from guestclock.check.marks import Mark, Property
from guestclock.check.properties import PROPERTIES, marks, properties_of, unjudged
from guestclock.check.reader import story
from guestclock.check.span import Span
from guestclock.check.story import Count, Instant, Look, Rate, Reading, Story, VmClock

__all__ = [
    "PROPERTIES", "Break", "Count", "Group", "Instant", "Look", "Mark", "Point", "Property", "Rate", "Reading", "Span",
    "Story", "VmClock", "breaks", "errors", "get_clock_error", "groups", "host_error", "marks", "properties_of",
    "step_at", "story", "unjudged",
]  # fmt: skip
