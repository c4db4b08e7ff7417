"""Which of our files a file of ours needs, found by reading its imports; nothing is executed."""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

_PARSING = threading.Lock()
"""Python 3.11 counts the parser's recursion per process: of two threads that parse at one time one fails where the
garbage collector lets the other on (SystemError, "AST constructor recursion depth mismatch")."""


def closure(package: Path, roots: Iterable[str], *, empty: Iterable[str] = ()) -> list[Path]:
    """Files and directories `roots` of a package, and every file of the package they import, directly or not.

    Imports under `if TYPE_CHECKING:` do not count, nor do those of the files in `empty`. Paths are relative to the
    package's directory.
    """
    waiting: list[Path] = []
    unread = {package / name for name in empty}
    for root in roots:
        place = package / root
        waiting += sorted(place.rglob("*.py")) if place.is_dir() else [place] if place.exists() else []
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        inside = path.relative_to(package)
        waiting += [init for up in inside.parents if (init := package / up / "__init__.py").exists()]
        if path not in unread:
            around = [package.name, *inside.parent.parts]
            with _PARSING:
                parsed = ast.parse(path.read_bytes())
            for name in _imported(parsed.body, around):
                waiting += _files(package, name)
    return sorted(path.relative_to(package) for path in found)


def _imported(body: list[ast.stmt], here: list[str]) -> Iterator[str]:
    """Absolute names that may be modules: of `from a.b import c` both a.b and a.b.c. here: the package around it."""
    for statement in body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from _imported(statement.orelse, here)
            continue
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                start = here[: len(here) - node.level + 1] if node.level else []
                module = ".".join([*start, *([node.module] if node.module else [])])
                yield module
                yield from (f"{module}.{alias.name}" for alias in node.names)


def _files(package: Path, name: str) -> list[Path]:
    first, *rest = name.split(".")
    if first != package.name:
        return []
    place = package.joinpath(*rest)
    return [path for path in (place / "__init__.py", place.with_suffix(".py")) if rest and path.is_file()]
