"""Hardware counters as functions of true time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Protocol

from guestclock.arith import u64 as as_u64
from guestclock.sim.field import flag, integer, u64
from guestclock.sim.state import State
from guestclock.sim.timeline import PS_PER_S


class AnyCounter(Protocol):
    """What a machine counts with: its own hardware, or what the machine below shows its guest: a TSC, CNTVCT_EL0."""

    def at(self, ps: int, cpu: int = 0) -> int:
        """The counter, u64, of `cpu` at true time ps."""
        ...


class _Line(State):
    """One CPU's counter while its rate stays: base + (t - since) * rate."""

    base = u64("value at since_ps, cycles")
    since_ps = integer("true time of base, ps")
    rate_num = integer("cycles per second, numerator")
    per_ps = integer("and denominator, times the picoseconds of a second", PS_PER_S)
    held = flag("the counter does not count")


class Counter:
    """A counter of `hz` cycles per second that has `base` at `since_ps`, with one line per CPU.

    hz: true rate, an int or a Fraction. skew: cycles by which each CPU is ahead of `base` (a broken host), or none.
    Values are floored: `base + (t - since) * hz // 10^12`, u64.
    """

    def __init__(self, hz: int | Fraction, base: int = 0, since_ps: int = 0, skew: Sequence[int] = ()) -> None:
        rate = Fraction(hz)
        self._lines = [
            _Line(
                base=as_u64(base + ahead),
                since_ps=since_ps,
                rate_num=rate.numerator,
                per_ps=rate.denominator * PS_PER_S,
            )
            for ahead in (skew or (0,))
        ]

    def at(self, ps: int, cpu: int = 0) -> int:
        lines = self._lines
        line = lines[cpu if len(lines) > 1 else 0]
        if line.held:
            return line.base
        return as_u64(line.base + (ps - line.since_ps) * line.rate_num // line.per_ps)

    def line(self, cpu: int = 0) -> Callable[[int], int]:
        """What `at` answers as long as nobody changes this counter, also of other times: for onlookers."""
        line = self._line(cpu)
        base, since_ps, num, den, held = line.base, line.since_ps, line.rate_num, line.per_ps, line.held
        return lambda ps: base if held else as_u64(base + (ps - since_ps) * num // den)

    def set_rate(self, ps: int, hz: int | Fraction, cpu: int | None = None) -> None:
        """From ps on `cpu` (None: all) counts at hz. A fraction of a cycle is lost."""
        rate = Fraction(hz)
        for line in self._lines if cpu is None else [self._line(cpu)]:
            self._rebase(line, ps)
            line.rate_num, line.per_ps = rate.numerator, rate.denominator * PS_PER_S

    def hold(self, ps: int) -> None:
        """Stops at ps, on all CPUs."""
        for line in self._lines:
            self._rebase(line, ps)
            line.held = True

    def release(self, ps: int, base: int | None = None) -> None:
        """Counts again from ps on, from where it stopped or (all CPUs alike) from base."""
        for line in self._lines:
            line.base = line.base if base is None else base
            line.since_ps = ps
            line.held = False

    def _line(self, cpu: int) -> _Line:
        return self._lines[cpu if len(self._lines) > 1 else 0]

    def _rebase(self, line: _Line, ps: int) -> None:
        if not line.held:
            line.base = as_u64(line.base + (ps - line.since_ps) * line.rate_num // line.per_ps)
            line.since_ps = ps


class Derived:
    """A counter computed from another one's value: Hyper-V's reference time, a scaled or offset TSC."""

    def __init__(self, below: AnyCounter, rule: Callable[[int], int]) -> None:
        self.below, self.rule = below, rule

    def at(self, ps: int, cpu: int = 0) -> int:
        return self.rule(self.below.at(ps, cpu))
