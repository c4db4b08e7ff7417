"""What commands print to: the page, and a line of progress."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console


def console() -> Console:
    from rich.console import Console

    from guestclock.report.show import PLAIN_WIDTH

    page = Console(highlight=False)
    return page if page.is_terminal or "COLUMNS" in os.environ else Console(highlight=False, width=PLAIN_WIDTH)


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """What runs now, on a terminal's stderr, and gone when it is over."""
    if not sys.stderr.isatty():
        yield lambda line: None
        return
    from rich.console import Console

    with Console(stderr=True, highlight=False).status("") as status:
        yield lambda line: status.update(line)
