"""The loader: what it takes, and every mistake told in one line that names the file and the line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from guestclock.errors import UserError
from guestclock.kvm.api import KvmError, SetTscOffset, Wait, drive
from guestclock.vmm.clocks import clocks_of
from guestclock.vmm.recipe import BUILT_IN, Recipe, blame, load, names

PAIR = "async def pause(vm): pass\nasync def resume(vm): pass\n"


def write(place: Path, text: str, name: str = "my.py") -> str:
    path = place / name
    path.write_text(text)
    return str(path)


# ---- what is loaded


@pytest.mark.parametrize("name", names())
def test_every_built_in_recipe_says_what_it_does_where_it_was_seen_and_what_it_means_to_do(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    assert recipe.headline == names()[name]
    assert recipe.headline.endswith(".")
    assert recipe.seen
    assert tuple(recipe.policy) == clocks_of(recipe.arch)


@pytest.mark.parametrize("name", names())
def test_what_does_better_is_there_and_of_the_same_architecture(name: str) -> None:
    recipe = load(name)
    better, _, why = recipe.fix.partition(": ")
    if recipe.fix:
        assert load(better).arch == recipe.arch
        assert why


def test_recipes_by_architecture() -> None:
    assert set(names()) == set(names("x86_64")) | set(names("arm64"))
    assert {"arm64-by-value", "broadcast-2021-v2"} <= set(names("arm64"))
    assert "kernel-doc-migrate" not in names("arm64")


def test_every_file_has_its_name() -> None:
    assert len(names()) == len(list(BUILT_IN.glob("*.py"))) - 1
    assert {"qemu-stop-cont", "best-since-5.16", "kernel-doc-migrate"} <= set(names())


def test_a_users_own_file_is_loaded_by_its_path(tmp_path: Path) -> None:
    path = write(tmp_path, '"""Mine.\n\nMore."""\nSEEN = "here"\nPOLICY = {"tsc": "run"}\n' + PAIR)
    recipe = load(path)
    assert (recipe.name, recipe.headline, recipe.about) == (path, "Mine.", "Mine.\n\nMore.")
    assert (recipe.seen, dict(recipe.policy), recipe.path) == ("here", {"tsc": "run"}, Path(path))
    assert recipe.pause is not None
    assert recipe.create is None
    assert recipe.save is None


def test_a_recipe_for_arm64_says_so(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, "ARCH = 'arm64'\nPOLICY = {'cntvct': 'run'}\n" + PAIR))
    assert (recipe.arch, dict(recipe.policy)) == ("arm64", {"cntvct": "run"})
    assert load(write(tmp_path, PAIR)).arch == "x86_64"


def test_docstring_seen_and_policy_may_be_left_out(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, PAIR))
    assert (recipe.about, recipe.seen, dict(recipe.policy)) == ("", "", {})


def test_a_pause_alone_goes_with_save_and_restore(tmp_path: Path) -> None:
    text = "async def pause(vm): pass\nasync def save(vm): pass\nasync def restore(vm, snapshot): pass\n"
    recipe = load(write(tmp_path, text))
    assert recipe.pause is not None
    assert recipe.resume is None


def test_names_and_extra_defaults_are_the_users_own_affair(tmp_path: Path) -> None:
    text = "async def save(machine, *, slow=False): pass\nasync def restore(machine, image, how=None): pass\n"
    assert load(write(tmp_path, text)).restore is not None


def test_loading_leaves_nothing_behind(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Mine:\n    tsc: int\n" + PAIR
    )
    before = set(sys.modules)
    load(write(tmp_path, text, "json.py"))
    load(write(tmp_path, text, "api.py"))
    import json

    assert json.__file__ is not None
    assert "my" not in Path(json.__file__).parts
    assert set(sys.modules) == before
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["api.py", "json.py"]


def test_a_file_is_read_anew_each_time(tmp_path: Path) -> None:
    path = write(tmp_path, '"""One."""\n' + PAIR)
    assert load(path).about == "One."
    write(tmp_path, '"""Two."""\n' + PAIR)
    assert load(path).about == "Two."


def test_recipes_load_with_the_standard_library_alone() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(BUILT_IN.parents[2])!r}); "
        "from guestclock.vmm.recipe import load, names; print(len([load(n) for n in names()]))"
    )
    done = subprocess.run([sys.executable, "-S", "-E", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{len(names())}\n"), done.stderr


# ---- mistakes

MISTAKES = {
    "async def pause(vm:\n": "my.py:1: not Python: '(' was never closed",
    "x = 1\nasync def pause(vm): pass\n  y = 2\n": "my.py:3: not Python: unexpected indent",
    "x = 'a\0b'\n": "my.py:1: not Python: source code string cannot contain null bytes",
    "": "my.py:1: expected 'async def pause' and 'resume', or 'async def save' and 'restore'",
    "async def create(host, vcpus, snapshot): pass\n": (
        "my.py:1: expected 'async def pause' and 'resume', or 'async def save' and 'restore'"
    ),
    "import os\nasync def save(vm): pass\n": "my.py:2: save: there is no 'restore' to go with it",
    "async def save(vm): pass\n\nasync def restor(vm, snapshot): pass\n": (
        "my.py:1: save: there is no 'restore' to go with it ('restor' on line 3: did you mean that?)"
    ),
    "async def resume(vm): pass\n": "my.py:1: resume: there is no 'pause' to go with it",
    "async def pause(vm): pass\ndef resume(vm): pass\n": "my.py:2: resume: expected 'async def resume(vm)'",
    "async def pause(vm): pass\nresume = 3\n": "my.py:2: resume: expected 'async def resume(vm)'",
    "async def pause(vm): pass\nasync def resume(vm):\n    yield\n": "my.py:2: resume: expected 'async def resume(vm)'",
    "async def save(vm): pass\nasync def restore(snapshot): pass\n": (
        "my.py:2: restore: restore(snapshot) cannot take (vm, snapshot)"
    ),
    "async def pause(vm, how): pass\nasync def resume(vm): pass\n": "my.py:1: pause: pause(vm, how) cannot take (vm)",
    PAIR + "async def create(host): pass\n": "my.py:3: create: create(host) cannot take (host, vcpus, snapshot)",
    PAIR + "POLICY = 'freeze'\n": (
        "my.py:3: POLICY: 'freeze', expected a dict like {\"tsc\": \"freeze\", \"kvmclock\": \"freeze\"}"
    ),
    PAIR + "POLICY = {'tsc': 'freze'}\n": "my.py:3: POLICY: tsc: 'freze' (did you mean 'freeze'?)",
    PAIR + "POLICY = {'tsc': 1}\n": "my.py:3: POLICY: tsc: 1, expected run, freeze or advance",
    PAIR + "POLICY: dict = {'kvm-clock': 'run'}\n": (
        "my.py:3: POLICY: unknown clock 'kvm-clock' (did you mean 'kvmclock'?)"
    ),
    PAIR + "POLICY = {'tai': 'run'}\n": "my.py:3: POLICY: unknown clock 'tai', expected tsc or kvmclock",
    PAIR + "ARCH = 'arm'\n": "my.py:3: ARCH: 'arm' (did you mean 'arm64'?)",
    PAIR + "ARCH = 64\n": "my.py:3: ARCH: 64, expected x86_64 or arm64",
    PAIR + "ARCH = 'arm64'\nPOLICY = {'tsc': 'run'}\n": (
        "my.py:4: POLICY: unknown clock 'tsc', expected cntvct or cntpct"
    ),
    PAIR + "ARCH = 'arm64'\nPOLICY = 'freeze'\n": (
        "my.py:4: POLICY: 'freeze', expected a dict like {\"cntvct\": \"freeze\", \"cntpct\": \"freeze\"}"
    ),
    PAIR + "SEEN = 2026\n": "my.py:3: SEEN: 2026, expected text: source and date",
    PAIR + "import nothing_of_that_name\n": "my.py:3: ModuleNotFoundError: No module named 'nothing_of_that_name'",
    PAIR + "def f():\n    return 1 // 0\nf()\n": "my.py:4: ZeroDivisionError: integer division or modulo by zero",
    PAIR + "raise SystemExit(3)\n": "my.py:3: SystemExit: 3",
    PAIR + "import json\n\njson.loads('')\n": (
        "my.py:5: JSONDecodeError: Expecting value: line 1 column 1 (char 0)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_told_in_one_line_with_its_place(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, text)
    before = set(sys.modules)
    with pytest.raises(UserError) as mistake:
        load("my.py")
    assert str(mistake.value) == MISTAKES[text]
    assert set(sys.modules) == before


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.py: cannot be read: No such file or directory$"):
        load(str(tmp_path / "gone.py"))
    (tmp_path / "latin.py").write_bytes(b"# a\n# caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.py:2: not UTF-8 text \(byte 9\)$"):
        load(str(tmp_path / "latin.py"))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("qemu-stopcont", "qemu-stop-cont"), ("firecraker-restore", "firecracker-restore"),
        ("qemu_stop_cont", "qemu-stop-cont"), ("best-since-5-16", "best-since-5.16"),
    ],
)  # fmt: skip
def test_unknown_names_are_told_what_comes_close(name: str, meant: str) -> None:
    with pytest.raises(UserError) as mistake:
        load(name)
    assert str(mistake.value) == f"recipe {name!r} is unknown (did you mean {meant!r}?)"


@pytest.mark.parametrize("name", ["", "xyzzy", "--init--", "../recipe", "__init__"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(UserError, match=r"is unknown, expected one of .*best-before-5\.16, .*, or FILE\.py$"):
        load(name)


# ---- mistakes while it runs


def running(place: Path, body: str, refuse: type[BaseException] | None = None) -> tuple[Recipe, BaseException]:
    """The recipe, and what came out of its `restore`, whose lines begin at 5."""
    text = (
        "from guestclock.kvm.api import Vm\nasync def save(vm): pass\n\n"
        f"async def restore(vm, snapshot):\n{body}\n\ndef helper(x):\n    return x // 0\n"
    )
    recipe = load(write(place, text))
    assert recipe.restore is not None

    def execute(op: object) -> None:
        if isinstance(op, SetTscOffset):
            raise KvmError("EINVAL", op, "KVM_VCPU_TSC_OFFSET exists since 5.16")
        if isinstance(op, Wait):
            raise UserError("Wait: -1 ns, expected 0 or more")

    from guestclock.kvm.api import Vcpu, Vm

    vm = Vm(0)
    vm.vcpus = [Vcpu(0, 0), Vcpu(0, 1)]
    with pytest.raises(Exception) as raised:
        drive(recipe.restore(vm, None), execute)
    return recipe, raised.value


BODIES = {
    "    x = 1\n    await vm.vcpus[1].set_tsc_offset(3)": (
        "6: restore: vCPU 1: SetTscOffset: EINVAL (KVM_VCPU_TSC_OFFSET exists since 5.16)"
    ),
    "    return 3 // 0": "5: restore: ZeroDivisionError: integer division or modulo by zero",
    "    helper(3)": "8: helper: ZeroDivisionError: integer division or modulo by zero",
    "    return snapshot.vcpus": "5: restore: AttributeError: 'NoneType' object has no attribute 'vcpus'",
    "    assert vm is None": "5: restore: AssertionError",
    "    raise ValueError('two\\nlines')": "5: restore: ValueError: two",
    "    from guestclock.kvm.api import Wait\n    await Wait(-1)": "6: restore: Wait: -1 ns, expected 0 or more",
    "    from guestclock.kvm.api import Wait\n    try:\n        await Wait(-1)\n    except Exception: return": (
        "7: restore: Wait: -1 ns, expected 0 or more"
    ),
    "    import json\n    json.loads('')": (
        "6: restore: JSONDecodeError: Expecting value: line 1 column 1 (char 0)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_an_exception_while_it_runs_is_told_with_the_recipes_innermost_line(body: str, tmp_path: Path) -> None:
    recipe, error = running(tmp_path, body)
    assert str(blame(recipe, error)) == f"{recipe.name}:{BODIES[body]}"


def test_a_built_in_recipe_is_blamed_by_its_files_name() -> None:
    recipe = load("offset-restore")
    assert recipe.save is not None

    def refuse(op: object) -> None:
        raise KvmError("ENOTTY", op)  # type: ignore[arg-type]

    from guestclock.kvm.api import Vm

    with pytest.raises(KvmError) as raised:
        drive(recipe.save(Vm(0)), refuse)  # type: ignore[arg-type]
    line = next(n for n, text in enumerate(recipe.path.read_text().splitlines(), 1) if "vm.get_clock()" in text)
    assert str(blame(recipe, raised.value)) == f"offset_restore.py:{line}: save: GetClock: ENOTTY"


def test_a_variant_is_blamed_by_the_line_that_it_shares() -> None:
    recipe = load("crosvm-snapshot")
    assert recipe.pause is not None

    def refuse(op: object) -> None:
        raise KvmError("EIO", op)  # type: ignore[arg-type]

    from guestclock.kvm.api import Vm

    with pytest.raises(KvmError) as raised:
        drive(recipe.pause(Vm(0)), refuse)  # type: ignore[arg-type]
    assert re.fullmatch(r"crosvm_suspend_resume\.py:\d+: pause: GetClock: EIO", str(blame(recipe, raised.value)))


def test_what_never_passed_through_the_recipe_is_not_its_fault() -> None:
    error = RuntimeError("ours")
    with pytest.raises(RuntimeError, match="ours"):
        blame(load("offset-restore"), error)
