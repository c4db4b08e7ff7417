"""The properties that the checker asks about, a small object each."""

from guestclock.checks.questions import monotonic, policy, together

__all__ = ["monotonic", "policy", "together"]
