"""The oracle: the same arithmetic in C, compiled once per session."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

Rows = Sequence[tuple[int, ...]]
Oracle = Callable[[str, Rows, int], list[tuple[int, ...]]]

_SOURCE = Path(__file__).with_name("oracle.c")


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    """Calls one C function for many rows of arguments: oracle("c_scale_tsc", rows, columns of results).

    Arguments and results are 64-bit words; results come back unsigned.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.fail("no C compiler: `cc` is not in PATH, the arithmetic has no oracle (Debian: apt install gcc)", False)
    library = tmp_path_factory.mktemp("oracle") / "oracle.so"
    built = subprocess.run(
        [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", library, _SOURCE],
        capture_output=True,
        text=True,
    )
    if built.returncode:
        pytest.fail(f"oracle.c does not compile: {built.stderr}", False)
    functions = ctypes.CDLL(str(library))

    def call(name: str, rows: Rows, results: int = 1) -> list[tuple[int, ...]]:
        column = ctypes.c_uint64 * len(rows)
        arguments = [column(*values) for values in zip(*rows, strict=True)]
        answers = [column() for _ in range(results)]
        getattr(functions, name)(ctypes.c_size_t(len(rows)), *arguments, *answers)
        return list(zip(*answers, strict=True))

    return call
