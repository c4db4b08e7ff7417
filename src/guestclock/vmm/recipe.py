"""Recipes by name or from a user's own file, loaded by one loader, and mistakes in them told by the file's own line.

A recipe is one Python file: what a VMM does to its guest's clocks in one operation.

    docstring                                   what it does; the first line is shown in lists
    ARCH = "arm64"                              whose calls it makes; x86_64 if it does not say
    SEEN = "source, date"                       where it was seen, if anywhere
    POLICY = {"tsc": "freeze", ...}             what each guest clock is meant to do: run, freeze or advance
    FIX = "other-recipe: why"                   the recipe that does better, where there is one
    async def create(host, vcpus, snapshot)     makes the VM that is restored into; snapshot None: the first VM
    async def pause(vm), resume(vm)
    async def save(vm), restore(vm, snapshot)

Needed are pause and resume, or save and restore. Standard library only: recipes run inside the lab as well.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from types import MappingProxyType, ModuleType, TracebackType
from typing import Any, NamedTuple

from guestclock.errors import UserError
from guestclock.kvm.api import KvmError, Op
from guestclock.vmm.clocks import ARCHITECTURES, X86_64, clocks_of

Step = Callable[..., Coroutine[Op, Any, Any]]

BUILT_IN = Path(__file__).parent / "recipes"
PARAMETERS = {
    "create": ("host", "vcpus", "snapshot"),
    "pause": ("vm",),
    "resume": ("vm",),
    "save": ("vm",),
    "restore": ("vm", "snapshot"),
}
PAIRS = (("pause", "resume"), ("save", "restore"))
POLICIES = ("run", "freeze", "advance")

_serial = count()


@dataclass(frozen=True, slots=True)
class Recipe:
    """A VMM's operation. name: as it was asked for. about: the docstring. policy: empty where the file states none.

    fix: "other-recipe: why", or empty. arch: X86_64 or ARM64.
    """

    name: str
    about: str
    seen: str
    policy: Mapping[str, str]
    path: Path
    fix: str = ""
    arch: str = X86_64
    create: Step | None = field(default=None, repr=False)
    pause: Step | None = field(default=None, repr=False)
    resume: Step | None = field(default=None, repr=False)
    save: Step | None = field(default=None, repr=False)
    restore: Step | None = field(default=None, repr=False)

    @property
    def headline(self) -> str:
        return self.about.partition("\n")[0]


def names(arch: str = "") -> dict[str, str]:
    """Each built-in recipe with one line about it. arch: of one architecture alone."""
    files = (path for path in sorted(BUILT_IN.glob("*.py")) if path.stem != "__init__")
    found = {_dashed(path.stem): _headline(path) for path in files}
    return {name: about for name, about in found.items() if not arch or load(name).arch == arch}


def load(name: str) -> Recipe:
    """A built-in recipe by its dashed name, or a user's by its path, which ends in .py.

    Raises UserError, one line that begins with the file and the line in it.
    """
    if name.endswith(".py"):
        return _load(name, Path(name), name)
    path = BUILT_IN / f"{name.replace('-', '_').replace('.', '_')}.py"
    if _dashed(path.stem) != name or path.stem == "__init__" or not path.is_file():
        known = list(names())
        near = get_close_matches(name.replace("_", "-"), known, 1)
        meant = f" (did you mean {near[0]!r}?)" if near else f", expected one of {', '.join(known)}, or FILE.py"
        raise UserError(f"recipe {name!r} is unknown{meant}")
    return _load(name, path, path.name)


def from_text(name: str, source: str) -> Recipe:
    """As `load`, of a file whose text somebody else has read."""
    return _made(name, Path(name), name, source)


def blame(recipe: Recipe, error: BaseException) -> UserError:
    """An exception that came out of `recipe` while it ran, as one line with the recipe's own innermost line.

    For a built-in recipe that line can be in another one's file, of which it is a variant. An exception that never
    passed through either is not the recipe's fault: it is raised as it is.
    """
    place = _innermost(error.__traceback__, recipe.path) or _innermost(error.__traceback__, BUILT_IN)
    if place is None:
        raise error
    shown = recipe.name if place.path == recipe.path and recipe.name.endswith(".py") else place.path.name
    return UserError(f"{shown}:{place.line}: {place.function}: {_what(error)}")


# ---- loading


def _dashed(stem: str) -> str:
    """A built-in file's name as a user writes it: best_since_5_16 is best-since-5.16."""
    return re.sub(r"(?<=\d)_(?=\d)", ".", stem).replace("_", "-")


def _load(name: str, path: Path, shown: str) -> Recipe:
    """shown: what messages call the file."""
    return _made(name, path, shown, _read(path, shown))


