"""Mistakes a user can make or meet, told in one line."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or a missing thing: the command prints `guestclock: <message>` and exits with status 2.

    The message names the file, field, device or capability first and then says what was expected.
    """
