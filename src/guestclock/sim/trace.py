"""A run's trace: the one source for tables, figures and checks, the same for the model and for real kernels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from guestclock.errors import UserError

TRACE_VERSION = 1

KINDS = ("step", "op", "tracepoint", "peek", "guest", "host", "note")


@dataclass(slots=True)
class Event:
    """One thing that happened, or one reading.

    kind: `step` (a line of the scenario begins), `op` (a VMM's call with its answer), `tracepoint` (a line of the
      kernel's own), `peek` (what a vCPU's clocks show, looked at from outside: nothing in KVM moves), `guest` (what
      the guest itself read), `host` (host clocks, clocksource changes, sleep), `note` (anything else worth saying).
    name: the op's, tracepoint's or clock's name. start_ps <= end_ps: true time between which it happened (on a real
      host: its counter at the calibrated rate). vcpu: index, or None. data: JSON values only.
    """

    kind: str
    name: str
    start_ps: int
    end_ps: int
    vcpu: int | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "start_ps": self.start_ps, "end_ps": self.end_ps,
                "vcpu": self.vcpu, "data": self.data}  # fmt: skip


@dataclass(slots=True)
class Trace:
    """What one run of one scenario on one machine produced.

    meta: `on` ("model", "kvm", "lab:6.12"), `kernel` (profile or release), `tsc_khz`, `scenario`, `seed`, `commit`.
    """

    meta: dict[str, Any] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def of(self, *kinds: str) -> Iterator[Event]:
        return (e for e in self.events if e.kind in kinds)

    def save(self, out: TextIO) -> None:
        """One JSON object a line: the meta first, then each event."""
        out.write(json.dumps({"guestclock_trace": TRACE_VERSION, **self.meta}) + "\n")
        for event in self.events:
            out.write(json.dumps(event.as_json()) + "\n")

    @classmethod
    def load(cls, lines: Iterable[str], name: str = "trace") -> Trace:
        """Raises UserError naming the line that is not what `save` wrote, or a version this program does not know."""
        trace: Trace | None = None
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
                if trace is None:
                    version = record.pop("guestclock_trace")
                    if version != TRACE_VERSION:
                        raise UserError(f"{name}: line 1: trace version {version}, this program reads {TRACE_VERSION}")
                    trace = cls(meta=record)
                else:
                    trace.events.append(_checked(Event(**record)))
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{name}: line {number}: not an event of a guestclock trace ({error})") from None
        if trace is None:
            raise UserError(f"{name}: empty, expected a guestclock trace")
        return trace


def _checked(event: Event) -> Event:
    """The event, if its fields hold what their types say. Raises TypeError naming the first one that does not."""
    if event.kind not in KINDS:
        raise TypeError(f"kind {event.kind!r}, expected one of {', '.join(KINDS)}")
    expected = (("name", str), ("start_ps", int), ("end_ps", int), ("vcpu", int | None), ("data", dict))
    for name, kind in expected:
        value = getattr(event, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}")
    return event


Emit = Callable[[Event], None]
