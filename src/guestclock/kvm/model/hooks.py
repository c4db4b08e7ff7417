"""Hook points: where kernels differ. A rule is a plain function, entered at one hook point with its history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Rule(Generic[F]):
    """What is known about one rule: since which kernel, by which commit, and the first line of its docstring."""

    function: F
    since: str
    commit: str
    about: str


class Hook(Generic[F]):
    """One hook point of the model; `rules` are the functions that can stand there, by name."""

    def __init__(self, name: str, about: str) -> None:
        self.name, self.about = name, about
        self.rules: dict[str, Rule[F]] = {}

    def rule(self, *, since: str = "", commit: str = "") -> Callable[[F], F]:
        """Enters the decorated function, unchanged. since: first kernel with it; commit: where it came from."""

        def enter(function: F) -> F:
            name = function.__name__
            assert name not in self.rules, f"{self.name} has a rule {name} already"
            about = (function.__doc__ or "").strip().split("\n")[0]
            self.rules[name] = Rule(function, since, commit, about)  # setup: at import
            return function

        return enter
