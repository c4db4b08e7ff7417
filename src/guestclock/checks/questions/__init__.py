"""The properties that the checker asks about, a small object each."""

from guestclock.checks.questions import (
    last_value,
    monotonic,
    pages,
    pairing,
    policy,
    rates,
    restore,
    together,
)

__all__ = ["last_value", "monotonic", "pages", "pairing", "policy", "rates", "restore", "together"]
