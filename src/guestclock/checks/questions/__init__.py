"""The properties that the checker asks about, a small object each."""

from guestclock.checks.questions import (
    counters,
    deadline,
    last_value,
    monotonic,
    pages,
    pairing,
    policy,
    rates,
    restore,
    stable,
    together,
)

__all__ = [
    "counters",
    "deadline",
    "last_value",
    "monotonic",
    "pages",
    "pairing",
    "policy",
    "rates",
    "restore",
    "stable",
    "together",
]
