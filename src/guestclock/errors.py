"""What a user can get wrong or meet, told in one line; and what others can fail at."""

from __future__ import annotations


class UserError(Exception):
    """Bad input or a missing thing: the command prints `guestclock: <message>` and exits with status 2.

    The message names the file, field, device or capability first and then says what was expected.
    """


class Failure(Exception):
    """Something that was started did not do its work. The message may have several lines: evidence follows the first.

    The command prints `guestclock: <message>` and exits with status 1.
    """
