"""`--kernel my_patch.py`: a rule of the user's own, and one line about whatever is wrong with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.kvm.model.arm64.bench import Bench as Arm64Bench
from tests.kvm.model.x86.bench import TSC, Bench, S, vm_with

from guestclock.abi.arm64 import KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_TIMER_OFFSET
from guestclock.errors import UserError
from guestclock.kvm.api import Host
from guestclock.kvm.model import lookup
from guestclock.kvm.model.patch import load
from guestclock.runs import run
from guestclock.scenario import load as load_scenario

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "my_patch.py"

HEAD = "from guestclock.kvm.model.x86.kernels import LINUX_6_12\n"
ARM = "from guestclock.kvm.model.arm64.kernels import LINUX_6_12\n"


def in_sync(kernel: str, apart_ns: int) -> bool:
    """Whether two equal TSC writes so far apart are taken for "in sync"."""

    async def recipe(host: Host) -> bool:
        vm = await vm_with(host, 2)
        await vm.vcpus[0].set_msr(TSC, 5 * S)
        await host.wait(apart_ns)
        await vm.vcpus[1].set_msr(TSC, 5 * S)
        a, b = [await vcpu.get_tsc_offset() for vcpu in vm.vcpus]
        return a == b

    return Bench(kernel).run(recipe)


def test_the_example_s_window_is_100_ms():
    assert [in_sync("linux-6.12", ms * 1_000_000) for ms in (99, 101, 999, 1001)] == [True, True, True, False]
    assert [in_sync(str(EXAMPLE), ms * 1_000_000) for ms in (99, 101, 999, 1001)] == [True, False, False, False]


def test_overlays_lie_over_a_file_too():
    laid = lookup(f"{EXAMPLE}+masterclock-always+periodic-masterclock=60s")
    plain = lookup(str(EXAMPLE))
    assert laid.tsc_matching.__name__ == plain.tsc_matching.__name__ == "expected_within_100ms"
    assert laid.masterclock_request.__name__ == "always"
    assert (plain.name, laid.name) == (str(EXAMPLE), f"{EXAMPLE}+masterclock-always+periodic-masterclock=60s")
    assert plain.about == "my-patch: in sync within 100 ms"
    assert [lookup(p.name).name for p in (plain, laid)] == [plain.name, laid.name]
    assert not in_sync(f"{EXAMPLE}+no-matching", 1_000_000)


def test_a_path_may_have_a_plus_in_it(tmp_path):
    file = tmp_path / "c++" / "a+b.py"
    file.parent.mkdir()
    file.write_text(EXAMPLE.read_text())
    assert lookup(str(file)).name == str(file)
    assert lookup(f"{file}+exact5").name == f"{file}+exact5"
    assert lookup(f"{file}+exact5").tsc_matching.__name__ == "same_value_within_5s"


def test_a_scenario_runs_under_it():
    both = run(load_scenario("threads/2023-masterclock"), kernels=["linux-6.12", str(EXAMPLE)])
    assert [trace.meta["kernel"] for trace in both] == ["linux-6.12", str(EXAMPLE)]


def test_nothing_is_left_beside_the_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(EXAMPLE.read_text())
    load(file)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine.py"]


def test_a_profile_without_a_name_gets_the_file_s(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(f"{HEAD}PROFILE = LINUX_6_12.but(pm_notifier=False)\n")
    assert load(file).name == "mine"


def test_a_file_may_be_read_again_after_a_change(tmp_path):
    file = tmp_path / "mine.py"
    seen = []
    for name in ("one", "two"):
        file.write_text(f"{HEAD}PROFILE = LINUX_6_12.but(name={name!r})\n")
        seen.append(load(file).name)
    assert seen == ["one", "two"]


def test_dataclasses_and_other_rules_work_in_it(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from guestclock.kvm.model.x86 import matching\n" + HEAD + "@dataclass\nclass Window:\n    ms: int\n"
        "PROFILE = LINUX_6_12.but(name=f'w{Window(7).ms}', tsc_matching=matching.never)\n"
    )
    assert load(file).name == "w7"


SHOULD = "expected PROFILE = LINUX_6_12.but(name=..., about=..., <hook point>=<rule>)"
MISTAKES = {
    "syntax": ("x = (\n", "line 1: SyntaxError: '(' was never closed"),
    "indentation": ("def f():\nreturn 1\n", "line 2: IndentationError: expected an indented block after function"),
    "null-byte": ("x = 1\0\n", "line 1: SyntaxError: source code string cannot contain null bytes"),
    "empty": ("", f"line 1: no PROFILE up to here, {SHOULD}"),
    "no-profile": (HEAD + "profile = LINUX_6_12\n", f"line 2: no PROFILE up to here, {SHOULD}"),
    "not-a-profile": (HEAD + "\nPROFILE = 'linux-6.12'\n", f"line 3: PROFILE is of type str, {SHOULD}"),
    "import": ("import os\nimport no_such_module\n", "line 2: ModuleNotFoundError: No module named 'no_such_module'"),
    "raises": ("\n\ndef f():\n    return {}['a\\nb']\nf()\n", "line 4: KeyError: 'a\\nb'"),
    "lines": ("raise ValueError('a\\nb')", "line 1: ValueError: a b"),
    "exits": ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
    "misspelt": (
        HEAD + "PROFILE = LINUX_6_12.but(\n    tsc_maching=None)\n",
        "line 2: a profile has no 'tsc_maching' (did you mean 'tsc_matching'?)",
    ),
    "parameters": (
        HEAD + "def mine(vm, vcpu):\n    return True\nPROFILE = LINUX_6_12.but(name='m', tsc_matching=mine)\n",
        "line 2: mine at tsc_matching takes (vm, vcpu), expected a function of (vm, vcpu, write)",
    ),
    "lambda": (
        HEAD + "PROFILE = LINUX_6_12.but(\n    name='m',\n    snapshot=lambda: None)\n",
        "line 4: <lambda> at snapshot takes (), expected a function of (vm)",
    ),
    "async": (
        HEAD + "async def mine(vm, vcpu, write):\n    return True\nPROFILE = LINUX_6_12.but(tsc_matching=mine)\n",
        "line 2: mine at tsc_matching is `async def`, expected a plain function",
    ),
    "not-async": (
        HEAD + "def mine(vcpu):\n    return True\nPROFILE = LINUX_6_12.but(creation_tsc=mine)\n",
        "line 2: mine at creation_tsc is a plain function, expected `async def`",
    ),
    "no-function": (
        HEAD + "PROFILE = LINUX_6_12.but(name='m', snapshot=5)\n",
        "line 2: snapshot is 5, expected a function of (vm)",
    ),
    "fact": (
        HEAD + "PROFILE = LINUX_6_12.but(name='m', xen='yes')\n",
        "line 2: xen is 'yes', expected a value of type bool",
    ),
    "other-architecture": (
        ARM + "from guestclock.kvm.model.x86 import matching\nPROFILE = LINUX_6_12.but(tsc_matching=matching.never)\n",
        "line 3: a profile has no 'tsc_matching' (expected a hook point or a fact)",
    ),
    "parameters-on-arm64": (
        ARM + "def mine(vcpu):\n    return None\nPROFILE = LINUX_6_12.but(write_counter=mine)\n",
        "line 2: mine at write_counter takes (vcpu), expected a function of (vcpu, timer, value)",
    ),
    "not-async-on-arm64": (
        ARM + "def mine(vcpu, timer, value):\n    return None\nPROFILE = LINUX_6_12.but(write_counter=mine)\n",
        "line 2: mine at write_counter is a plain function, expected `async def`",
    ),
    "fact-of-arm64": (
        ARM + "PROFILE = LINUX_6_12.but(name='m', timer_irqs='all')\n",
        "line 2: timer_irqs is 'all', expected a value of type int",
    ),
    "timer-offset-reg": (
        ARM + "PROFILE = LINUX_6_12.but(name='m', timer_offset_reg='sometimes')\n",
        "line 2: timer_offset_reg is 'sometimes', expected one of nothing, always, opt-in",
    ),
    "base-clock": (
        HEAD + "PROFILE = LINUX_6_12.but(name='m', base_clock='mono')\n",
        "line 2: base_clock is 'mono', expected one of raw, boottime",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_line_with_file_and_line(mistake, tmp_path):
    text, told = MISTAKES[mistake]
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        lookup(str(file))
    assert str(error.value).startswith(f"{file}: {told}")
    assert "\n" not in str(error.value)


LATE = """
from guestclock.arith import u64
from guestclock.kvm.model.arm64.soft_timer import set_cell

