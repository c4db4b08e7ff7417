"""What a newcomer meets first."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("matplotlib", "numpy", "msgspec", "rich.table", "guestclock.kvm.model", "guestclock.lab")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['guestclock', '--help']\n"
        "from guestclock.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"
    assert "run" in done.stdout
