from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from guestclock.errors import UserError
from guestclock.lab import Lab, emulator
from guestclock.lab.arch import ARM64, X86, Arch
from guestclock.lab.debian import Archive
from guestclock.lab.setup import setup

MANIFEST = {"recipe": emulator.RECIPE, "package": "qemu-system-x86_7.2", "libraries": ["lib", "usr/lib"]}


def fetched(cache: Path, arch: Arch = X86, **changed: object) -> None:
    place = cache / arch.kept("qemu")
    place.mkdir(parents=True)
    (place / "manifest.json").write_text(json.dumps(MANIFEST | changed))


@pytest.fixture
def nothing_on_path(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.mark.parametrize("arch", [X86, ARM64])
def test_the_one_on_path_comes_first(monkeypatch, tmp_path, arch):
    fetched(tmp_path, arch)
    installed = tmp_path / "bin" / arch.qemu
    installed.parent.mkdir()
    installed.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(installed.parent))
    assert emulator.command(tmp_path, arch) == [str(installed)]


def test_a_fetched_one_is_started_through_its_own_loader(nothing_on_path, tmp_path):
    fetched(tmp_path)
    root = tmp_path / "qemu"
    assert emulator.command(tmp_path) == [
        f"{root}/usr/bin/ld-linux-x86-64.so.2", "--library-path", f"{root}/lib:{root}/usr/lib",
        f"{root}/usr/bin/qemu-system-x86_64", "-L", f"{root}/usr/share/qemu", "-L", f"{root}/usr/share/seabios",
    ]  # fmt: skip


def test_each_architecture_has_a_place_and_a_program_of_its_own(nothing_on_path, tmp_path):
    fetched(tmp_path)
    assert emulator.find(tmp_path, ARM64) is None
    fetched(tmp_path, ARM64)
    root = tmp_path / "arm64-qemu"
    assert emulator.command(tmp_path, ARM64)[3:] == [
        f"{root}/usr/bin/qemu-system-aarch64", "-L", f"{root}/usr/share/qemu",
    ]  # fmt: skip
    assert emulator.command(tmp_path)[3] == f"{tmp_path}/qemu/usr/bin/qemu-system-x86_64"


def test_one_of_another_recipe_is_not_used(nothing_on_path, tmp_path):
    fetched(tmp_path, recipe=emulator.RECIPE + 1)
    assert emulator.find(tmp_path) is None


def test_without_any_it_is_said_what_is_missing_and_what_fetches_it(nothing_on_path, monkeypatch, tmp_path):
    monkeypatch.setenv("GUESTCLOCK_LAB_CACHE", str(tmp_path))
    with pytest.raises(UserError) as raised:
        Lab("6.12").run({"program": "probe"})
    assert str(raised.value) == (
        "lab: qemu-system-x86_64 not found (Debian package qemu-system-x86): install it, "
        "or have it fetched: run 'guestclock lab setup'"
    )
    with pytest.raises(UserError) as raised:
        emulator.command(arch=ARM64)
    assert str(raised.value) == (
        "lab: qemu-system-aarch64 not found (Debian package qemu-system-arm): install it, "
        "or have it fetched: run 'guestclock lab setup --arch arm64'"
    )


def test_it_is_fetched_for_the_machine_that_it_runs_on(monkeypatch, tmp_path):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(UserError, match="can be fetched for Linux on x86-64 only"):
        emulator.fetch(Archive(tmp_path, print), tmp_path)


@pytest.mark.lab
def test_a_fetched_qemu_shows_what_the_installed_one_shows(monkeypatch, tmp_path):
    """To the last bit, where the two are of one version."""
    installed = shutil.which(X86.qemu)
    if installed is None:
        pytest.skip("no qemu-system-x86_64 is installed: every test of the lab runs on a fetched one")
    setup(["6.12"])
    shown = Lab("6.12").run({"program": "probe"})
    for directory in reversed(os.get_exec_path()):
        for program in Path(directory).glob("*"):
            if not program.name.startswith("qemu"):
                (tmp_path / program.name).unlink(missing_ok=True)
                (tmp_path / program.name).symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path))
    setup(["6.12"])
    assert emulator.command()[0].endswith("/qemu/usr/bin/ld-linux-x86-64.so.2")
    shown_by_fetched = Lab("6.12").run({"program": "probe"})
    if version([installed]) == version(emulator.command()):
        assert shown_by_fetched == shown
    else:
        assert [line["fact"] for line in shown_by_fetched] == [line["fact"] for line in shown]


def version(command: list[str]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
