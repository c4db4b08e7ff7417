"""Model code computes with time as both number systems can; the lint that says so is tested on what it must flag."""

from __future__ import annotations

from pathlib import Path

import pytest

from .model_lint import RULES, lint_file, lint_source, model_files

PACKAGE = Path(__file__).parents[2] / "src" / "guestclock"

FLAGGED = {
    "if isinstance(x, int): pass": "type-test",
    "if isinstance(x, (int, float)): pass": "type-test",
    "if type(x) is int: pass": "type-test",
    "if int is type(x): pass": "type-test",
    "y = int(x)": "int-call",
    "y = abs(x)": "select",
    "y = max(x, 0)": "select",
    "y = min(x, z)": "select",
    "q, r = divmod(x, 10)": "modulo",
    "y = x % 10": "modulo",
    "x %= 10": "modulo",
    "y = x / 10": "true-division",
    "x /= 10": "true-division",
    "y = x * 1e9": "float",
    "y = 0.5": "float",
    "y = float(x)": "float",
    "y = round(x)": "float",
    "import math": "import",
    "import time as clock": "import",
    "from random import randrange": "import",
    "import datetime": "import",
    "import numpy.linalg": "import",
    "y = x & M64": "mask",
    "y = x & 0xffff_ffff": "mask",
    "y = x & 0x80000000": "mask",
    "y = x & ((1 << 32) - 1)": "mask",
    "y = x & 2**32 - 1": "mask",
    "y = M32 & x": "mask",
    "x &= M64": "mask",
    "y = x & ~0xffffffffff": "mask",
    "y = x ^ 0xffff_ffff": "mask",
    "y = x | U64_MAX": "mask",
    "y = x & clocksource.mask": "mask",
    "y = x - 2**64": "wrap-by-hand",
    "y = x + (1 << 63)": "wrap-by-hand",
    "if x > (1 << 64) - 1: pass": "wrap-by-hand",
    "y = 0xffff_ffff_ffff_ffff": "wrap-by-hand",
    "if x in (a, b): pass": "membership",
    "if x not in [a, 0]: pass": "membership",
    "y = hash(x)": "identity",
    "y = id(x)": "identity",
    "y = {a, b}": "set",
    "y = {v for v in vcpus}": "set",
    "y = set()": "set",
    "y = frozenset(vcpus)": "set",
    "def f(vm): vm.vcpus.append(x)": "in-place",
    "async def f(vm): vm.vcpus.append(x)": "in-place",
    "def f(kvm): kvm.vms.append(x)": "in-place",
    "def f(vm): page = vm.pages.setdefault(gpa, Page())": "in-place",
    "def f(vm): vm.pages[gpa] = page": "in-place",
    "def f(vm): vm.pages[gpa], y = page, 1": "in-place",
    "def f(vm): vm.pages[gpa] += 1": "in-place",
    "def f(vm): del vm.pages[gpa]": "in-place",
    "def f(vm): vm.vcpus += [x]": "in-place",
    "def f(vm): vm.kvm.lists[0].append(x)": "in-place",
    "def f(vm):\n    vcpus = vm.vcpus\n    vcpus.append(x)": "in-place",
    "def f(vm):\n    vcpus = []\n    vcpus = vm.vcpus\n    vcpus.append(x)": "in-place",
    "def f(vm):\n    for one in vm.lists:\n        one.clear()": "in-place",
    "def f(vm):\n    (v := vm.vcpus).append(x)": "in-place",
    "def f(waiting): waiting.append(x)": "in-place",
    "def f():\n    seen = []\n    def g():\n        seen.append(1)": "in-place",
    "def f():\n    seen = {}\n    return lambda: seen.update(a=1)": "in-place",
    "def f(): _CACHE[key] = x": "in-place",
    "class A:\n    def f(self): self.waiting.append(x)": "in-place",
    "def f():\n    n = 0\n    def g():\n        nonlocal n\n        n = 1": "outer-variable",
    "def f():\n    global N\n    N = 1": "outer-variable",
    "y = x  # concrete:": "escape-without-reason",
    "y = x  # setup:": "escape-without-reason",
    "y = x // 3  # concrete: a count": "escape-without-need",
    "y = x % 3  # setup: the wrong note": "escape-without-need",
    "def f(vm): vm.vcpus.append(x)  # concrete: the wrong note": "escape-without-need",
}