def _made(name: str, path: Path, shown: str, source: str) -> Recipe:
    try:
        tree = ast.parse(source, str(path))
        code = compile(source, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise UserError(f"{shown}:{error.lineno or 1}: not Python: {error.msg}") from None
    except ValueError as error:  # a NUL byte
        raise UserError(f"{shown}:1: not Python: {error}") from None
    module = _execute(code, path, shown)
    lines = _Lines(tree)
    arch = module.__dict__.get("ARCH", X86_64)
    if arch not in ARCHITECTURES:
        raise UserError(f"{shown}:{lines.of('ARCH')}: ARCH: {arch!r}{_near(arch, ARCHITECTURES)}")
    policy = _policy(module, clocks_of(arch), lines, shown)
    seen = module.__dict__.get("SEEN", "")
    if not isinstance(seen, str):
        raise UserError(f"{shown}:{lines.of('SEEN')}: SEEN: {seen!r}, expected text: source and date")
    fix = module.__dict__.get("FIX", "")
    if not isinstance(fix, str) or (fix and ":" not in fix):
        raise UserError(f'{shown}:{lines.of("FIX")}: FIX: {fix!r}, expected text like "offset-restore: why"')
    steps = {step: _step(module, step, lines, shown) for step in PARAMETERS}
    _complete(steps, lines, shown)
    return Recipe(name, inspect.getdoc(module) or "", seen, policy, path, fix, arch, **steps)


def _read(path: Path, shown: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{shown}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{shown}:{line}: not UTF-8 text (byte {error.start})") from None


def _execute(code: Any, path: Path, shown: str) -> ModuleType:
    """The module that the file makes. It is known to the interpreter only while it is being made."""
    module = ModuleType(f"guestclock recipe {next(_serial)}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    try:
        exec(code, module.__dict__)
    except (Exception, SystemExit) as error:
        place = _innermost(error.__traceback__, path)
        raise UserError(f"{shown}:{place.line if place else 1}: {_what(error)}") from None
    finally:
        del sys.modules[module.__name__]
    return module


class _Lines:
    """On which line of the file a top-level name is bound, the last time."""

    def __init__(self, tree: ast.Module) -> None:
        self._lines: dict[str, int] = {}
        self.functions: list[str] = []
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self._lines[node.name] = node.lineno
                self.functions.append(node.name)
            elif isinstance(node, ast.Assign):
                self._lines |= {t.id: node.lineno for t in node.targets if isinstance(t, ast.Name)}
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                self._lines[node.target.id] = node.lineno

    def of(self, name: str) -> int:
        return self._lines.get(name, 1)


def _policy(module: ModuleType, clocks: tuple[str, ...], lines: _Lines, shown: str) -> Mapping[str, str]:
    policy = module.__dict__.get("POLICY", {})
    where = f"{shown}:{lines.of('POLICY')}: POLICY"
    if not isinstance(policy, dict):
        like = ", ".join(f'"{clock}": "freeze"' for clock in clocks)
        raise UserError(f"{where}: {policy!r}, expected a dict like {{{like}}}")
    for clock, meant in policy.items():
        if clock not in clocks:
            raise UserError(f"{where}: unknown clock {clock!r}{_near(clock, clocks)}")
        if meant not in POLICIES:
            raise UserError(f"{where}: {clock}: {meant!r}{_near(meant, POLICIES)}")
    return MappingProxyType(dict(policy))


def _step(module: ModuleType, step: str, lines: _Lines, shown: str) -> Step | None:
    function: Step | None = module.__dict__.get(step)
    if function is None:
        return None
    where = f"{shown}:{lines.of(step)}: {step}"
    if not inspect.iscoroutinefunction(function):
        raise UserError(f"{where}: expected 'async def {step}({', '.join(PARAMETERS[step])})'")
    try:
        inspect.signature(function).bind(*PARAMETERS[step])
    except TypeError:
        given = f"{step}{inspect.signature(function)}"
        raise UserError(f"{where}: {given} cannot take ({', '.join(PARAMETERS[step])})") from None
    return function


def _complete(steps: Mapping[str, Step | None], lines: _Lines, shown: str) -> None:
    """save and restore, which pause or resume may go with; or pause and resume."""
    pair = PAIRS[1] if steps["save"] or steps["restore"] else PAIRS[0]
    for here, missing in (pair, pair[::-1]):
        if steps[here] is not None and steps[missing] is None:
            close = get_close_matches(missing, [f for f in lines.functions if f not in steps], 1)
            meant = f" ({close[0]!r} on line {lines.of(close[0])}: did you mean that?)" if close else ""
            raise UserError(f"{shown}:{lines.of(here)}: {here}: there is no {missing!r} to go with it{meant}")
    if steps[pair[0]] is None:
        raise UserError(f"{shown}:1: expected 'async def pause' and 'resume', or 'async def save' and 'restore'")


def _near(word: object, known: tuple[str, ...]) -> str:
    near = get_close_matches(word, known, 1) if isinstance(word, str) else []
    return f" (did you mean {near[0]!r}?)" if near else f", expected {', '.join(known[:-1])} or {known[-1]}"


def _headline(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


# ---- what went wrong


class _Place(NamedTuple):
    path: Path
    line: int
    function: str


def _innermost(traceback: TracebackType | None, place: Path) -> _Place | None:
    """The deepest frame in that file, or in a file of that directory; None if there is none."""
    found = None
    while traceback is not None:
        code = traceback.tb_frame.f_code
        path = Path(code.co_filename)
        if place in (path, path.parent):
            found = _Place(path, traceback.tb_lineno, code.co_name)
        traceback = traceback.tb_next
    return found


def _what(error: BaseException) -> str:
    if isinstance(error, KvmError):
        vcpu = getattr(error.op, "vcpu", None)
        return str(error) if vcpu is None else f"vCPU {vcpu}: {error}"
    if isinstance(error, UserError):
        return str(error)
    first = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
