"""Times that are not known: a stand-in for the explorer's forms, and a world whose steps are taken by hand."""

from __future__ import annotations

import operator
from collections.abc import Callable, Coroutine
from dataclasses import fields, is_dataclass
from typing import Any

from guestclock.kvm.model import lookup, model_kvm
from guestclock.machine import Arm64Machine, Arm64Spec, HostSpec, Machine, X86Machine
from guestclock.sim import PS_PER_NS, State, Timeline


class Unknown:
    """An int that can do only what a form over unknown event times can: `==` asks and so is allowed, hash() is not."""

    __hash__ = None  # type: ignore[assignment]
    __bool__ = None

    def __init__(self, value: int) -> None:
        self.value = value

    def _wrapped(self, bits: int, lowest: int) -> Unknown:
        return Unknown((self.value - lowest) % 2**bits + lowest)

    def wrap_u64(self) -> Unknown:
        return self._wrapped(64, 0)

    def wrap_s64(self) -> Unknown:
        return self._wrapped(64, -(2**63))

    def wrap_u32(self) -> Unknown:
        return self._wrapped(32, 0)

    def wrap_s32(self) -> Unknown:
        return self._wrapped(32, -(2**31))

    def __neg__(self) -> Unknown:
        return Unknown(-self.value)

    def __repr__(self) -> str:
        raise TypeError("the model formats a time that is not known")


def known(value: Any) -> Any:
    """The same without unknowns, inside lists, tuples and dataclasses too."""
    if isinstance(value, Unknown):
        return value.value
    if isinstance(value, list | tuple):
        return [known(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        return [known(getattr(value, f.name)) for f in fields(value)]
    return value


def _concrete_only(op: Callable[[int, int], int]) -> Callable[[Unknown, int], Unknown]:
    def apply(self: Unknown, other: int) -> Unknown:
        if type(other) is not int:
            raise TypeError(f"{op.__name__} of two unknowns")
        return Unknown(op(self.value, other))

    return apply


for _name in ("add", "sub"):
    _op = getattr(operator, _name)
    setattr(Unknown, f"__{_name}__", lambda self, other, op=_op: Unknown(op(self.value, known(other))))
    setattr(Unknown, f"__r{_name}__", lambda self, other, op=_op: Unknown(op(known(other), self.value)))
for _name in ("mul", "floordiv", "lshift", "rshift"):
    setattr(Unknown, f"__{_name}__", _concrete_only(getattr(operator, _name)))
Unknown.__rmul__ = Unknown.__mul__  # type: ignore[attr-defined]
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _op = getattr(operator, _name)
    setattr(Unknown, f"__{_name}__", lambda self, other, op=_op: op(self.value, known(other)))
Unknown.__hash__ = None  # type: ignore[assignment]


class UnknownTimeline(Timeline):
    """A timeline that hands out its time wrapped. true_ps: what it is. `wrap` leaves ints alone for the other half."""

    def __init__(self, wrap: Callable[[int], Any], section_ps: int) -> None:
        super().__init__(section_ps)
        self.wrap, self.true_ps = wrap, 0
        self.now_ps = wrap(0)

    def pass_ps(self, ps: int) -> None:
        self.true_ps += ps
        self.now_ps = self.wrap(self.true_ps)

    def read_ps(self) -> Any:
        now = self.now_ps
        self.pass_ps(known(self.section_ps))
        return now


class NominalTimers:
    """Delayed works wait as long as they were asked to: no look at the time, so none that must be known."""

    def delay_ps(self, ns: int) -> int:
        return ns * PS_PER_NS


def machine_of(arch: str, timeline: Timeline, spec: Any) -> Machine:
    """A machine of that architecture; spec: None is its default."""
    if arch == "x86_64":
        return X86Machine(timeline, spec or HostSpec())
    return Arm64Machine(timeline, spec or Arm64Spec())


class World:
    """One host, and actors whose steps `run` takes in a fixed order, each actor at its due time: no heap of times.

    step_ps: what a step without a stated delay takes. Due times are the driver's own, so they are ints in both worlds.
    """

    def __init__(
        self,
        kernel: str,
        wrap: Callable[[int], Any],
        spec: HostSpec | Arm64Spec | None = None,
        options: Any = None,
        step_ps: int = 1_234_567,
    ) -> None:
        self.timeline = UnknownTimeline(wrap, 20_011)
        profile = lookup(kernel)
        self.machine = machine_of(profile.arch, self.timeline, spec)
        self.step_ps = step_ps
        self.actors: list[list[Any]] = []
        self.kvm: Any = model_kvm(self.machine, profile, self, None, options)
        if profile.arch == "x86_64":
            self.kvm.host.timers = NominalTimers()

    def spawn(self, name: str, actor: Coroutine[Any, Any, Any], *, daemon: bool = False) -> None:
        self.actors.append([name, actor, self.timeline.true_ps, None, daemon])

    def run(self) -> None:
        """Until every actor that is no daemon has ended."""
        steps = 0
        while any(not daemon for *_, daemon in self.actors):
            entry = min((a for a in self.actors if self._may(a)), key=lambda a: a[2])
            self.timeline.pass_ps(max(0, entry[2] - self.timeline.true_ps))
            self.step(entry)
            steps += 1
            assert steps < 20_000
        for _, actor, *_ in self.actors:
            actor.close()

    def _may(self, entry: list[Any]) -> bool:
        return entry[3] is None or entry[3]()

    def step(self, entry: list[Any]) -> None:
        """One step of one actor."""
        try:
            _, until, delay_ps = entry[1].send(None)
        except StopIteration:
            self.actors.remove(entry)
            return
        assert delay_ps is None or type(delay_ps) is int, "a wait that is not known"
        entry[3] = until
        entry[2] = self.timeline.true_ps + (self.step_ps if delay_ps is None or until is not None else delay_ps)

    def remembered(self) -> list[Any]:
        """Every field of every state object of this KVM, in a fixed order, without unknowns."""
        seen: list[Any] = []
        todo: list[Any] = [self.kvm.host.state]
        done: list[State] = []
        while todo:
            state = todo.pop(0)
            if any(state is one for one in done):
                continue
            done.append(state)
            for name in sorted(state.fields):
                value = getattr(state, name)
                for one in value.values() if hasattr(value, "values") else value if type(value) is tuple else [value]:
                    if isinstance(one, State):
                        todo.append(one)
                    elif name != "kvm":
                        seen.append((type(state).__name__, name, known(one)))
        return seen
