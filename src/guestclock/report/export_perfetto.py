"""A violation as a Chrome/Perfetto trace: the VMM's calls, KVM's work, the guest's windows, and each clock's error.

JSON object format of the Trace Event Format: ts and dur in microseconds, here from the start of the run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from guestclock import __version__
from guestclock.arith import s64
from guestclock.checks.replay_file import ReplayFile, portable
from guestclock.checks.story import Story
from guestclock.checks.whole_run import clock_error_ns, timed_calls
from guestclock.report.check_story import told
from guestclock.report.check_words import who_named

VMM, KVM, GUEST, STORY = 1, 2, 3, 4
NAMES = {VMM: "VMM", KVM: "KVM", GUEST: "guest", STORY: "story"}


def perfetto(file: ReplayFile, story: Story, name: str) -> str:
    """The trace as JSON text; ui.perfetto.dev and chrome://tracing open it."""
    document = {
        "traceEvents": [
            *_names(story),
            *_calls(story),
            *_kernel(story),
            *_windows(story),
            *_errors(story),
            *_told(story),
        ],
        "displayTimeUnit": "ns",
        "otherData": {
            "guestclock": __version__,
            "replay": name,
            "property": file.property,
            "kernel": portable(file.spec.kernel),
            "value": f"{story.value} {file.unit} {file.sense}: {who_named(file.who)}",
        },
    }
    return json.dumps(document, indent=1) + "\n"


def _us(story: Story, units: int) -> float:
    return story.ps(units) / 1e6


def _names(story: Story) -> Iterator[dict[str, Any]]:
    for pid, name in NAMES.items():
        yield {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "ts": 0, "args": {"name": name}}
    for tid, name in _threads(story).items():
        yield {"ph": "M", "name": "thread_name", "pid": GUEST, "tid": tid, "ts": 0, "args": {"name": name}}


def _threads(story: Story) -> dict[int, str]:
    windows = story.outcome.tracker.windows()
    several = len({(w.site, w.vm) for w in windows}) > 1
    return {_tid(w.site, w.vm, w.vcpu): _vcpu(w.site, w.vm, w.vcpu, several) for w in windows}


def _tid(site: int, vm: int, vcpu: int) -> int:
    return (site * 16 + vm) * 64 + vcpu + 1


def _vcpu(site: int, vm: int, vcpu: int, several: bool) -> str:
    where = f"host {site} " if site else ""
    return f"{where}VM {vm} vcpu{vcpu}" if several else f"vcpu{vcpu}"


def _calls(story: Story) -> Iterator[dict[str, Any]]:
    for timed in timed_calls(story):
        op = timed.call.op
        start = _us(story, timed.started)
        yield {
            "ph": "X",
            "name": op.name,
            "cat": timed.call.phase,
            "pid": VMM,
            "tid": 1,
            "ts": start,
            "dur": max(_us(story, timed.ended) - start, 0.001),
            "args": {**_plain(op.as_json()), "error": timed.call.error},
        }


def _kernel(story: Story) -> Iterator[dict[str, Any]]:
    for event in story.events:
        if event.kind == "tracepoint":
            args = {"text": event.data.get("text", "")}
            tid = 0 if event.vcpu is None else event.vcpu + 1
            yield {
                "ph": "i",
                "s": "t",
                "name": event.name,
                "pid": KVM,
                "tid": tid,
                "ts": event.start_ps / 1e6,
                "args": args,
            }


def _windows(story: Story) -> Iterator[dict[str, Any]]:
    values = story.world.schedule.values
    end = max(values[event.end] for event in story.world.events)
    for w in story.outcome.tracker.windows():
        opened, closed = values[w.opened], end if w.closed is None else values[w.closed]
        args = {"offset": s64(w.offset), "stable": w.stable, "phase": w.phase}
        yield {
            "ph": "X",
            "name": "in the guest",
            "cat": w.phase,
            "pid": GUEST,
            "tid": _tid(w.site, w.vm, w.vcpu),
            "ts": _us(story, opened),
            "dur": max(_us(story, closed) - _us(story, opened), 0.001),
            "args": args,
        }


def _errors(story: Story) -> Iterator[dict[str, Any]]:
    """A counter per vCPU and clock: by how much it is ahead of true time since its first reading."""
    for vcpu, clock, units, error in clock_error_ns(story):
        yield {
            "ph": "C",
            "name": f"vcpu{vcpu} {clock} - true time (ns)",
            "pid": GUEST,
            "tid": 0,
            "ts": _us(story, units),
            "args": {"ns": error},
        }


def _told(story: Story) -> Iterator[dict[str, Any]]:
    for step, row in zip(story.steps, told(story), strict=True):
        ts = _us(story, step.units)
        yield {"ph": "i", "s": "g", "name": row.text, "pid": STORY, "tid": 1, "ts": ts, "args": {"actor": row.actor}}


def _plain(op: dict[str, Any]) -> dict[str, Any]:
    """Words of 64 bits as text: a trace viewer's numbers are floats."""
    return {k: str(v) if isinstance(v, int) and abs(v) >= 2**53 else v for k, v in op.items()}


PARTS = (_names, _calls, _kernel, _windows, _errors, _told)
