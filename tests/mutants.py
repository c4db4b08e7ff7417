"""Deliberate changes of the model and of the engine, each of which must make a test fail.

`python -m tests.mutants [NAME...]`; with `--share=1/12` every twelfth one.

A mutant is one edit of one file under src/guestclock. It is applied to a copy of the source, and the tests of that
floor run against the copy. A mutant that survives means that nothing checks the line it changes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.mutant_list import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Outcome:
    mutant: Mutant
    killer: str | None
    seconds: float


def mutated_source(mutant: Mutant, into: Path) -> None:
    """A copy of the source with the mutant's edit. The text to replace must stand in the file exactly once."""
    shutil.copytree(ROOT / "src" / "guestclock", into / "guestclock", ignore=shutil.ignore_patterns("__pycache__"))
    path = into / "guestclock" / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise SystemExit(f"mutant {mutant.name}: its text stands {text.count(mutant.old)} times in {mutant.file}")
    path.write_text(text.replace(mutant.old, mutant.new))


def run_tests(source: Path, tests: tuple[str, ...]) -> str | None:
    """The first failing test's line, or None if all pass."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "--tb=no", "-rfE"]
    command += ["-m", "not lab and not kvm", *tests]
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode == 0:
        return None
    if done.returncode not in (1, 2):
        raise SystemExit(f"pytest could not run ({done.returncode}):\n{done.stdout}{done.stderr}")
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0] if lines else "pytest failed"


def judge(mutant: Mutant) -> Outcome:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="guestclock-mutant-") as scratch:
        mutated_source(mutant, Path(scratch))
        killer = run_tests(Path(scratch), mutant.tests)
    return Outcome(mutant, killer, time.monotonic() - began)


def unmutated_passes(mutants: list[Mutant]) -> None:
    """Without this a mutant would be 'caught' by a test that fails anyway."""
    every = tuple(sorted({t for m in mutants for t in m.tests}))
    with tempfile.TemporaryDirectory(prefix="guestclock-mutant-") as scratch:
        shutil.copytree(ROOT / "src" / "guestclock", Path(scratch) / "guestclock")
        killer = run_tests(Path(scratch), every)
    if killer is not None:
        raise SystemExit(f"the unchanged source already fails: {killer}")


def main(names: list[str]) -> int:
    every, share = 1, [name for name in names if name.startswith("--share=1/")]
    if share:
        every = int(share[0].removeprefix("--share=1/"))
    named = [name for name in names if name not in share]
    chosen = [m for m in MUTANTS if not named or m.name in named][::every]
    unmutated_passes(chosen)
    survivors = 0
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for outcome in pool.map(judge, chosen):
            survivors += outcome.killer is None
            told = outcome.killer or "SURVIVED"
            print(f"{outcome.mutant.name:34} {outcome.seconds:5.1f} s  {told[:120]}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants were caught")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
