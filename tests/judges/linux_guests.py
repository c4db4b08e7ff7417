"""Guests that were run in the lab and written down: what was emitted inside, a JSON value a line.

python -m tests.judges.linux_guests    runs them again and writes them down anew
"""

from __future__ import annotations

import gzip
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from guestclock.judges.linux_guest import DEFAULT_AWAY_NS
from guestclock.lab import linux_guest
from guestclock.lab.linux_guest import CLOCKSOURCES, Ran

KERNEL = "6.12"
DATA = Path(__file__).parent / "data"
KEPT_OF_THE_LOG = re.compile(r"tsc:|clocksource:|Linux version")


def place(clocksource: str) -> Path:
    return DATA / f"linux-guest-{KERNEL}-{clocksource}.json.gz"


def said(clocksource: str) -> list[dict[str, Any]]:
    with gzip.open(place(clocksource), "rt") as file:
        return [json.loads(line) for line in file]


@cache
def recorded(clocksource: str) -> Ran:
    """A guest of Debian's 6.12 on Debian's 6.12."""
    return Ran.of(said(clocksource))


def main() -> None:
    DATA.mkdir(exist_ok=True)
    for clocksource in CLOCKSOURCES:
        lines = linux_guest.emitted(KERNEL, KERNEL, clocksource, away_ns=DEFAULT_AWAY_NS, progress=print)
        for line in lines:
            if "console" in line:
                log = line["console"].splitlines(keepends=True)
                line["console"] = "".join(text for text in log if KEPT_OF_THE_LOG.search(text))
        with gzip.GzipFile(place(clocksource), "w", mtime=0) as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines).encode())


if __name__ == "__main__":
    main()
