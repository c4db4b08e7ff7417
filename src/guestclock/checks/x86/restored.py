"""x86: what a restore has left, each vCPU's TSC offset and the VM's kvmclock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from guestclock.arith import kvm_get_time_scale, pvclock_scale_delta, u64
from guestclock.checks.architecture import Left
from guestclock.checks.windows import apart
from guestclock.checks.x86.windows import VmClock

NSEC_PER_SEC = 1_000_000_000


def left(outcome: Any, where: tuple[int, int], once: Any, twice: Any) -> Iterator[Left]:
    """Of the VM (site, id) `where`; once, twice: the sections after each restore (checks.asks.Section)."""
    pages = [p for p in outcome.tracker.pages() if (p.site, p.vm) == where]
    for vcpu in sorted({p.vcpu for p in pages}):
        spans = [p for p in pages if p.vcpu == vcpu]
        old, new = _at(spans, once), _at(spans, twice)
        yield Left(f"vCPU {vcpu}'s TSC", "cycles", _moved(old, new))
    clocks = [c for c in outcome.tracker.clocks if (c.site, c.vm) == where]
    was, became = _at(clocks, once), _at(clocks, twice)
    if (was.snapshot is None) == (became.snapshot is None):
        yield Left(
            "kvmclock",
            "ns",
            lambda t: apart(_kvmclock(outcome, became, t(twice.end)), _kvmclock(outcome, was, t(twice.end))),
        )


def _moved(old: Any, new: Any) -> Callable[[Callable[[str], Any]], Any]:
    return lambda t: apart(new.offset, old.offset)


def _at(spans: list[Any], when: Any) -> Any:
    return [span for span in spans if span.opener <= when.number][-1]


def _kvmclock(outcome: Any, clock: VmClock, t: Any) -> Any:
    """KVM's own kvmclock at instant t, ns: by the snapshot (definition C), or only its offset where there is none."""
    if clock.snapshot is None:
        return clock.offset
    machine = outcome.kvms[clock.site].host.machine
    host_tsc, base_ns = clock.snapshot
    shift, mul = kvm_get_time_scale(NSEC_PER_SEC, machine.cpu_khz(0) * 1000)
    delta = u64(machine.counter.at(outcome.world.ps_of(t)) - host_tsc)
    return base_ns + clock.offset + pvclock_scale_delta(delta, mul, shift)
