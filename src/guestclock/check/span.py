"""What a reading leaves open: a value between two bounds, both included."""

from __future__ import annotations

from dataclasses import dataclass

WORD = 2**64
NEAR_ZERO = 2**60


@dataclass(frozen=True, slots=True)
class Span:
    """lo <= the true value <= hi, in whatever unit the name that holds it says. Sums of spans are exact bounds."""

    lo: int
    hi: int

    def __post_init__(self) -> None:
        assert self.lo <= self.hi, f"empty span {self.lo}..{self.hi}"

    @classmethod
    def of(cls, *values: int) -> Span:
        """The smallest span that holds these values."""
        return cls(min(values), max(values))

    def __add__(self, other: Span | int) -> Span:
        low, high = (other.lo, other.hi) if isinstance(other, Span) else (other, other)
        return Span(self.lo + low, self.hi + high)

    def __sub__(self, other: Span | int) -> Span:
        low, high = (other.lo, other.hi) if isinstance(other, Span) else (other, other)
        return Span(self.lo - high, self.hi - low)

    def __neg__(self) -> Span:
        return Span(-self.hi, -self.lo)

    def __contains__(self, value: int) -> bool:
        return self.lo <= value <= self.hi

    def meets(self, other: Span) -> bool:
        return self.lo <= other.hi and other.lo <= self.hi

    def common(self, other: Span) -> Span | None:
        """Where both can be true at once; None if nowhere."""
        return Span(max(self.lo, other.lo), min(self.hi, other.hi)) if self.meets(other) else None

    @property
    def middle(self) -> int:
        return (self.lo + self.hi) // 2

    @property
    def exact(self) -> int:
        """The value where the bounds leave no choice."""
        assert self.lo == self.hi, f"{self.lo}..{self.hi} is no single value"
        return self.lo

    @property
    def width(self) -> int:
        return self.hi - self.lo


def through_zero(amount: Span) -> Span:
    """A difference of two u64, one of them a little below 0, as the small one it is: 2^64 - 7 ahead is 7 behind.

    Up to 2^60 (14 years at 2.6 GHz): offsets make such values. Beyond it, 0xc000... is what it reads as.
    """
    if amount.lo > WORD - NEAR_ZERO:
        return amount - WORD
    return amount + WORD if amount.hi < NEAR_ZERO - WORD else amount
