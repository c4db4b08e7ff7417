"""A new snapshot is asked for between two stretches of the guest's life, and no clock is meant to change.

KVM_SET_CLOCK is what 5.4 has to ask with.
"""

from __future__ import annotations

from guestclock.corpus.recipes.get_and_set import pause, resume

POLICY = {"tsc": "run", "kvmclock": "freeze"}

__all__ = ["pause", "resume"]
