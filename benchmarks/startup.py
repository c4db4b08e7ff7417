"""`guestclock --help`, against an interpreter that does nothing."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from benchmarks.measure import side_by_side


def process(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    bare_s, help_s = side_by_side(
        partial(process, "-c", "pass"), partial(process, "-m", "guestclock", "--help"), rounds=9
    )
    print(f"start-up         python -c pass {bare_s:.3f} s   guestclock --help {help_s:.3f} s (aim 0.3)   "
          f"{help_s / bare_s:.1f} times")  # fmt: skip


if __name__ == "__main__":
    main()
