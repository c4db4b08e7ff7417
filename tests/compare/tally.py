"""What the comparisons of one session came to, told at its end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

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

    def line(self, where: str) -> str:
        def total(name: str) -> int:
            return sum(getattr(v, name) for v in self.verdicts)

        differences = sum(len(v.differences) for v in self.verdicts)
        return (
            f"{where}: {len(self.seeds)} random programs, seeds {min(self.seeds)} to {max(self.seeds)}: {differences} "
            f"differences; {total('tracepoints')} tracepoints, {total('exact')} values equal to the last bit, "
            f"{total('close')} within their sandwich, {total('on_line')} snapshots on the raw clock's line, "
            f"{total('open_outcome')} programs whose instants left an outcome open, {total('exits')} exits for host "
            f"interrupts that gave a page, {self.repeated} runs repeated because the host disturbed them"
        )


TALLIES: dict[str, Tally] = {}


def tally(where: str) -> Tally:
    return TALLIES.setdefault(where, Tally())


def told(differences: Iterable[object]) -> str:
    return "\n".join(str(d) for d in differences)
