"""What every step of a scenario has in common: which vCPUs it acts on, its sentence, and how it becomes a program's.

A verb's class is its schema: msgspec checks the keys and their types, `compile` the rest against the situation that the
earlier steps have made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import msgspec

from guestclock.scenario.quantity import Duration, Quantity
from guestclock.scenario.situation import Situation
from guestclock.vmm.clocks import ARCHITECTURES

MODEL, KVM, LAB = "model", "kvm", "lab"
ANYWHERE = frozenset({MODEL, KVM, LAB})

VERBS: dict[str, dict[str, dict[str, type[Verb]]]] = {
    arch: {"vmm": {}, "guest": {}, "host": {}} for arch in ARCHITECTURES
}
"""By architecture, actor and name."""


class Vcpus:
    """Which vCPUs a step acts on, and in which order: 1, [1, 0] or "all"."""

    __slots__ = ("chosen",)

    def __init__(self, written: object) -> None:
        self.chosen: tuple[int, ...] | None = None
        if written == "all":
            return
        chosen: list[Any] = written if isinstance(written, list) else [written]
        if not chosen or any(not isinstance(i, int) or isinstance(i, bool) for i in chosen):
            raise ValueError(f"expected a vCPU like 1, a list like [0, 1] or 'all', got {written!r}")
        if len(set(chosen)) < len(chosen):
            raise ValueError(f"{written!r} names a vCPU twice")
        self.chosen = tuple(chosen)

    def among(self, count: int) -> tuple[int, ...]:
        return tuple(range(count)) if self.chosen is None else self.chosen

    def __str__(self) -> str:
        if self.chosen is None:
            return "every vCPU"
        if len(self.chosen) == 1:
            return f"vCPU {self.chosen[0]}"
        return f"vCPUs {', '.join(map(str, self.chosen[:-1]))} and {self.chosen[-1]}"


class Verb(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A step. say: the sentence for the reader, if the verb's own will not do. look: show every clock after it."""

    actor: ClassVar[str]
    name: ClassVar[str]
    runs_on: ClassVar[frozenset[str]]
    say: str | None = None
    look: bool = True

    def sentence(self) -> str:
        raise NotImplementedError

    def can_be_done_on(self) -> frozenset[str]:
        """The machines that can take this very step: some of `runs_on`."""
        return self.runs_on

    def acting(self, now: Situation) -> tuple[int, ...]:
        """The vCPUs this step acts on, checked to exist and to be free."""
        return ()

    def compile(self, now: Situation) -> dict[str, Any]:
        """This step as `vmm.steps` plays it. Raises Wrong where the situation does not allow it; then changes it."""
        acting = self.acting(now)
        step: dict[str, Any] = {"actor": self.actor, "do": self.name, "say": self.say or self.sentence()}
        if acting:
            step["vcpus"] = list(acting)
        for key in msgspec.structs.fields(type(self)):
            value = getattr(self, key.name)
            if value is None or isinstance(value, Vcpus) or key.name in ("say", "look", "save"):
                continue
            step[key.name] = now.terms(key.encode_name, value, acting) if isinstance(value, Quantity) else value
        if not self.look:
            step["look"] = False
        save: str | None = getattr(self, "save", None)
        if save is not None:
            step["as"] = save
            self.saves(now, save, acting)
        self.after(now)
        return step

    def saves(self, now: Situation, name: str, acting: tuple[int, ...]) -> None:
        now.save(name, now.counts, acting)

    def after(self, now: Situation) -> None:
        """What later steps find changed."""


class OnVcpus(Verb, kw_only=True):
    """A step that one vCPU after the other takes. gap: what the VMM lets pass between two of them."""

    vcpu: Vcpus = msgspec.field(default_factory=lambda: Vcpus("all"))
    gap: Duration | None = None

    @property
    def who(self) -> str:
        apart = f", {self.gap} from one to the next" if self.gap is not None and self.gap.literal else ""
        return f"{self.vcpu}{apart}"

    def acting(self, now: Situation) -> tuple[int, ...]:
        chosen = self.vcpu.among(now.vcpus)
        for index in chosen:
            now.need_vcpu(index)
            now.need_outside(index)
        return chosen


def verb(
    actor: str, name: str, on: Iterable[str] = ANYWHERE, arch: Iterable[str] = ARCHITECTURES
) -> Callable[[type[Verb]], type[Verb]]:
    """on: the machines that can do it: the model, this host's KVM, a kernel in the lab. arch: where there is such."""

    def enter(cls: type[Verb]) -> type[Verb]:
        cls.actor, cls.name, cls.runs_on = actor, name, frozenset(on)
        for each in arch:
            VERBS[each][actor][name] = cls
        return cls

    return enter


def as_saved(save: str | None) -> str:
    """The end of a sentence: under which name the step saves what it gets."""
    return "" if save is None else f", as ${save}"
