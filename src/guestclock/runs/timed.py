"""What many reads of one kind took, as statistics: exact on the ticks that were counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import sqrt
from typing import Any


@dataclass(frozen=True, slots=True)
class Timed:
    """A read's samples on one machine. All results are in ticks of that machine's counter.

    counts: (ticks, how many samples), by ticks. exits, emulated: what KVM counted meanwhile, None where it does not:
    exits out of the guest, instructions carried out in the CPU's place.
    """

    counts: tuple[tuple[int, int], ...]
    exits: int | None = None
    emulated: int | None = None

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Timed:
        return cls(tuple((ticks, n) for ticks, n in line["counts"]), line["exits"], line["emulated"])

    @property
    def samples(self) -> int:
        return sum(n for _, n in self.counts)

    @property
    def average(self) -> Fraction:
        return _average(self.counts)

    @property
    def std_dev(self) -> float:
        """The standard deviation of these samples, all of them."""
        return sqrt(Fraction(sum(n * ticks**2 for ticks, n in self.counts), self.samples) - self.average**2)

    def percentile(self, percent: int) -> int:
        """The smallest sample that so many percent of all do not exceed (nearest rank)."""
        rank, found = -(-self.samples * percent // 100), 0
        for ticks, n in self.counts:
            found += n
            if found >= rank:
                return ticks
        raise ValueError(f"percent {percent}: expected 1..100")

    @property
    def minimum(self) -> int:
        return self.counts[0][0]

    @property
    def maximum(self) -> int:
        return self.counts[-1][0]

    def outlier_above(self, grain: int) -> int:
        """Beyond this, something else was in between: an interrupt of the host's, another thread.

        Three times the distance of the quartiles above the upper one (Tukey's far out). grain: by what the counter goes
        forward, in ticks: quartiles are known no better.
        """
        lower, upper = self.percentile(25), self.percentile(75)
        return upper + 3 * max(upper - lower, grain)

    def outliers(self, grain: int) -> int:
        """How many samples are outliers."""
        above = self.outlier_above(grain)
        return sum(n for ticks, n in self.counts if ticks > above)

    def undisturbed(self, grain: int) -> Fraction:
        """The average without the outliers."""
        above = self.outlier_above(grain)
        return _average((ticks, n) for ticks, n in self.counts if ticks <= above)

    @property
    def how(self) -> str:
        """What KVM's statistics say became of the reads: they left the guest, KVM emulated them, or neither."""
        if (self.exits or 0) >= self.samples:
            return "exits"
        if (self.emulated or 0) >= self.samples:
            return "emulated"
        return "native"


def _average(counts: Iterable[tuple[int, int]]) -> Fraction:
    total, samples = 0, 0
    for ticks, n in counts:
        total, samples = total + ticks * n, samples + n
    return Fraction(total, samples)
