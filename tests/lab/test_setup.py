from __future__ import annotations

import json
import re

import pytest

from guestclock.errors import UserError
from guestclock.lab import image
from guestclock.lab.debian import version_key
from guestclock.lab.setup import find_image, kernel_package_pattern, setup
from guestclock.lab.tools import cache_dir

NAMES = [
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
    ("kernel", "newest"),
    [
        ("6.1", "linux-image-6.1.0-56-cloud-amd64"),
        ("6.12", "linux-image-6.12.117+deb12-cloud-amd64"),
        ("6.18", "linux-image-6.18.15+deb13-cloud-amd64"),
    ],
)
def test_the_newest_signed_cloud_kernel_of_a_series_is_taken(kernel, newest):
    matching = [name for name in NAMES if re.fullmatch(kernel_package_pattern(kernel), name)]
    assert max(matching, key=version_key) == newest


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
    (directory / "manifest.json").write_text(json.dumps(manifest | {"recipe": image.RECIPE + 1}))
    assert find_image("6.12", cache=tmp_path) is None


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
