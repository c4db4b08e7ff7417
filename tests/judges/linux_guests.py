"""Guests that were run in the lab and written down: what was emitted inside, a JSON value a line.

python -m tests.judges.linux_guests    runs them again and writes them down anew
"""

from __future__ import annotations

import gzip
import json
import re
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from guestclock.judges.linux_guest import DEFAULT_AWAY_NS
from guestclock.lab import linux_guest
from guestclock.lab.linux_guest import CLOCKSOURCES, Ran

KERNEL = "6.12"
DATA = Path(__file__).parent / "data"
KEPT_OF_THE_LOG = re.compile(r"tsc:|clocksource:|Linux version")


SLEEP_NS = 60 * 10**9


def place(clocksource: str, sleeps: bool = False) -> Path:
    return DATA / f"linux-guest-{KERNEL}-{clocksource}{'-asleep' if sleeps else ''}.json.gz"


def said(clocksource: str, sleeps: bool = False) -> list[dict[str, Any]]:
    with gzip.open(place(clocksource, sleeps), "rt") as file:
        return [json.loads(line) for line in file]


@cache
def recorded(clocksource: str, sleeps: bool = False) -> Ran:
    """A guest of Debian's 6.12 on Debian's 6.12. sleeps: which sleeps for a minute, in S3."""
    return Ran.of(said(clocksource, sleeps))


def main() -> None:
    DATA.mkdir(exist_ok=True)
    for clocksource, sleeps in product(CLOCKSOURCES, (False, True)):
        away_ns = SLEEP_NS if sleeps else DEFAULT_AWAY_NS
        lines = linux_guest.emitted(KERNEL, KERNEL, clocksource, away_ns=away_ns, sleeps=sleeps, progress=print)
        for line in lines:
            if "console" in line:
                log = line["console"].splitlines(keepends=True)
                line["console"] = "".join(text for text in log if KEPT_OF_THE_LOG.search(text))
        with gzip.GzipFile(place(clocksource, sleeps), "w", mtime=0) as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines).encode())


if __name__ == "__main__":
    main()
