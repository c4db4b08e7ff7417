from __future__ import annotations

import json
import marshal
import platform
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from guestclock.errors import UserError
from guestclock.lab import emulator, image
from guestclock.lab.arch import ARM64, X86, arch_of
from guestclock.lab.debian import Archive, version_key
from guestclock.lab.setup import Archives, _fetched, find_image, kernel_package_pattern, setup
from guestclock.lab.tools import cache_dir

NAMES = [
    "linux-image-6.1.0-58-cloud-arm64",
    "linux-image-6.1.0-58-cloud-arm64-dbg",
    "linux-image-6.12-cloud-arm64",
    "linux-image-6.12.119+deb12-cloud-arm64",
    "linux-image-6.12.120+deb12-arm64",
    "linux-image-6.12.120+deb12-cloud-arm64-unsigned",
    "linux-image-6.1.0-9-cloud-amd64",
    "linux-image-6.1.0-56-cloud-amd64",
    "linux-image-6.1.0-57-cloud-amd64-dbg",
    "linux-image-6.1.0-57-cloud-amd64-unsigned",
    "linux-image-6.12-cloud-amd64",
    "linux-image-6.12.9+bpo-cloud-amd64",
    "linux-image-6.12.100+deb12-cloud-amd64",
    "linux-image-6.12.117+deb12-cloud-amd64",
    "linux-image-6.12.118+deb12-amd64",
    "linux-image-6.18.15+deb13-cloud-amd64",
    "linux-image-cloud-amd64",
]


@pytest.mark.parametrize(
    ("arch", "kernel", "newest"),
    [
        (X86, "6.1", "linux-image-6.1.0-56-cloud-amd64"),
        (X86, "6.12", "linux-image-6.12.117+deb12-cloud-amd64"),
        (X86, "6.18", "linux-image-6.18.15+deb13-cloud-amd64"),
        (ARM64, "6.1", "linux-image-6.1.0-58-cloud-arm64"),
        (ARM64, "6.12", "linux-image-6.12.119+deb12-cloud-arm64"),
    ],
)
def test_the_newest_signed_cloud_kernel_of_a_series_is_taken(arch, kernel, newest):
    matching = [name for name in NAMES if re.fullmatch(kernel_package_pattern(kernel, arch), name)]
    assert max(matching, key=version_key) == newest


def test_what_an_image_is_made_of_is_taken_for_its_architecture(tmp_path):
    for name in ("libc6_2.36-9_amd64.deb", "libc6_2.36-9_arm64.deb", "libc6-dev_2.36-9_arm64.deb"):
        (tmp_path / name).touch()
    for architecture in ("amd64", "arm64"):
        archive = Archive(tmp_path, print, architecture)
        assert _fetched(archive, "libc6", tmp_path).name == f"libc6_2.36-9_{architecture}.deb"


def test_an_architecture_is_one_that_there_is():
    assert [arch_of(name) for name in ("x86", "arm64")] == [X86, ARM64]
    with pytest.raises(UserError, match="lab: architecture 'riscv': expected x86 or arm64"):
        arch_of("riscv")


