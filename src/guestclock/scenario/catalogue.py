"""The built-in scenarios: the threads that asked, and the bugs that answered."""

from __future__ import annotations

from importlib.resources import files

_ROOT = files("guestclock.scenario") / "catalogue"


def names() -> list[str]:
    """Every built-in scenario, as `guestclock run` takes it: "threads/2010-tsc-writes"."""
    return sorted(
        f"{shelf.name}/{entry.name.removesuffix('.toml')}"
        for shelf in _ROOT.iterdir()
        if shelf.is_dir()
        for entry in shelf.iterdir()
        if entry.name.endswith(".toml")
    )


def read(name: str) -> str | None:
    """The text of a built-in scenario; None where there is none of that name."""
    if name not in names():
        return None
    return (_ROOT / f"{name}.toml").read_text(encoding="utf-8")