async def in_halves(vcpu, timer, value):
    set_cell(vcpu.vm, timer.vm_offset, u64(vcpu.vm.kvm.phys_timer_read() - value // 2))

PROFILE = LINUX_6_12.but(about="counters by value, halved", write_counter=in_halves)
"""


def test_a_kernel_of_arm64_is_written_the_same_way(tmp_path):
    file = tmp_path / "halves.py"
    file.write_text(ARM + LATE)
    assert (lookup(str(file)).arch, lookup(str(file)).about) == ("arm64", "halves: counters by value, halved")

    async def recipe(host: Host) -> int:
        vcpu = await (await host.create_vm()).create_vcpu()
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CNT, 5_000)
        return await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CNT)

    assert Arm64Bench(str(file)).run(recipe) == 2_500
    assert Arm64Bench(f"{file}+timer-offset-v2").run(recipe) == 5_000, "the overlay has a rule of its own there"
    with pytest.raises(UserError, match="overlay 'exact5' is for x86_64, this kernel is arm64"):
        lookup(f"{file}+exact5")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("write_counter=offsets.counter_stored, context_offsets=lambda vcpu: None", "timer 1 has no offset, expected"),
        ("timer_offset_reg='always'", "timer_offset_reg without a rule at timer_offset, expected"),
        ("timer_map=traps.physical_emulated_with_an_offset", "load_traps without a direct physical timer, expected"),
    ],
)
def test_rules_that_do_not_fit_together_are_told_when_they_meet(change, told, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        ARM + f"from guestclock.kvm.model.arm64 import offsets, traps\nPROFILE = LINUX_6_12.but({change})\n"
    )

    async def recipe(host: Host) -> None:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CNT, 5)
        await vm.set_counter_offset(5)
        await vcpu.get_one_reg(KVM_REG_ARM_TIMER_OFFSET)
        await vcpu.run()

    with pytest.raises(UserError, match=told):
        Arm64Bench(str(file)).run(recipe if "map" not in change else without_register)


async def without_register(host: Host) -> None:
    vm = await host.create_vm()
    vcpu = await vm.create_vcpu()
    await vm.set_counter_offset(5)
    await vcpu.run()


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "latin.py").write_bytes(b"x = 1\n# \xe9\n")
    for name, told in {
        "absent.py": "absent.py: No such file or directory, expected",
        "folder.py": "folder.py: Is a directory, expected",
        "latin.py": "latin.py: line 2: no UTF-8, expected",
    }.items():
        with pytest.raises(UserError, match=re.escape(told)):
            lookup(str(tmp_path / name))


def test_rules_of_any_kind_that_can_be_called_may_stand_at_a_hook_point(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from functools import partial\n" + HEAD + "def within(ms, vm, vcpu, write):\n    return False\n"
        "PROFILE = LINUX_6_12.but(name='m', tsc_matching=partial(within, 7), snapshot=lambda vm, more=1: None)\n"
    )
    assert load(file).name == "m"


def test_the_page_quotes_the_example():
    page = (ROOT / "docs" / "kernels.md").read_text()
    assert f"```py\n{EXAMPLE.read_text()}```" in page
    assert len(EXAMPLE.read_text().splitlines()) <= 20
