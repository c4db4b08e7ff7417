"""lab agree and lab migrate as a user mistypes them: one clear line, status 2, and no lab is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_command import guestclock_, told

SCENARIO = 'about = "a"\non = ["model"]\n[vm]\nvcpus = 1\n[[step]]\nguest = "read"\n'
BETWEEN = ("--from", "6.12", "--to", "6.12")


@pytest.fixture
def nowhere(tmp_path: Path) -> dict[str, str]:
    """No QEMU and no kernel: whoever starts a lab says so instead."""
    return {"PATH": str(tmp_path), "GUESTCLOCK_LAB_CACHE": str(tmp_path / "cache")}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("6.12", "threads/2023-masterclok"), "did you mean 'threads/2023-masterclock'?"),
        (("6.1", "bugs/arm64-writes-ignored", "--arch", "arm64"), "cannot be shown on lab:6.1, expected one of model"),
        (("6.12", "bugs/suspend-backwards-tsc"), "cannot be shown on lab:6.12, expected one of model"),
        (("6.12", "bugs/arm64-stale-cntvoff"), "bugs/arm64-stale-cntvoff: is arm64's, the lab's kernel is x86_64's"),
        (("6.12", "bugs/stale-page", "--arch", "arm64"), "bugs/stale-page: is x86_64's, the lab's kernel is arm64's"),
        (("6.12", "window", "--arch", "arm64"), "window: is x86's, the lab's kernel is arm64's"),
        (("6.12", "--arch", "mips"), "--arch mips: expected x86 or arm64"),
        (("6.12:cortex-a7", "bugs/arm64-stale-cntvoff"), "unknown CPU 'cortex-a7'"),
        (("six",), "expected a kernel like lab:6.12"),
        (("5.9", "bugs/stale-page"), "kernel 'linux-5.9' is unknown"),
    ],
)
def test_agree(arguments: tuple[str, ...], expected: str, nowhere: dict[str, str]) -> None:
    assert expected in told(guestclock_("lab", "agree", *arguments, **nowhere))


def test_agree_on_a_file_that_no_lab_can_show(tmp_path: Path, nowhere: dict[str, str]) -> None:
    own = tmp_path / "mine.toml"
    own.write_text(SCENARIO)
    line = told(guestclock_("lab", "agree", "6.12", own, **nowhere))
    assert line.endswith("mine.toml: cannot be shown on lab:6.12, expected one of model")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("qemu-stop-cont", *BETWEEN), "recipe 'qemu-stop-cont': it pauses and resumes: expected one that saves and"),
        (("kernel-doc-migrat", *BETWEEN), "recipe 'kernel-doc-migrat' is unknown (did you mean 'kernel-doc-migrate'?)"),
        (("nothing.py", *BETWEEN), "nothing.py: cannot be read: No such file or directory"),
        (("kernel-doc-migrate", "--from", "6.12:cortex-a72", "--to", "6.12"), "is an arm64 CPU, recipe 'kernel-doc-"),
        (("kernel-doc-migrate", "--from", "six", "--to", "6.12"), "--from six: expected a kernel like lab:6.12"),
        (("kernel-doc-migrate", "--from", "6.12", "--to", "5.9"), "kernel 'linux-5.9' is unknown"),
        (("kernel-doc-migrate", "--from", "6.12"), "missing option '--to'"),
        (("kernel-doc-migrate", *BETWEEN, "--skew", "5 parsecs"), "--skew: "),
        (("kernel-doc-migrate", *BETWEEN, "--away", "soon"), "--away: "),
        (("kernel-doc-migrate", *BETWEEN, "--vcpus", "0"), "--vcpus 0: expected at least 1"),
    ],
)
def test_migrate(arguments: tuple[str, ...], expected: str, nowhere: dict[str, str]) -> None:
    assert expected in told(guestclock_("lab", "migrate", *arguments, **nowhere))