def python_packages(root: Path) -> Path:
    """What of them `interpreter` looks for."""
    for name in (image.PYTHON, "lib/ld-linux-x86-64.so.2", *(f"usr/lib/{name}" for name in image.LIBRARIES)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_bytecode_is_made_by_the_python_that_runs_inside_or_by_another_3_11(monkeypatch, tmp_path):
    inside, spare = python_packages(tmp_path / "inside"), python_packages(tmp_path / "spare")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert image.interpreter(X86, inside, spare)[-1] == str(inside / image.PYTHON)
    assert image.interpreter(ARM64, inside, spare)[-1] == str(spare / image.PYTHON)
    monkeypatch.setattr(sys, "version_info", (3, 11, 7))
    assert image.interpreter(ARM64, inside, tmp_path / "none") == [sys.executable]
    monkeypatch.setattr(sys, "version_info", (3, 12, 0))
    assert image.interpreter(ARM64, inside, tmp_path / "none") is None
    assert image.compile_tree(None, tmp_path, "/", in_place=True) is False


def test_what_is_compiled_here_names_the_place_inside_and_never_asks_for_its_source(tmp_path):
    (tmp_path / "one.py").write_text("def where():\n    return where.__code__.co_filename\n")
    assert image.compile_tree([sys.executable], tmp_path, "/inside", in_place=True)
    compiled = (tmp_path / "one.pyc").read_bytes()
    assert int.from_bytes(compiled[4:8], "little") == 0b01, "a hash that is not checked"
    names: dict[str, object] = {}
    exec(marshal.loads(compiled[16:]), names)
    assert names["where"]() == "/inside/one.py"


def test_module_dependencies_are_what_the_module_says():
    assert image.module_dependencies(b"\0license=GPL\0depends=kvm,irq-bypass\0retpoline=Y\0") == ["kvm", "irq_bypass"]
    assert image.module_dependencies(b"\0license=GPL\0depends=\0retpoline=Y\0") == []


def test_modules_are_loaded_after_what_they_need(tmp_path):
    for name, needs in {"kvm-amd": "kvm", "kvm": "irqbypass", "irqbypass": ""}.items():
        (tmp_path / f"{name}.ko").write_bytes(f"\0depends={needs}\0".encode())
    assert list(image.load_order(tmp_path, ["kvm_amd"])) == ["irqbypass", "kvm", "kvm_amd"]


def test_an_image_of_another_recipe_is_not_used(tmp_path):
    directory = tmp_path / "images" / "6.12"
    directory.mkdir(parents=True)
    manifest = {"recipe": image.RECIPE, "package": "linux-image-6.12.117", "base_sha256": "00"}
    (directory / "manifest.json").write_text(json.dumps(manifest))
    assert find_image("6.12", cache=tmp_path) is not None
    assert find_image("6.12", cache=tmp_path, arch=ARM64) is None
    (directory / "manifest.json").write_text(json.dumps(manifest | {"recipe": image.RECIPE + 1}))
    assert find_image("6.12", cache=tmp_path) is None


@pytest.mark.parametrize(("on_path", "in_cache", "linux_guest", "fetched"), [
    (True, False, False, 0),
    (True, False, True, 1),  # what is on PATH is not taken inside
    (True, True, True, 0),
    (False, True, True, 0),
    (False, False, True, 1),
    (False, False, False, 1),
])  # fmt: skip
def test_qemu_is_fetched_where_it_is_needed(on_path, in_cache, linux_guest, fetched, monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(emulator, "find", lambda *_: ["qemu"] if on_path or in_cache else None)
    monkeypatch.setattr(emulator, "find_fetched", lambda *_: SimpleNamespace() if in_cache else None)
    monkeypatch.setattr(emulator, "fetch", lambda *_: calls.append(1) or SimpleNamespace(package="qemu"))
    monkeypatch.setattr(Archives, "of", lambda *_: None)
    assert setup([], cache=tmp_path, progress=lambda line: None, linux_guest=linux_guest) == []
    assert len(calls) == fetched


def test_the_cache_may_be_put_anywhere(monkeypatch, tmp_path):
    monkeypatch.setenv("GUESTCLOCK_LAB_CACHE", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    monkeypatch.delenv("GUESTCLOCK_LAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "guestclock" / "lab"


def test_without_apt_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(UserError, match=r"^lab: \S+ not found \(Debian package (apt|dpkg)\)$"):
        setup(["6.12"], cache=tmp_path, progress=lambda line: None)


def test_a_cache_that_is_no_directory_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GUESTCLOCK_LAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="file: expected a directory"):
        find_image("6.12")
    monkeypatch.setenv("GUESTCLOCK_LAB_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(UserError, match="below cannot be made: Not a directory"):
        setup(["6.12"], progress=lambda _: None)
