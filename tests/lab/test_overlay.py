from __future__ import annotations

import ast
import os
import subprocess
import sys

from guestclock.lab.overlay import _prune, sources, yielder

STANDARD = set(sys.stdlib_module_names) | {"guestclock"}


def test_what_goes_inside_imports_the_standard_library_alone():
    for name, source in sources():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                imported = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                imported = [node.module or ""]
            else:
                continue
            assert {module.split(".")[0] for module in imported} <= STANDARD, name


def test_what_goes_inside_imports_with_nothing_else_around(tmp_path):
    for name, source in sources():
        (tmp_path / "guestclock" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "guestclock" / name).write_bytes(source)
    names = sorted(
        ".".join(["guestclock", *name.removesuffix(".py").removesuffix("__init__").strip("/").split("/")]).rstrip(".")
        for name, _ in sources()
    )
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", f"import importlib; [importlib.import_module(name) for name in {names}]"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_yielder_is_an_executable_of_this_size():
    program = yielder()
    assert program[:4] == b"\x7fELF"
    assert len(program) == 64 + 56 + 13
    assert program.endswith(b"\xf3\x90\xeb\xf3")  # pause; jmp to the start of the code


def test_only_the_latest_used_compilations_are_kept(tmp_path):
    for age in range(12):
        (tmp_path / f"code{age}").mkdir()
        os.utime(tmp_path / f"code{age}", (1000 - age, 1000 - age))
    (tmp_path / "partial-x").mkdir()
    _prune(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code0", "code1", "code2", "partial-x"]
