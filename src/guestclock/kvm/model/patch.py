"""A kernel of the user's own: a Python file that lays rules over a profile and says which one is meant.

    PROFILE = LINUX_6_12.but(name="my-patch", about="...", tsc_matching=expected_within_100ms)

The file is run, so it can do whatever its author can. What is wrong with it is told in one line: the file, its line,
what was expected there.
"""

from __future__ import annotations

import ast
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from guestclock.errors import UserError
from guestclock.kvm.model.architectures import ARCHITECTURES, Architecture
from guestclock.kvm.model.hooks import Hook
from guestclock.kvm.model.profile import AnyProfile

_EXAMPLE = "expected PROFILE = LINUX_6_12.but(name=..., about=..., <hook point>=<rule>)"


def load(path: str | Path) -> AnyProfile:
    """The profile that the file at `path` calls PROFILE; one that has no name of its own gets the file's.

    Nothing is written beside the file. Raises UserError.
    """
    path = Path(path)
    source = _read(path)
    tree, code = _compiled(path, source)
    module = _run(path, code)
    if not hasattr(module, "PROFILE"):
        raise _wrong(path, len(source.splitlines()) or 1, f"no PROFILE up to here, {_EXAMPLE}")
    profile, line = module.PROFILE, _line_of_profile(tree)
    if not isinstance(profile, AnyProfile):
        raise _wrong(path, line, f"PROFILE is of type {type(profile).__name__}, {_EXAMPLE}")
    arch = ARCHITECTURES[profile.arch]
    for hook in arch.hooks:
        _check_rule(path, line, hook, getattr(profile, hook.name))
    _check_facts(path, line, profile, arch)
    return profile.but(name=path.stem) if profile.name in arch.kernels else profile


def _wrong(path: Path, line: int, what: str) -> UserError:
    return UserError(f"{path}: line {line}: {' '.join(what.split())}")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}, expected a Python file with a PROFILE") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise _wrong(path, line, "no UTF-8, expected a Python file with a PROFILE") from None


def _compiled(path: Path, source: str) -> tuple[ast.Module, CodeType]:
    try:
        tree = ast.parse(source, str(path))
        return tree, compile(tree, str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        raise _wrong(path, error.lineno or 1, f"{type(error).__name__}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes; nested too deeply
        raise _wrong(path, 1, f"SyntaxError: {error}") from None


def _run(path: Path, code: CodeType) -> ModuleType:
    module = ModuleType(f"guestclock kernel {path}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # setup: dataclasses and pickle look their module up by its name
    try:
        exec(code, module.__dict__)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        del sys.modules[module.__name__]  # setup: as above
        inside = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        raise _wrong(path, (inside and inside[-1]) or 1, told) from None
    return module


def _line_of_profile(tree: ast.Module) -> int:
    """Where the file names its PROFILE last, at whatever depth; 1 where it does so in a way that is not seen."""
    names = (n for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    lines = sorted(n.lineno for n in names if n.id == "PROFILE")
    return lines[-1] if lines else 1


def _check_rule(path: Path, line: int, hook: Hook[Any], rule: Callable[..., Any]) -> None:
    """Whether `rule` can stand at `hook`: called with as many arguments as the rules that stand there, in their way."""
    model = next(iter(hook.rules.values())).function
    if rule in (known.function for known in hook.rules.values()):
        return
    wanted = list(inspect.signature(model).parameters)
    name = getattr(rule, "__name__", None) or repr(rule)
    code = getattr(inspect.unwrap(rule), "__code__", None) if callable(rule) else None
    if code is not None and code.co_filename == str(path):
        line = code.co_firstlineno
    should = f"expected a function of ({', '.join(wanted)})"
    if not callable(rule):
        raise _wrong(path, line, f"{hook.name} is {name}, {should}")
    try:
        signature = inspect.signature(rule)
        signature.bind(*wanted)
    except TypeError:
        raise _wrong(path, line, f"{name} at {hook.name} takes {signature}, {should}") from None
    except ValueError:
        return  # a builtin without a signature: nothing is known of it
    if inspect.iscoroutinefunction(model) and not inspect.iscoroutinefunction(inspect.unwrap(rule)):
        raise _wrong(path, line, f"{name} at {hook.name} is a plain function, expected `async def`")
    if not inspect.iscoroutinefunction(model) and inspect.iscoroutinefunction(inspect.unwrap(rule)):
        raise _wrong(path, line, f"{name} at {hook.name} is `async def`, expected a plain function")


def _check_facts(path: Path, line: int, profile: AnyProfile, arch: Architecture) -> None:
    hooks = [hook.name for hook in arch.hooks]
    for fact in (f.name for f in fields(type(arch.baseline)) if f.name not in hooks):
        value, kind = getattr(profile, fact), type(getattr(arch.baseline, fact))
        if type(value) is not kind:
            raise _wrong(path, line, f"{fact} is {value!r}, expected a value of type {kind.__name__}")
    for fact, choices in arch.choices.items():
        if getattr(profile, fact) not in choices:
            told = ", ".join(choice or "nothing" for choice in choices)
            raise _wrong(path, line, f"{fact} is {getattr(profile, fact)!r}, expected one of {told}")
