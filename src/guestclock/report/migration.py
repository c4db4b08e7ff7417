"""A migration between two labs as text: how far each clock is off, on the kernel and on the model; check's bound."""

from __future__ import annotations

from collections.abc import Iterator
from json import loads
from typing import TYPE_CHECKING, Any

from guestclock.check import Span
from guestclock.report.numbers import duration, short_duration, signed_span
from guestclock.scenario.snapshot_file import encode

if TYPE_CHECKING:
    from guestclock.judges.migration import JudgedMigration, MovedRow
    from guestclock.runs.migrate import Off

SHOWN = 5


def lines(judged: JudgedMigration) -> Iterator[str]:
    """What was done, whether all three agree, a table, and what its words mean."""
    done = judged.migration
    apart = f", whose wall clock is {_ahead(done.skew_ns)}" if done.skew_ns else ""
    yield f"{done.recipe.name}: {done.recipe.headline}"
    yield f"{done.source} to {done.destination}{apart}; the guest was away for {duration(round(done.away_ns))}"
    yield ""
    profiles = " to ".join(dict.fromkeys(judged.profiles))
    yield f"{'AGREE' if judged.agree else 'DISAGREE'}  kernel, model and check ({profiles})"
    yield from (f"  traces differ: {text}" for text in judged.differences[:SHOWN])
    if len(judged.differences) > SHOWN:
        yield f"  and {len(judged.differences) - SHOWN} more"
    yield from (f"  {_who(row)}: {row.why}" for row in judged.rows if row.why)
    yield ""
    yield from _table(judged.rows)
    yield ""
    yield from dict.fromkeys(f"{row.kernel.clock}: {row.check}" for row in judged.rows if row.bound_ns is None)
    yield (
        "Off: what a clock gained from the guest's last reading to its first there, less the true time between the two "
        "(run, advance) or less nothing (freeze). Check: the most that it can be off, with calls as long as these were."
    )


def as_json(judged: JudgedMigration) -> dict[str, Any]:
    """The same as JSON values; ns as they were reckoned, rounded to a thousandth."""
    done = judged.migration
    return {
        "recipe": done.recipe.name,
        "from": str(done.source),
        "to": str(done.destination),
        "skew_ns": done.skew_ns,
        "away_ns": round(float(done.away_ns), 3),
        "agree": judged.agree,
        "profiles": list(judged.profiles),
        "differences": judged.differences,
        "off": [
            {
                "vcpu": row.kernel.vcpu,
                "clock": row.kernel.clock,
                "meant": row.kernel.meant,
                **_plain(row.kernel),
                "model": None if row.model is None else _plain(row.model),
                "check": row.check,
                "bound_ns": row.bound_ns,
                "why": row.why,
            }
            for row in judged.rows
        ],
        "snapshot": loads(encode(done.snapshot)),
    }


def told(off: Off) -> str:
    """+282 ns, or +1.234 567 ms ± 3 µs: exact to the ns, but for what the readings leave open."""
    half = -(-off.within_ns // 1)
    middle = round(off.off_ns)
    return signed_span(Span(middle - int(half), middle + int(half)))


def _plain(off: Off) -> dict[str, float]:
    return {"off_ns": round(float(off.off_ns), 3), "within_ns": round(float(off.within_ns), 3)}


def _table(rows: list[MovedRow]) -> Iterator[str]:
    cells = [["", "", "meant to", "kernel", "model", "check: at most"]]
    for row in rows:
        model = "" if row.model is None else told(row.model)
        bound = "" if row.bound_ns is None else duration(row.bound_ns)
        cells.append([row.kernel.clock, f"vcpu{row.kernel.vcpu}", row.kernel.meant, told(row.kernel), model, bound])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        names = [cell.ljust(width) for cell, width in zip(line[:3], widths[:3], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(line[3:], widths[3:], strict=True)]
        yield "  ".join(names + numbers).rstrip()


def _who(row: MovedRow) -> str:
    return f"{row.kernel.clock} of vcpu{row.kernel.vcpu}"


def _ahead(skew_ns: int) -> str:
    return f"{short_duration(abs(skew_ns)).lstrip('+')} {'ahead' if skew_ns > 0 else 'behind'}"
