"""docs/recipes.md says what is so: its recipes are the files, its messages the ones that are told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from guestclock.errors import UserError
from guestclock.kvm.api import KvmError
from guestclock.kvm.model import lookup
from guestclock.kvm.model.arm64.kernels import KERNELS as ARM64_KERNELS
from guestclock.kvm.model.x86.kernels import KERNELS
from guestclock.scenario.snapshot_file import decode, encode
from guestclock.vmm.recipe import Recipe, blame, load, names
from guestclock.vmm.snapshot import ARM64
from tests.vmm import world_arm64
from tests.vmm.world import Operation, on_model, wrong

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "recipes.md").read_text()
EXAMPLES = [ROOT / "examples" / name for name in ("pause_for_backup.py", "fork_sandbox.py")]
ROWS = [[c.strip() for c in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]


def fenced(language: str) -> list[str]:
    return [text for tag, text in re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.M | re.S) if tag == language]


def test_the_examples_are_quoted_whole() -> None:
    assert fenced("py") == [path.read_text() for path in EXAMPLES]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
@pytest.mark.parametrize("vcpus", [1, 3])
def test_the_examples_do_what_they_say(path: Path, vcpus: int) -> None:
    recipe = load(str(path))
    told = on_model(Operation(recipe, vcpus=vcpus).run, "linux-6.12")
    assert wrong(told, dict(recipe.policy)) == []


def listed() -> dict[str, list[str]]:
    return {row[0].strip("`"): row[1:] for row in ROWS if len(row) == 5}


def test_every_recipe_is_listed_with_its_policy() -> None:
    shown = {name: (first, second, about) for name, (first, second, _, about) in listed().items()}
    assert shown == {name: (*load(name).policy.values(), about) for name, about in names().items()}


def runs(recipe: Recipe, kernel: str) -> bool:
    if recipe.arch == ARM64:
        return world_arm64.refusal(recipe, kernel) is None
    try:
        on_model(Operation(recipe).run, kernel)
    except KvmError as refusal:
        return refusal.errno not in ("EINVAL", "ENOTTY")
    return True


@pytest.mark.parametrize("name", names())
def test_since_is_the_first_kernel_with_its_calls(name: str) -> None:
    """Of the profiles: a version between two of them is one that the newer has and the older has not."""
    since = listed()[name][2]
    recipe = load(name)
    if since.startswith("overlay"):
        latest = "linux-6.12-arm64" if recipe.arch == ARM64 else "linux-6.12"
        assert not runs(recipe, latest)
        assert runs(recipe, latest + since.split("`")[1])
        return
    versions = [k for k in (ARM64_KERNELS if recipe.arch == ARM64 else KERNELS) if k.startswith("linux-")]
    first = next(k for k in versions if runs(recipe, k))
    if name == "best-before-5.16":  # a zero means "in sync" since then: older kernels carry it out, and are wrong
        first = "linux-4.12"
        assert lookup("linux-3.19").tsc_matching is not lookup("linux-4.12").tsc_matching
        assert wrong(on_model(Operation(recipe).run, "linux-3.19"), dict(recipe.policy))
    if since == "any":
        assert first == versions[0]
        return
    before = versions[versions.index(first) - 1]
    assert number(before) < number(f"linux-{since}") <= number(first)


def number(kernel: str) -> tuple[int, ...]:
    return tuple(int(part) for part in kernel.removeprefix("linux-").removesuffix("-arm64").split("."))


# ---- messages

LOADING = [
    '"""."""\n\nasync def pause(vm:\n',
    "\nasync def save(vm): pass\n\n\nasync def restor(vm, snapshot): pass\n",
    "\nPOLICY = {'tsc': 'freze'}\nasync def pause(vm): pass\nasync def resume(vm): pass\n",
    "async def save(vm):\n    pass\n\n\ndef restore(vm, snapshot):\n    pass\n",
]
RUNNING = """async def save(vm):
    pass


async def restore(vm, snapshot):
    await vm.vcpus[0].set_tsc_offset(0)
"""


def told_by(block: str) -> list[str]:
    return [line.removeprefix("guestclock: ") for line in block.splitlines()]


def test_mistakes_are_told_as_the_page_tells_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = []
    for text in LOADING:
        Path("my.py").write_text(text)
        with pytest.raises(UserError) as mistake:
            load("my.py")
        told.append(str(mistake.value))
    Path("my.py").write_text(RUNNING)
    recipe = load("my.py")
    with pytest.raises(Exception, match="EINVAL") as raised:
        on_model(Operation(recipe).run, "linux-5.15")
    told.append(str(blame(recipe, raised.value)))
    assert told_by(fenced("")[0]) == told


def test_refusals_are_told_as_the_page_tells_them() -> None:
    shown, of_arm64 = fenced("json")
    snapshot = decode(shown.encode(), "snap.json")
    assert encode(snapshot) == shown.encode()
    assert encode(decode(of_arm64.encode(), "snap.json", arch=ARM64)) == of_arm64.encode()
    without = json.loads(shown)
    del without["vcpus"][0]["tsc"]
    told = []
    for data in (
        shown.replace('"guestclock_snapshot": 1', '"guestclock_snapshot": 3'),
        shown.replace('"guestclock_snapshot": 1', '"guestclock_snapshot": 2'),
        shown.replace('"x86_64"', '"arm64"'),
        json.dumps(without),
        shown.replace('"clock_ns": 1', '"clock_ns": 2'),
    ):
        with pytest.raises(UserError) as mistake:
            decode(data.encode(), "snap.json")
        told.append(str(mistake.value))
    assert told_by(fenced("")[1]) == told


def test_every_field_of_the_file_is_described() -> None:
    described = " ".join(cell for row in ROWS if len(row) == 2 for cell in row)

    def keys(value: object) -> set[str]:
        if isinstance(value, dict):
            return set(value) | {key for inner in value.values() for key in keys(inner)}
        return {key for inner in value for key in keys(inner)} if isinstance(value, list) else set()

    fields = set().union(*(keys(json.loads(text)) for text in fenced("json")))
    assert {key for key in fields if f"`{key}`" not in described} == set()
