"""What there is to run, to run it on and to look for, a line each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from guestclock.errors import UserError

Entry = tuple[str, str]


def entries(what: str) -> list[Entry]:
    """(name, one line) of everything of that kind. Raises UserError for a kind there is not."""
    if what not in KINDS:
        raise UserError(f"list {what}: expected one of {', '.join(KINDS)}")
    return KINDS[what]()


def show_entries(console: Console, found: Sequence[Entry]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for name, about in found:
        table.add_row(Text(name), Text(about))
    console.print(table)


def _scenarios() -> list[Entry]:
    from guestclock.scenario import load, names

    return [(name, load(name).about) for name in names()]


def _kernels() -> list[Entry]:
    from guestclock.kvm.model import names

    return list(names().items())


def _recipes() -> list[Entry]:
    """The recipes there are, and what a scenario's own may be made of."""
    from guestclock.scenario.verbs import VERBS

    return [
        (f"{actor} = {name!r}".replace("'", '"'), (verb.__doc__ or "").strip().splitlines()[0])
        for actor, verbs in VERBS.items()
        for name, verb in verbs.items()
    ]


def _properties() -> list[Entry]:
    from guestclock.check import PROPERTIES

    return [(p.name, f"{p.meaning} ({p.source})") for p in PROPERTIES]


KINDS: dict[str, Callable[[], list[Entry]]] = {
    "scenarios": _scenarios,
    "kernels": _kernels,
    "recipes": _recipes,
    "properties": _properties,
}
