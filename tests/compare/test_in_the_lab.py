"""Random programs on Debian's unmodified kernels, x86 and arm64: the model agrees, a model with a mistake does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from guestclock.compare.session import Compared, Session, record
from tests.compare.tallies import tally
from tests.mutant_list import MUTANTS
from tests.mutants import mutated_source

pytestmark = pytest.mark.lab

PROGRAMS = 24
KERNELS = (("6.1", "x86_64"), ("6.12", "x86_64"), ("6.1", "arm64"), ("6.12", "arm64"))
JUDGED_ON = "6.12"
WRONG = {
    "x86_64": (
        "expectation-stands-still", "match-keeps-the-asked-for-offset", "generation-keeps-its-count",
        "matched-count-misses-the-reference", "update-without-new-pages", "rejoining-counts-twice",
    ),
    "arm64": (
        "creation-resets-a-given-offset", "a-given-offset-is-written-over", "offset-without-the-flag",
        "busy-only-in-the-guest", "cval-loaded-as-it-is", "load-without-traps",
    ),
}  # fmt: skip
"""Mutants whose mistake these programs come upon more than once."""


class Played:
    """Each kernel's programs, run once in a session."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.played: dict[tuple[str, str], tuple[list[Compared], Path]] = {}

    def on(self, kernel: str, arch: str) -> tuple[list[Compared], Path]:
        """The programs with what they came to, and a recording of them."""
        if (kernel, arch) not in self.played:
            session = Session(kernel, arch, shrink_runs=0, tally=tally(f"lab:{kernel}, {arch}"))
            compared = list(session.run(range(PROGRAMS)))
            recording = self.directory / f"{arch}-{kernel}.gz"
            record(session, compared, recording)
            self.played[kernel, arch] = compared, recording
        return self.played[kernel, arch]


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return Played(tmp_path_factory.mktemp("recordings"))


@pytest.mark.parametrize(("kernel", "arch"), KERNELS)
def test_model_and_kernel_agree(kernel: str, arch: str, played: Played) -> None:
    compared, _ = played.on(kernel, arch)
    differences = [f"seed {c.seed}: {d}" for c in compared for d in c.verdict.differences]
    assert not differences, "\n".join(differences[:20])
    assert all(c.verdict.exact > 100 for c in compared), "next to nothing was compared"


@pytest.mark.parametrize(("arch", "name"), [(arch, name) for arch, names in WRONG.items() for name in names])
def test_a_wrong_model_is_told_from_the_kernel(arch: str, name: str, played: Played, tmp_path: Path) -> None:
    _, recording = played.on(JUDGED_ON, arch)
    (mutant,) = (m for m in MUTANTS if m.name == name)
    mutated_source(mutant, tmp_path)
    assert judged(recording, arch, tmp_path)["different"] > 1


@pytest.mark.parametrize("arch", WRONG)
def test_the_right_one_is_not(arch: str, played: Played, tmp_path: Path) -> None:
    _, recording = played.on(JUDGED_ON, arch)
    assert judged(recording, arch, None, status=0)["programs"] == PROGRAMS


def judged(recording: Path, arch: str, source: Path | None, status: int = 1) -> dict:
    """What `lab compare --recorded` says with the model of this source."""
    command = [sys.executable, "-m", "guestclock", "lab", "compare", JUDGED_ON, "--recorded", str(recording), "--json"]
    command += ["--arch", arch.removesuffix("_64"), "--out", str(recording.parent / "out")]
    environment = os.environ if source is None else {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout[-500:] + done.stderr
    return json.loads(done.stdout)
