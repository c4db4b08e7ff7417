"""What each step reads and writes, as an explorer sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.kvm.model.unknown import World

from guestclock.kvm.api import Host, serve
from guestclock.sim import State, watching

CONCRETE = (bool, int, str, type(None))
Fields = set[tuple[str, str]]


@dataclass
class Step:
    """One step: whose, the checkpoint at which it began, and the fields (object, name) that it touched."""

    actor: str
    label: str
    reads: Fields = field(default_factory=set)
    writes: Fields = field(default_factory=set)

    def conflicts(self, other: Step) -> Fields:
        """The fields for whose sake the order of two steps matters."""
        return self.writes & (other.reads | other.writes) | other.writes & self.reads

    def told(self) -> str:
        def listed(fields: Fields) -> str:
            return ", ".join(".".join(one) for one in sorted(fields)) or "nothing"

        return f"{self.actor}: {self.label}: reads {listed(self.reads - self.writes)}; writes {listed(self.writes)}"


class Footprints:
    """An observer that files accesses under the step that is under way. A write of what is there already is a read."""

    def __init__(self) -> None:
        self.made: Counter[str] = Counter()
        self.step = Step("", "before the first step")

    def name(self, state: State) -> str:
        kind = type(state).__name__.removeprefix("Watched")
        self.made[kind] += 1
        return f"{kind}{self.made[kind] - 1}"

    def read(self, state: State, name: str) -> None:
        self.step.reads.add((state.watched_as, name))  # type: ignore[attr-defined]

    def write(self, state: State, name: str, value: Any) -> None:
        try:
            before = getattr(type(state).__mro__[1], name).__get__(state)
        except AttributeError:
            return  # a new object's first value: nobody else has it yet
        same = before is value or (type(before) is type(value) and isinstance(value, CONCRETE) and before == value)
        (self.step.reads if same else self.step.writes).add((state.watched_as, name))  # type: ignore[attr-defined]


class WatchedWorld(World):
    """A world that notes each step."""

    def __init__(self, observer: Footprints, kernel: str, **more: Any) -> None:
        super().__init__(kernel, lambda ps: ps, **more)
        self.observer, self.steps, self.labels = observer, list[Step](), dict[int, str]()
        self.guards: dict[int, Step] = {}

    def _may(self, entry: list[Any]) -> bool:
        """What a guard reads belongs to the step that it lets go on."""
        self.observer.step = self.guards[id(entry[1])] = Step(entry[0], "guard")
        return super()._may(entry)

    def step(self, entry: list[Any]) -> None:
        guarded = self.guards[id(entry[1])].reads
        self.observer.step = Step(entry[0], self.labels.get(id(entry[1]), "start"), set(guarded))
        self.steps.append(self.observer.step)

        def told(point: Any) -> Any:
            self.labels[id(actor)] = point[0]
            return point

        actor = entry[1]
        entry[1] = _Through(actor, told)
        try:
            super().step(entry)
        finally:
            entry[1] = actor


class _Through:
    """A coroutine whose checkpoints are looked at as they pass."""

    def __init__(self, actor: Any, told: Callable[[Any], Any]) -> None:
        self.actor, self.told = actor, told

    def send(self, value: None) -> Any:
        return self.told(self.actor.send(value))


def watched(kernel: str, *recipes: Callable[[Host], Any], **more: Any) -> WatchedWorld:
    """A world after the recipes, each a thread of the VMM: "VMM 0", "VMM 1", ..."""
    observer = Footprints()
    with watching(observer):
        world = WatchedWorld(observer, kernel, **more)
        for number, recipe in enumerate(recipes):
            world.spawn(f"VMM {number}", serve(recipe(Host()), world.kvm.execute))
        world.run()
    return world
