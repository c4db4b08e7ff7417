"""Linear programs with certificates: the one module that touches floats, and none of them leaves it unproved.

A float optimum decides nothing. `maximum` answers an upper bound that its duals prove in whole numbers (weak duality);
`impossible` answers True only on a proof of infeasibility (Farkas) checked the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import frexp

import highspy
import numpy as np

from guestclock.arith.affine import Form, Symbol
from guestclock.explore.judge import Interval

_DUAL_BITS = 120
"""Duals are used as multiples of 2^-120: any non-negative numbers prove a bound, good ones a good bound."""

# (bits by which columns stay wider than 1, presolve): HiGHS answers "unknown" on some tiny programs, never on all of these.
_LADDER = ((0, "off"), (0, "on"), (10, "on"), (20, "off"), (40, "on"))


class NoAnswer(Exception):
    """HiGHS gave no status on any rung. The caller decides nothing from this: the bound is then unknown."""


@dataclass(frozen=True, slots=True)
class Optimum:
    """upper: proved, no feasible point is above it. found: the float optimum. point: where, rounded."""

    upper: Fraction
    found: float
    point: dict[Symbol, int]


@dataclass(slots=True)
class Count:
    """programs: solved. retries: rungs climbed. proofs: infeasibilities proved; unproved: claimed but not proved."""

    programs: int = 0
    retries: int = 0
    proofs: int = 0
    unproved: int = 0
    loose: int = 0


class Solver:
    """Solves programs `maximise objective where every row is at most 0 and every symbol in its box`."""

    def __init__(self) -> None:
        self.count = Count()
        self._highs = highspy.Highs()
        for option, value in (("output_flag", False), ("threads", 1)):
            self._highs.setOptionValue(option, value)

    def maximum(self, objective: Form, rows: Sequence[Form], box: Mapping[Symbol, Interval]) -> Optimum | None:
        """The certified optimum; None if there is no feasible point (which the caller may have proved by impossible()).

        Raises NoAnswer.
        """
        program = _Program(rows, box, objective)
        for spare, presolve in _LADDER:
            status = self._solve(program, spare, presolve)
            if status == highspy.HighsModelStatus.kInfeasible:
                return None
            if status == highspy.HighsModelStatus.kOptimal:
                return self._certified(program, objective)
            self.count.retries += 1
        raise NoAnswer

    def impossible(self, rows: Sequence[Form], box: Mapping[Symbol, Interval]) -> bool:
        """True only if it is proved, in whole numbers, that no point satisfies all rows."""
        program = _Program(rows, box, None)
        for spare, presolve in _LADDER:
            status = self._solve(program, spare, presolve)
            if status == highspy.HighsModelStatus.kOptimal:
                return False
            if status == highspy.HighsModelStatus.kInfeasible:
                break
            self.count.retries += 1
        else:
            return False
        elastic = _Program(rows, box, None, elastic=True)
        for spare, presolve in _LADDER:
            if self._solve(elastic, spare, presolve) == highspy.HighsModelStatus.kOptimal:
                if elastic.contradiction(self._duals(elastic)):
                    self.count.proofs += 1
                    return True
                break
        self.count.unproved += 1
        return False

    def _solve(self, program: _Program, spare: int, presolve: str) -> highspy.HighsModelStatus:
        self.count.programs += 1
        highs = self._highs
        highs.clearSolver()
        highs.setOptionValue("presolve", presolve)
        highs.passModel(program.scaled(spare))
        highs.run()
        return highs.getModelStatus()

    def _duals(self, program: _Program) -> list[int]:
        """Of each row, as multiples of 2^-_DUAL_BITS; never negative."""
        unit = 2.0**_DUAL_BITS
        scales = program.row_scale
        raw = self._highs.getSolution().row_dual
        return [int(-d / s * unit) if d < 0 else 0 for d, s in zip(raw, scales, strict=True)]

    def _certified(self, program: _Program, objective: Form) -> Optimum:
        solution = self._highs.getSolution()
        columns = solution.col_value
        point = program.point(columns)
        upper = program.proved_upper(objective, self._duals(program))
        found = program.value(objective, columns)
        if float(upper) - found > max(1e-2, 1e-9 * abs(found)):
            self.count.loose += 1
        return Optimum(upper, found, point)


class _Program:
    """Columns are shifted to their lower bound and scaled to a width of about 1, by powers of two: engine-spike trap 1."""

    def __init__(
        self,
        rows: Sequence[Form],
        box: Mapping[Symbol, Interval],
        objective: Form | None,
        elastic: bool = False,
    ) -> None:
        self.rows, self.objective, self.elastic = rows, objective, elastic
        names: dict[Symbol, int] = {}
        for form in (*rows, *([objective] if objective is not None else [])):
            for symbol in form.terms:
                names.setdefault(symbol, len(names))
        self.names = names
        self.low = [box[s][0] for s in names]
        self.width = [box[s][1] - box[s][0] for s in names]

    def scaled(self, spare: int) -> highspy.HighsLp:
        names, low, rows = self.names, self.low, self.rows
        columns = len(names) + self.elastic
        self.column_scale = scale = [2.0 ** max(0, w.bit_length() - spare) for w in self.width]
        start, index, value, bound, row_scale = [0], [], [], [], []
        for row in rows:
            const = row.const
            coefficients = []
            for symbol, c in row.terms.items():
                at = names[symbol]
                const += c * low[at]
                index.append(at)
                coefficients.append(c * scale[at])
            if self.elastic:
                index.append(columns - 1)
            top = max(map(abs, coefficients), default=1.0)
            unit = 2.0 ** -frexp(top)[1]
            row_scale.append(1 / unit)
            value += [c * unit for c in coefficients]
            if self.elastic:
                value.append(-1.0)
            bound.append(-const * unit)
            start.append(len(index))
        self.row_scale = row_scale
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = columns, len(rows)
        cost = np.zeros(columns)
        if self.objective is not None:
            den = self.objective.den
            for symbol, c in self.objective.terms.items():
                cost[names[symbol]] = -c / den * scale[names[symbol]]
        upper = [w / s for w, s in zip(self.width, scale, strict=True)]
        if self.elastic:
            cost[-1] = 1.0
            upper.append(highspy.kHighsInf)
        lp.col_cost_ = cost
        lp.col_lower_ = np.zeros(columns)
        lp.col_upper_ = np.array(upper)
        lp.row_lower_ = np.full(len(rows), -highspy.kHighsInf)
        lp.row_upper_ = np.array(bound, dtype=float)
        matrix = lp.a_matrix_
        matrix.format_ = highspy.MatrixFormat.kRowwise
        matrix.start_, matrix.index_ = np.array(start), np.array(index, dtype=np.int32)
        matrix.value_ = np.array(value, dtype=float)
        return lp

    def point(self, columns: Iterable[float]) -> dict[Symbol, int]:
        return {
            s: lo + round(x * k) for s, x, k, lo in zip(self.names, columns, self.column_scale, self.low, strict=False)
        }

    def value(self, objective: Form, columns: Sequence[float]) -> float:
        names, low, scale = self.names, self.low, self.column_scale
        least = objective.const + sum(c * low[names[s]] for s, c in objective.terms.items())
        more = sum(c * scale[names[s]] * columns[names[s]] / objective.den for s, c in objective.terms.items())
        return float(Fraction(least, objective.den)) + more

    def proved_upper(self, objective: Form, duals: list[int]) -> Fraction:
        """objective - sum of dual * row is at least the objective wherever the rows hold; its maximum over the box."""
        unit = 1 << _DUAL_BITS
        # The duals are those of the objective itself; here it is taken times its denominator.
        left = {s: c * unit for s, c in objective.terms.items()}
        const = objective.const * unit
        for row, dual in zip(self.rows, duals, strict=True):
            if dual:
                y = dual * objective.den
                const -= y * row.const
                for symbol, c in row.terms.items():
                    left[symbol] = left.get(symbol, 0) - y * c
        const += self._most(left)
        return Fraction(const, unit * objective.den)

    def contradiction(self, duals: list[int]) -> bool:
        """Whether the sum of dual * row is above 0 everywhere in the box, although every row shall be at most 0."""
        left: dict[Symbol, int] = {}
        const = 0
        for row, dual in zip(self.rows, duals, strict=True):
            if dual:
                const += dual * row.const
                for symbol, c in row.terms.items():
                    left[symbol] = left.get(symbol, 0) + dual * c
        return const - self._most({s: -c for s, c in left.items()}) > 0

    def _most(self, terms: dict[Symbol, int]) -> int:
        total = 0
        for symbol, c in terms.items():
            if c:
                at = self.names[symbol]
                total += c * (self.low[at] + self.width[at] if c > 0 else self.low[at])
        return total
