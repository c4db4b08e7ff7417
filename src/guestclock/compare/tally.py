"""What the comparisons of one kernel came to, counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from guestclock.compare.verdict import Verdict


@dataclass
class Tally:
    """Programs compared with one real kernel. repeated: runs that differed once and not again."""

    seeds: list[int] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    repeated: int = 0

    def add(self, seed: int, verdict: Verdict) -> None:
        self.seeds.append(seed)
        self.verdicts.append(verdict)

    def total(self, name: str) -> int:
        """A count of the verdicts', over all of them."""
        return sum(getattr(verdict, name) for verdict in self.verdicts)

    @property
    def different(self) -> int:
        """Programs in which the model and the kernel differ."""
        return sum(bool(verdict.differences) for verdict in self.verdicts)

    def numbers(self) -> dict[str, Any]:
        """Everything that is counted, for programs; narrowest: the widest that a number was left open, by its name."""
        left_open: Counter[str] = Counter()
        for verdict in self.verdicts:
            for name, width in verdict.narrowest.items():
                left_open[name] = max(left_open[name], width)
        counts = ("tracepoints", "exact", "close", "on_line", "open_outcome", "exits")
        return {
            "programs": len(self.seeds),
            "different": self.different,
            **{name: self.total(name) for name in counts},
            "repeated": self.repeated,
            "left_open": dict(left_open),
        }

    def line(self, where: str) -> str:
        """All of it in one sentence."""
        differences = sum(len(verdict.differences) for verdict in self.verdicts)
        parts = [
            f"{self.total('tracepoints')} tracepoints",
            f"{self.total('exact')} values equal to the last bit",
            f"{self.total('close')} within their sandwich",
        ]
        for count, told in (
            (self.total("on_line"), "snapshots on the raw clock's line"),
            (self.total("open_outcome"), "programs whose instants left an outcome open"),
            (self.total("exits"), "exits for host interrupts that gave a page"),
            (self.repeated, "runs repeated because the host disturbed them"),
        ):
            if count:
                parts.append(f"{count} {told}")
        seeds = f"seed {self.seeds[0]}" if len(self.seeds) == 1 else f"seeds {min(self.seeds)} to {max(self.seeds)}"
        programs = f"{len(self.seeds)} random program{'s' if len(self.seeds) != 1 else ''}, {seeds}"
        return f"{where}: {programs}: {differences} differences; {', '.join(parts)}"
