"""Two traces of one program, operation by operation: what is common to all architectures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestclock.arith import s64
from guestclock.compare.aligned import HostCounter, operations
from guestclock.compare.verdict import Difference, Verdict
from guestclock.sim import Event, Trace

NO_COUNTER = ("Wait", "HostSleep", "CreateVm", "GetClock", "SetClock")
"""Operations on which no guest's counter depends, however long they take: creating a VM takes milliseconds."""


Group = tuple[Event, list[Event]]
"""An operation, and the tracepoints of it."""


class Unknown:
    """A number that stays the same while nothing sets it anew, and that each reading bounds: real minus model.

    Each reading leaves it open within a sandwich; what all of them leave open is far less. An empty rest is a
    difference, however small against any one sandwich.
    """

    def __init__(self) -> None:
        self.lo: int | None = None
        self.hi: int | None = None

    def fits(self, lo: int, hi: int) -> bool:
        """Narrows it to lo..hi; False, and left as it was, if nothing is left then."""
        least = lo if self.lo is None or lo > self.lo else self.lo
        most = hi if self.hi is None or hi < self.hi else self.hi
        if least > most:
            return False
        self.lo, self.hi = least, most
        return True

    def widen(self, lo: int, hi: int) -> None:
        """It may have been set anew, to something in lo..hi, or be what it was."""
        if self.lo is not None and self.hi is not None:
            self.lo, self.hi = min(self.lo, lo), max(self.hi, hi)

    @property
    def width(self) -> int:
        return 0 if self.lo is None or self.hi is None else self.hi - self.lo

    def __str__(self) -> str:
        return "unknown" if self.lo is None else f"{self.lo}..{self.hi}"


class Comparison:
    """An architecture's subclass says how its answers, readings and tracepoints are compared."""

    def __init__(self, real: Trace, model: Trace, true_hz: int | None = None) -> None:
        self.real, self.model = real, model
        self.counter = HostCounter.of(real, true_hz)
        self.widest_ns = self.widest_counter_ns = 0
        self.index, self.name = 0, ""
        self.model_event: Event
        self.result = Verdict([])

    def verdict(self) -> Verdict:
        traced = not any(e.name == "no-tracepoints" for e in self.real.events)
        pairs = zip(operations(self.real), operations(self.model), strict=True)
        for index, (real, model) in enumerate(pairs):
            self.index, self.name, self.model_event = index, real.name, model
            took_ns = (real.end_ps - real.start_ps) // 1000 + 1
            if real.name not in ("Wait", "HostSleep"):  # nothing is read in it
                self.widest_ns = max(self.widest_ns, took_ns)
            if real.name not in NO_COUNTER:
                self.widest_counter_ns = max(self.widest_counter_ns, took_ns)
            self.operation(real, model)
        if traced:
            self.tracepoints()
        return self.result

    # ---- comparing values

    def differs(self, what: str, real: Any, model: Any) -> None:
        self.result.differences.append(Difference(self.index, self.name, what, real, model))

    def same(self, what: str, real: Any, model: Any) -> None:
        if real == model:
            self.result.exact += 1
        else:
            self.differs(what, real, model)

    def near(self, what: str, real: int, model: int, slack: int) -> None:
        """Equal up to `slack`, as u64 values."""
        distance = abs(s64(real - model))
        if distance == 0:
            self.result.exact += 1
        elif distance <= slack:
            self.result.close += 1
        else:
            self.differs(f"{what} (±{slack})", real, model)

    def bounded(self, what: str, unknown: Unknown, lo: int, hi: int) -> None:
        """real - model lies in lo..hi, and so far in what `unknown` says: both must be true of one number."""
        if unknown.fits(lo, hi):
            self.result.exact += lo == hi
            self.result.close += lo != hi
            self.result.narrowest[what] = min(unknown.width, self.result.narrowest.get(what, unknown.width))
        else:
            self.differs(f"{what}: real - model", f"{lo}..{hi}", f"{unknown} before")

    # ---- operations

    def operation(self, real: Event, model: Event) -> None:
        self.same("refusal", real.data.get("error"), model.data.get("error"))
        if real.kind == "peek":
            self.reading("", real, real.data, model.data)
        elif real.kind == "host":
            self.host_clock(real, model)
        elif real.kind == "op" and "result" in real.data and "result" in model.data:
            self.answer(real, real.data["result"], model.data["result"])

    def host_clock(self, real: Event, model: Event) -> None:
        """A host's own clock; not compared unless an architecture says how."""

    def answer(self, real: Event, answered: Any, model: Any) -> None:
        """What an operation answered on both."""
        raise NotImplementedError

    def reading(self, whose: str, event: Event, real: dict[str, Any], model: dict[str, Any]) -> None:
        """What a vCPU's clocks read on both, in the operation of `event`."""
        raise NotImplementedError

    # ---- tracepoints

    def told(self, event: Event) -> str:
        """A tracepoint's name, and whose it is."""
        return f"{event.name} of vCPU {event.vcpu}"

    def compared(self, event: Event) -> bool:
        """Whether the model tells this tracepoint too."""
        return True

    def tracepoints(self) -> None:
        pairs = zip(self.real_groups(), self.model_groups(), strict=True)
        for index, ((operation, real), (_, model)) in enumerate(pairs):
            self.index, self.name = index, operation.name
            self.before_tracepoints(operation)
            names = [self.told(e) for e in real], [self.told(e) for e in model]
            self.same("tracepoints", *names)
            if names[0] == names[1]:
                for one, other in zip(real, model, strict=True):
                    self.result.tracepoints += 1
                    self.tracepoint(one, other)

    def before_tracepoints(self, operation: Event) -> None:
        """Before those of one operation are compared."""

    def tracepoint(self, real: Event, model: Event) -> None:
        """One line of the kernel's and the model's."""
        self.same(f"{real.name}", real.data["text"], model.data["text"])

    def real_groups(self) -> Iterator[Group]:
        """What is compared of the kernel's."""
        return self.telling(self.grouped_real())

    def model_groups(self) -> Iterator[Group]:
        """What is compared of the model's."""
        return self.telling(self.grouped_model())

    def telling(self, groups: Iterator[Group]) -> Iterator[Group]:
        """Without the tracepoints that say nothing of the rules."""
        return groups

    def grouped_real(self) -> Iterator[Group]:
        """Each operation with the tracepoints that came after its start and before the next one's."""
        points = sorted(filter(self.compared, self.real.of("tracepoint")), key=lambda e: e.start_ps)
        entries = operations(self.real)
        at = 0
        for entry, following in zip(entries, [*entries[1:], None], strict=True):
            group = []
            while at < len(points) and (following is None or points[at].start_ps < following.start_ps):
                group.append(points[at])
                at += 1
            yield entry, group

    def grouped_model(self) -> Iterator[Group]:
        """Each operation with the tracepoints emitted before it: the model emits an operation at its end."""
        group: list[Event] = []
        for event in self.model.events:
            if event.kind == "tracepoint":
                if self.compared(event):
                    group.append(event)
            elif event.kind != "guest":
                yield event, group
                group = []
