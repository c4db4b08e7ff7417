"""A violation in a form that others read: a selftest in C, a Perfetto trace, a mail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from guestclock.checks.replay_file import ReplayFile
from guestclock.checks.story import Story
from guestclock.errors import UserError
from guestclock.scenario.quantity import did_you_mean

Writer = Callable[[ReplayFile, Story, str], str]
"""Text from a replay file, its story, and the file's name."""

FORMATS = ("selftest-c", "perfetto", "mail")


def writer(name: str) -> Writer:
    """Raises UserError for a format there is not."""
    if name == "selftest-c":
        from guestclock.report.export_selftest import selftest

        return selftest
    if name == "perfetto":
        from guestclock.report.export_perfetto import perfetto

        return perfetto
    if name == "mail":
        from guestclock.report.export_mail import mail

        return mail
    raise UserError(f"--to {name}: expected one of {', '.join(FORMATS)}{did_you_mean(name, FORMATS)}")


def exported(write: Writer, file: ReplayFile, path: Path, output: Path | None) -> None:
    """Runs the violation again and writes it; to stdout without a name. Raises UserError."""
    from guestclock.report.check import retold

    text = write(file, retold(file, str(path)), path.name)
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"-o {output}: cannot be written: {error.strerror}") from None
