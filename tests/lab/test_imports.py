from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from guestclock.lab.imports import closure

FILES = {
    "__init__.py": "",
    "a/__init__.py": "",
    "a/one.py": "from pkg.b import two\nimport json\n",
    "b/__init__.py": "",
    "b/two.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pkg.b.only_types\n",
    "b/only_types.py": "",
    "b/unused.py": "",
    "c/__init__.py": "from .deep import three\n",
    "c/deep/__init__.py": "from ...b import two\n",
    "c/deep/three.py": "from . import four\n",
    "c/deep/four.py": "",
    "late.py": "def f():\n    import pkg.b.two\n",
}


@pytest.fixture
def package(tmp_path) -> Path:
    package = tmp_path / "pkg"
    for name, text in FILES.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


def test_what_is_imported_comes_with_it_and_nothing_else(package):
    needed = [Path(p) for p in ("__init__.py", "a/__init__.py", "a/one.py", "b/__init__.py", "b/two.py")]
    assert closure(package, ["a", "missing"]) == needed
    assert Path("b/two.py") not in closure(package, ["a"], empty=["a/one.py"])
    assert closure(package, ["late.py"]) == [Path(p) for p in ("__init__.py", "b/__init__.py", "b/two.py", "late.py")]


def test_relative_imports_are_followed(package):
    found = {str(path) for path in closure(package, ["c/__init__.py"])}
    assert found == {
        "__init__.py",
        "b/__init__.py",
        "b/two.py",
        "c/__init__.py",
        "c/deep/__init__.py",
        "c/deep/four.py",
        "c/deep/three.py",
    }


@pytest.fixture
def collector_that_lets_others_on() -> Iterator[None]:
    """Anything of Python's that the garbage collector calls (hypothesis has such a thing) may switch threads."""

    def called(phase: str, info: dict[str, int]) -> None:
        time.sleep(0)

    gc.callbacks.append(called)
    yield
    gc.callbacks.remove(called)


def test_labs_that_start_together_may_all_ask(tmp_path, collector_that_lets_others_on):
    """Python 3.11's parser counts its recursion per process: without a lock some of these threads fail."""
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "deep.py").write_text("y = [1, 2, {3: f'{x}', 4: ((((5))))}]\n" * 1000)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: closure(tmp_path / "pkg", ["deep.py"]), range(16)))
    assert found == [[Path("deep.py")]] * 16
