"""The steps a scenario may take: each verb's keys, what they mean, and the sentence a reader is shown.

What a verb does when it is played is in `guestclock.vmm.steps`.
"""

from guestclock.scenario.verb import VERBS
from guestclock.scenario.verbs import arm64, x86  # they enter their verbs
from guestclock.scenario.verbs.common import MAX_VCPUS, Sleep, Wait
from guestclock.scenario.verbs.x86 import check_khz

__all__ = ["MAX_VCPUS", "VERBS", "Sleep", "Wait", "arm64", "check_khz", "x86"]
