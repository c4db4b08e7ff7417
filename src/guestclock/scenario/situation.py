"""What is known of a scenario before each of its steps, without running it: vCPUs, who is in KVM_RUN, saved values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from guestclock.scenario.quantity import (
    Cycles,
    Nanoseconds,
    Quantity,
    Term,
    did_you_mean,
    dollars,
)


class Wrong(Exception):
    """A key of a step that does not fit: the key, and in what way."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(what)
        self.key, self.what = key, what


@dataclass(frozen=True, slots=True)
class Saved:
    """A value that an earlier step saves. unit: "cycles", "ticks" or "ns". vcpus: one value for each of them."""

    unit: str
    vcpus: tuple[int, ...] = ()


@dataclass(slots=True)
class Situation:
    """The newest VM as a step finds it. counts: what its counters count: "cycles" or "ticks"."""

    vcpus: int
    default_vcpus: int
    counts: str = "cycles"
    saved: dict[str, Saved] = field(default_factory=dict)
    saved_later: dict[str, int] = field(default_factory=dict)
    """Names that some step saves, and the (last) step that does, counted from 1."""
    running_since: dict[int, int] = field(default_factory=dict)
    in_l2_since: dict[int, int] = field(default_factory=dict)
    has_el2: bool = True
    """Whether vCPUs can run a guest of their own: on x86_64 they all can."""
    tsc_scaling: str | None = None
    step: int = 0

    def new_vm(self, vcpus: int) -> None:
        """Steps act on the newest VM; what ran in an older one is out of reach."""
        self.vcpus = vcpus
        self.running_since.clear()
        self.in_l2_since.clear()

    def need_vcpu(self, index: int) -> None:
        if not 0 <= index < self.vcpus:
            have = "only vCPU 0 exists" if self.vcpus == 1 else f"vCPUs 0 to {self.vcpus - 1} exist"
            raise Wrong("vcpu", f"vCPU {index} does not exist here: {have}")

    def need_outside(self, index: int) -> None:
        """vCPU ioctls wait for the vCPU's mutex, which KVM_RUN holds until it is left: this step would never end."""
        if index in self.running_since:
            since = self.running_since[index]
            raise Wrong(
                "vcpu", f"vCPU {index} is in KVM_RUN since [[step]] {since} and holds its mutex: 'kick' it first"
            )

    def enter_l2(self, acting: Iterable[int]) -> None:
        """One level: what runs in an L2 is no hypervisor here, so there is no L3."""
        for index in acting:
            self._need_el2(index)
            if index in self.in_l2_since:
                since = f"[[step]] {self.in_l2_since[index]}"
                raise Wrong("vcpu", f"vCPU {index} runs an L2 since {since}, and there is no L3: 'exit-l2' first")
            self.in_l2_since[index] = self.step

    def exit_l2(self, acting: Iterable[int]) -> None:
        for index in acting:
            self._need_el2(index)
            if index not in self.in_l2_since:
                raise Wrong("vcpu", f"vCPU {index} runs no L2: 'enter-l2' before it")
            del self.in_l2_since[index]

    def _need_el2(self, index: int) -> None:
        if not self.has_el2:
            raise Wrong("vcpu", f"vCPU {index} has no EL2, where a hypervisor runs: expected nested = true in [vm]")

    def save(self, name: str, unit: str, vcpus: tuple[int, ...] = ()) -> None:
        self.saved[name] = Saved(unit, vcpus)

    def terms(self, key: str, quantity: Quantity, acting: tuple[int, ...]) -> list[list[Any]]:
        """The quantity in the form that `vmm.steps` adds up; acting: the vCPUs the step acts on, in order."""
        return [self._term(key, quantity, term, acting) for term in quantity.terms]

    def _term(self, key: str, quantity: Quantity, term: Term, acting: tuple[int, ...]) -> list[Any]:
        if term.kind in ("int", "ns"):
            return [term.kind, term.value, term.factor]
        name = str(term.value)
        base, _, part = name.partition(".")
        saved = self._find(key, base)
        if term.kind == "max":
            if not saved.vcpus:
                raise Wrong(key, f"max(${name}): '${name}' is one value, expected one saved for several vCPUs")
            unit, which = saved.unit, [f"{base}.{i}" for i in saved.vcpus]
        elif part.isdigit() and saved.vcpus:
            if int(part) not in saved.vcpus:
                raise Wrong(key, f"'${base}' was not saved for vCPU {part}, only for {_listed(saved.vcpus)}")
            unit, which = saved.unit, [name]
        elif part:
            unit, which = self._find(key, name).unit, [name]
        elif len(saved.vcpus) > 1:
            missing = sorted(set(acting) - set(saved.vcpus))
            if missing or not acting:
                who = f"vCPU {missing[0]} has none" if missing else "say which with '$name.0' or 'max($name)'"
                raise Wrong(key, f"'${name}' was saved for each of {_listed(saved.vcpus)}: {who}")
            unit, which = saved.unit, []
        else:
            unit, which = saved.unit, [name]
        if isinstance(quantity, Nanoseconds) and unit != "ns":
            raise Wrong(key, f"'${name}' is in {unit}, expected {quantity.WANTED}")
        suffix = "-ns" if unit == "ns" and isinstance(quantity, Cycles) else ""
        if term.kind == "max":
            return ["max" + suffix, which, term.factor]
        return ["var" + suffix, *which, term.factor] if which else ["own" + suffix, name, term.factor]

    def _find(self, key: str, name: str) -> Saved:
        if name in self.saved:
            return self.saved[name]
        if name in self.saved_later:
            raise Wrong(key, f"'${name}' is used before it is saved (by [[step]] {self.saved_later[name]})")
        raise Wrong(key, f"unknown variable '${name}'{did_you_mean(f'${name}', dollars(self.saved))}")


def _listed(vcpus: tuple[int, ...]) -> str:
    return "vCPU " + ", ".join(map(str, vcpus))
