"""A migration between two labs as text: how far each clock of each vCPU is off."""

from __future__ import annotations

from collections.abc import Iterator
from json import loads
from typing import TYPE_CHECKING, Any

from guestclock.check import Span
from guestclock.report.numbers import duration, short_duration, signed_span
from guestclock.scenario.snapshot_file import encode

if TYPE_CHECKING:
    from guestclock.runs.migrate import Migration, Off


def lines(done: Migration) -> Iterator[str]:
    """What was done, then a table, then what its words mean."""
    apart = f", whose wall clock is {_ahead(done.skew_ns)}" if done.skew_ns else ""
    yield f"{done.recipe.name}: {done.recipe.headline}"
    yield f"{done.source} to {done.destination}{apart}; the guest was away for {duration(round(done.away_ns))}"
    yield ""
    vcpus = sorted({off.vcpu for off in done.off})
    rows = [["", "meant to", *(f"vcpu{vcpu}" for vcpu in vcpus)]]
    for clock in dict.fromkeys(off.clock for off in done.off):
        offs = {off.vcpu: off for off in done.off if off.clock == clock}
        rows.append([clock, offs[vcpus[0]].meant, *(told(offs[vcpu]) for vcpu in vcpus)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        names = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        yield "  ".join(names + numbers).rstrip()
    yield ""
    yield (
        "Off: what a clock gained from the guest's last reading to its first there, less the true time between the two "
        "(run, advance) or less nothing (freeze)."
    )


def as_json(done: Migration) -> dict[str, Any]:
    """The same as JSON values; ns as they were reckoned, rounded to a thousandth."""
    return {
        "recipe": done.recipe.name,
        "from": done.source,
        "to": done.destination,
        "skew_ns": done.skew_ns,
        "away_ns": round(float(done.away_ns), 3),
        "off": [
            {
                "vcpu": off.vcpu,
                "clock": off.clock,
                "meant": off.meant,
                "off_ns": round(float(off.off_ns), 3),
                "within_ns": round(float(off.within_ns), 3),
            }
            for off in done.off
        ],
        "snapshot": loads(encode(done.snapshot)),
    }


def told(off: Off) -> str:
    """+282 ns, or +1.234 567 ms ± 3 µs: exact to the ns, but for what the readings leave open."""
    half = -(-off.within_ns // 1)
    middle = round(off.off_ns)
    return signed_span(Span(middle - int(half), middle + int(half)))


def _ahead(skew_ns: int) -> str:
    return f"{short_duration(abs(skew_ns)).lstrip('+')} {'ahead' if skew_ns > 0 else 'behind'}"