PASSED = [
    "y = u64(x - last_ns)",
    "y = x // 1000 + (x >> 3) - 4 * x",
    "if x < y and u64(data + hz) > expected: pass",
    "ratio = 1 << 48",
    "y = flags & KVM_CLOCK_TSC_STABLE",
    "y = flags & ~0x2",
    "y = flags & STABLE != 0  # concrete: a flag byte",
    "y = flags & valid_flags_mask",
    "if mode in (VCLOCK_TSC, Mode.HVCLOCK, 3): pass",
    "if name in fields: pass",
    "if isinstance(operation, SetTscKhz): pass",
    "slot = index % len(pages)  # concrete: page index",
    "khz = min(0x7fffffff, khz)  # concrete: kHz",
    "count = max(\n    a,\n    b,\n)  # concrete: vCPU count",
    "low = version & 0xffffffff  # concrete: page version",
    "n = int(text)  # concrete: parsed from a name",
    "if khz in (host_khz, 0): pass  # concrete: kHz",
    "text = 'vcpu%d' % index",
    "vcpus: set[int]",
    "from . import time",
    "from guestclock.linux import time",
    "y = '# concrete: not a comment'",
    "def f(vm): vm.vcpus = (*vm.vcpus, vcpu)",
    "def f(vm): vm.pages = with_page(vm.pages, gpa, page)",
    "def f(vm): vm.nr_vcpus_matched_tsc += 1",
    "def f(vm):\n    seen = []\n    for vcpu in vm.vcpus:\n        seen.append(vcpu)",
    "def f(vm):\n    seen: dict[int, int] = {}\n    seen[0] = 1\n    seen.setdefault(1, 2)",
    "def f(vm):\n    vcpus = list(vm.vcpus)\n    vcpus.reverse()",
    "TABLE['a'] = 1\nTABLE.update(b=2)",
    "def f(machine): machine.on_resume.append(g)  # setup: subscribers",
]


@pytest.mark.parametrize(("snippet", "rule"), FLAGGED.items())
def test_what_must_be_flagged_is(snippet: str, rule: str) -> None:
    assert rule in {finding.rule for finding in lint_source(snippet + "\n")}


@pytest.mark.parametrize("snippet", PASSED)
def test_what_is_allowed_passes(snippet: str) -> None:
    assert [str(finding) for finding in lint_source(snippet + "\n")] == []


@pytest.mark.parametrize(
    "snippet",
    [s for s, rule in FLAGGED.items() if not RULES[rule][1] and not rule.startswith("escape") and "\n" not in s],
)
def test_no_reason_excuses_floats_types_sets_and_hand_made_wraps(snippet: str) -> None:
    excused = lint_source(f"{snippet}  # concrete: because\n")
    assert FLAGGED[snippet] in {finding.rule for finding in excused}


@pytest.mark.parametrize("snippet", [s for s, rule in FLAGGED.items() if RULES[rule][1]])
def test_a_reason_excuses_rates_and_counts_and_what_is_filled_before_the_first_step(snippet: str) -> None:
    word = RULES[FLAGGED[snippet]][1]
    lines = snippet.split("\n")
    at = lint_source(snippet + "\n")[0].line - 1

    def noted(note: str) -> list[str]:
        return [f.rule for f in lint_source("\n".join([*lines[:at], f"{lines[at]}  # {note}", *lines[at + 1 :], ""]))]

    assert noted(f"{word}: because") == []
    assert noted(f"{word}:") == ["escape-without-reason"]
    other = "setup" if word == "concrete" else "concrete"
    assert set(noted(f"{other}: because")) == {FLAGGED[snippet], "escape-without-need"}


def test_every_rule_has_been_seen_to_flag() -> None:
    assert set(FLAGGED.values()) == RULES.keys()


def test_a_finding_says_where_what_and_what_instead() -> None:
    (finding,) = lint_source("x = 1\ny = x % 10\n", "kvm/model/x.py")
    assert str(finding) == "kvm/model/x.py:2: modulo: wrap with arith.u64() (or `# concrete: <why>`)"


def test_only_model_folders_are_read(tmp_path: Path) -> None:
    for name in ("kvm/model/x86/tsc.py", "linux/ntp.py", "kvm/device/ioctl.py", "sim/state.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    read = [str(path.relative_to(tmp_path)) for path in model_files(tmp_path)]
    assert read == ["kvm/model/x86/tsc.py", "linux/ntp.py"]


def test_the_lint_looks_at_the_package_it_means() -> None:
    assert (PACKAGE / "arith" / "kernel.py").exists()


def test_model_code_keeps_the_rules() -> None:
    findings = [str(finding) for path in model_files(PACKAGE) for finding in lint_file(path)]
    assert not findings, "\n".join(findings)
