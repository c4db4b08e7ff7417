"""The house: lower floors know nothing of higher ones, and the lab's inside needs the standard library alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src" / "guestclock"

FLOORS = [
    {"errors"},
    {"arith"},
    {"abi"},
    {"sim"},
    {"linux"},
    {"machine"},
    {"kvm.api", "kvm.record"},
    {"kvm.model", "kvm.device"},
    {"vmm"},
    {"guest"},
    {"scenario"},
    {"check"},
    {"lab", "inspect"},
    {"runs"},
    {"compare"},
    {"explore"},
    {"corpus"},
    {"checks"},
    {"judges"},
    {"report"},
    {"cli", "__main__"},
]

INSIDE = [
    "guestclock.abi",
    "guestclock.kvm.api",
    "guestclock.kvm.device",
    "guestclock.kvm.device.bench",
    "guestclock.kvm.device.arm64.bench",
    "guestclock.kvm.device.x86.bench",
    "guestclock.vmm.steps",
    "guestclock.vmm.on_device",
    "guestclock.vmm.clocks",
    "guestclock.vmm.recipe",
    "guestclock.vmm.registers",
    "guestclock.vmm.half",
    "guestclock.vmm.snapshot",
    "guestclock.vmm.recipes.arm64_by_offset_migrate",
    "guestclock.vmm.recipes.best_before_5_16",
    "guestclock.lab.inside",
    "guestclock.lab.inside_clocks",
    "guestclock.lab.inside_race",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> int | None:
    """The floor of a module, by the longest prefix; None for the package itself."""
    for level, rooms in enumerate(FLOORS):
        if any(module == room or module.startswith(room + ".") for room in rooms):
            return level
    return None


def imports_of(source: str) -> set[str]:
    """Names below `guestclock` that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{a.name}" for a in node.names} | {node.module}
    return {name.removeprefix("guestclock.") for name in found if name.startswith("guestclock.")}


def offences(module: str, source: str) -> list[str]:
    own = floor_of(module)
    if own is None:
        return []
    told = []
    for name in sorted(imports_of(source)):
        level = floor_of(name)
        if level is not None and level > own:
            told.append(f"{module} imports {name}, which is above it")
        sibling = level == own and {module.split(".")[0], name.split(".")[0]} <= {"lab", "inspect"}
        if level == own and (sibling or own == 7) and room(module) != room(name):
            told.append(f"{module} imports {name}: rooms of one floor do not know each other")
    return told


def room(module: str) -> str:
    return ".".join(module.split(".")[: 2 if module.startswith("kvm.") else 1])


def test_lower_floors_import_nothing_of_higher_ones() -> None:
    assert [o for p in sorted(SRC.rglob("*.py")) for o in offences(module_name(p), p.read_text())] == []


def test_every_module_has_a_floor() -> None:
    stray = [m for m in map(module_name, SRC.rglob("*.py")) if m not in ("", "kvm") and floor_of(m) is None]
    assert stray == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("arith.kernel", "from guestclock.sim import State"),
        ("kvm.model.kvm", "import guestclock.kvm.device.ioctls"),
        ("sim.state", "def f():\n    from guestclock.report import table"),
    ],
)
def test_the_floor_check_flags_an_import_upwards(module: str, source: str) -> None:
    assert offences(module, source)


def bare_python(*code: str) -> subprocess.CompletedProcess[str]:
    program = f"import sys; sys.path.insert(0, {str(SRC.parent)!r}); " + "; ".join(code)
    return subprocess.run([sys.executable, "-S", "-E", "-c", program], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", INSIDE)
def test_what_runs_inside_the_lab_imports_with_the_standard_library_alone(module: str) -> None:
    done = bare_python(f"import {module}")
    assert done.returncode == 0, done.stderr


def test_bare_python_really_has_no_libraries() -> None:
    assert "ModuleNotFoundError" in bare_python("import msgspec").stderr
