"""What there is to run, to run it on and to look for, a line each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from guestclock.errors import UserError
from guestclock.report.numbers import folded
from guestclock.vmm.clocks import X86_64


@dataclass(frozen=True, slots=True)
class Entry:
    """name, as a command or a file takes it; about, in a sentence; more: where it is from, or where it can be done."""

    name: str
    about: str
    more: str = ""


def entries(what: str) -> list[Entry]:
    """Everything of that kind. Raises UserError for a kind there is not."""
    if what not in KINDS:
        raise UserError(f"list {what}: expected one of {', '.join(KINDS)}")
    return KINDS[what]()


def show_entries(console: Console, found: Sequence[Entry]) -> None:
    """In two columns, folded on a terminal; elsewhere a line each, for grep."""
    left = max(len(e.name) for e in found) + 2
    for entry in found:
        if not console.is_terminal:
            more = f"  [{entry.more}]" if entry.more else ""
            console.print(f"{entry.name:<{left}}{entry.about}{more}", soft_wrap=True, markup=False)
            continue
        room = max(console.width - left, 30)
        lines = [(line, "") for line in folded(entry.about, room)]
        lines += [(line, "dim") for line in folded(entry.more, room) if line]
        for number, (line, style) in enumerate(lines):
            text = Text(f"{entry.name if number == 0 else '':<{left}}", style="bold")
            console.print(text.append(line, style=style or "not bold"), soft_wrap=True)


def _scenarios() -> list[Entry]:
    from guestclock.scenario import load, names

    return [Entry(s.name, s.about, s.thread or "") for s in map(load, names())]


def _kernels() -> list[Entry]:
    from guestclock.kvm.model import names

    return [Entry(name, about) for name, about in names().items()]


def _threads() -> list[Entry]:
    """Protocols with several designs; with the designs, as `check --design` takes them."""
    from guestclock.checks.protocol import THREADS, thread

    found = []
    for one in map(thread, THREADS):
        designs = ", ".join(design.name for design in one.designs if not design.broken)
        found.append(Entry(one.name, one.about, f"check; {designs}"))
    return found


def _recipes() -> list[Entry]:
    """What VMMs do to their guests' clocks, as `check` takes it; with where it was seen."""
    from guestclock.vmm.recipe import load, names

    found = []
    for name, about in names().items():
        recipe = load(name)
        found.append(Entry(name, about, recipe.seen if recipe.arch == X86_64 else f"{recipe.arch}; {recipe.seen}"))
    return found


def _steps() -> list[Entry]:
    """The steps of which a scenario is made, with their keys."""
    from guestclock.scenario.verbs import VERBS

    found: dict[tuple[type, str], Entry] = {}
    for arch, actors in VERBS.items():
        for actor, verbs in actors.items():
            for name, verb in verbs.items():
                places = ", ".join(place for place in ("model", "kvm", "lab") if place in verb.runs_on)
                everywhere = all(verbs_of[actor].get(name) is verb for verbs_of in VERBS.values())
                where = places if everywhere else f"{arch}; {places}"
                found.setdefault((verb, name), Entry(f'{actor} = "{name}"', _keys(verb), where))
    return list(found.values())


def _keys(verb: type) -> str:
    from msgspec.structs import fields

    keys = [f for f in fields(verb) if f.name not in ("say", "look")]
    needed = [f.encode_name for f in keys if f.required]
    free = [f"[{f.encode_name}]" for f in keys if not f.required]
    return " ".join([*needed, *free]) or "no keys"


def _properties() -> list[Entry]:
    """Of a run's trace, then of the checker: both have some names in common, and each asks its own way."""
    import guestclock.checks.questions  # noqa: F401  (it enters them)
    from guestclock.check import PROPERTIES
    from guestclock.checks.asks import QUESTIONS

    judged = [Entry(p.name, p.meaning, f"run; {p.source}") for p in PROPERTIES]
    asked = [Entry(q.name, q.about, f"{_asked(q.default)}; {q.source}") for q in QUESTIONS.values()]
    return judged + asked


def _asked(default: bool) -> str:
    return "check" if default else "check, if named"


KINDS: dict[str, Callable[[], list[Entry]]] = {
    "scenarios": _scenarios,
    "kernels": _kernels,
    "recipes": _recipes,
    "threads": _threads,
    "steps": _steps,
    "properties": _properties,
}
