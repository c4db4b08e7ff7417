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
_POINT_BITS = 40
_ROUNDS = 5
_CLOSE = Fraction(1, 64)
_FAR = 1e15
_CLOSE_GAP = Fraction(1, 256)
_LARGEST_BASIS = 40
_ELASTIC = "+z"

# (bits by which columns stay wider than 1, presolve): HiGHS says "unknown" to some tiny programs, never on all rungs.
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
    """programs: solved. retries: rungs climbed. proofs: infeasibilities proved; unproved: claimed but not proved.

    refined: rounds of refinement; loose: optima whose point and proof stayed apart.
    """

    programs: int = 0
    retries: int = 0
    proofs: int = 0
    unproved: int = 0
    refined: int = 0
    loose: int = 0


class Solver:
    """Solves programs `maximise objective where every row is at most 0 and every symbol in its box`."""

    def __init__(self) -> None:
        self.count = Count()
        self._highs = highspy._core._Highs()  # its subclass prints a banner when it is made (1.16), whatever one says
        for option, value in (("output_flag", False), ("threads", 1)):
            self._highs.setOptionValue(option, value)

    def maximum(self, objective: Form, rows: Sequence[Form], box: Mapping[Symbol, Interval]) -> Optimum | None:
        """The certified optimum; None if there is no feasible point (which the caller may have proved by impossible()).

        Raises NoAnswer.
        """
        program = _Program(rows, box, objective)
        if not program.names:
            fixed = Fraction(objective.const, objective.den)
            return None if any(row.const > 0 for row in rows) else Optimum(fixed, float(fixed), {})
        best: Optimum | None = None
        for spare, presolve in _LADDER:
            status = self._solve(program.scaled(spare), presolve)
            if status == highspy.HighsModelStatus.kInfeasible and best is None:
                return None
            if status == highspy.HighsModelStatus.kOptimal:
                again = self._certified(program, objective)
                # Each rung's bound is proved, and each rung's point is one: the least and the highest of them.
                if best is None:
                    best = again
                else:
                    higher = again if again.found > best.found else best
                    best = Optimum(min(again.upper, best.upper), higher.found, higher.point)
                if float(best.upper) - best.found <= max(0.01, 1e-9 * abs(best.found)):
                    return best
            self.count.retries += 1
        if best is None:
            raise NoAnswer
        self.count.loose += 1
        return best

    def impossible(self, rows: Sequence[Form], box: Mapping[Symbol, Interval]) -> bool:
        """True only if it is proved, in whole numbers, that no point satisfies all rows."""
        program = _Program(rows, box, None)
        if not program.names:
            return any(row.const > 0 for row in rows)
        for spare, presolve in _LADDER:
            status = self._solve(program.scaled(spare), presolve)
            if status == highspy.HighsModelStatus.kOptimal:
                return False
            if status == highspy.HighsModelStatus.kInfeasible:
                break
            self.count.retries += 1
        else:
            return False
        elastic = _Program(rows, box, None, elastic=True)
        for spare, presolve in _LADDER:
            if self._solve(elastic.scaled(spare), presolve) == highspy.HighsModelStatus.kOptimal:
                exact = elastic.duals_of_basis(None, self._highs.getBasis())
                if elastic.contradiction(self._duals(elastic)) or (exact and elastic.contradiction(exact)):
                    self.count.proofs += 1
                    return True
        self.count.unproved += 1
        return False

    def _solve(self, lp: highspy.HighsLp, presolve: str) -> highspy.HighsModelStatus:
        self.count.programs += 1
        highs = self._highs
        highs.clearSolver()
        highs.setOptionValue("presolve", presolve)
        highs.passModel(lp)
        highs.run()
        return highs.getModelStatus()

    def _duals(self, program: _Program) -> list[int]:
        """Of each row, as multiples of 2^-_DUAL_BITS; never negative."""
        unit = 2.0**_DUAL_BITS
        scales = program.row_scale
        raw = self._highs.getSolution().row_dual
        return [int(-d / s * unit) if d < 0 else 0 for d, s in zip(raw, scales, strict=True)]

    def _certified(self, program: _Program, objective: Form) -> Optimum:
        """The bound that the duals prove, and a point that is refined until it misses no row by much.

        How far the float answer misses the rows is computed exactly, and the program solved again around it at that
        scale: each round gains the digits that a tolerance of 10^-7 of the widest column had swallowed (iterative
        refinement, Gleixner, Steffy, Wolter 2012).
        """
        point = program.exact_point(self._highs.getSolution().col_value)
        upper = program.proved_upper(objective, self._duals(program))
        if upper - program.value(objective, point) > _CLOSE_GAP:
            exact = program.duals_of_basis(objective, self._highs.getBasis())
            if exact is not None:
                upper = min(upper, program.proved_upper(objective, exact))
        short = program.shortfall(point)
        for _ in range(_ROUNDS):
            if short <= _CLOSE:
                break
            # A slope of 10^-8 is nothing at that scale, so the point is only let go as far as it has to.
            for reach in (2.0**12, 2.0**24, _FAR):
                lp, unit = program.closer(objective, point, short, reach)
                if self._solve(lp, "off") == highspy.HighsModelStatus.kOptimal:
                    break
                self.count.retries += 1
            else:
                break
            moved = [p + int(x * unit) for p, x in zip(point, self._highs.getSolution().col_value, strict=True)]
            missed = program.shortfall(moved)
            if missed >= short:
                break
            point, short = moved, missed
            upper = min(upper, program.proved_upper(objective, self._duals(program)))
            self.count.refined += 1
        return Optimum(upper, float(program.value(objective, point)), program.rounded(point))


def _solved(rows: list[list[Fraction]]) -> list[Fraction] | None:
    """The solution of a square system, its right-hand sides in the last column; None if it has not exactly one."""
    n = len(rows)
    for k in range(n):
        pivot = next((i for i in range(k, n) if rows[i][k]), None)
        if pivot is None:
            return None
        rows[k], rows[pivot] = rows[pivot], rows[k]
        lead = rows[k][k]
        rows[k] = [x / lead for x in rows[k]]
        for i in range(n):
            factor = rows[i][k]
            if i != k and factor:
                rows[i] = [x - factor * y for x, y in zip(rows[i], rows[k], strict=True)]
    return [row[n] for row in rows]


class _Program:
    """Columns are shifted to their lower bound and scaled to a width of about 1, by powers of two."""

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

    def exact_point(self, columns: Iterable[float]) -> list[int]:
        """Columns as multiples of 2^-_POINT_BITS."""
        unit = 2.0**_POINT_BITS
        return [
            (lo << _POINT_BITS) + int(x * k * unit)
            for x, k, lo in zip(columns, self.column_scale, self.low, strict=False)
        ]

    def rounded(self, point: Sequence[int]) -> dict[Symbol, int]:
        half = 1 << _POINT_BITS - 1
        return {s: x + half >> _POINT_BITS for s, x in zip(self.names, point, strict=True)}

    def value(self, objective: Form, point: Sequence[int]) -> Fraction:
        names = self.names
        total = (objective.const << _POINT_BITS) + sum(c * point[names[s]] for s, c in objective.terms.items())
        return Fraction(total, objective.den << _POINT_BITS)

    def _slack(self, row: Form, point: Sequence[int]) -> int:
        names = self.names
        return -(row.const << _POINT_BITS) - sum(c * point[names[s]] for s, c in row.terms.items())

    def shortfall(self, point: Sequence[int]) -> Fraction:
        """The most by which a row (over its largest coefficient) or a bound is missed."""
        worst = Fraction(0)
        for row in self.rows:
            slack = self._slack(row, point)
            if slack < 0:
                worst = max(worst, Fraction(-slack, max(map(abs, row.terms.values()), default=1)))
        for x, lo, width in zip(point, self.low, self.width, strict=True):
            worst = max(worst, Fraction((lo << _POINT_BITS) - x), Fraction(x - (lo + width << _POINT_BITS)))
        return worst / (1 << _POINT_BITS)

    def closer(
        self, objective: Form, point: Sequence[int], short: Fraction, reach: float
    ) -> tuple[highspy.HighsLp, float]:
        """The program within `reach` of `point` in units of about `short`; that unit, as a count of 2^-_POINT_BITS."""
        names, columns = self.names, len(self.names)
        scale = 2.0 ** (frexp(float(short))[1] - 4)
        unit = scale * 2.0**_POINT_BITS
        cost = np.zeros(columns)
        for symbol, c in objective.terms.items():
            cost[names[symbol]] = -c / objective.den * scale
        start, index, value, bound = [0], [], [], []
        self.row_scale = []
        for row in self.rows:
            largest = max(map(abs, row.terms.values()), default=1)
            self.row_scale.append(largest * scale)
            for symbol, c in row.terms.items():
                index.append(names[symbol])
                value.append(c / largest)
            bound.append(min(float(Fraction(self._slack(row, point), largest)) / unit, _FAR))
            start.append(len(index))
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = columns, len(self.rows)
        lp.col_cost_ = cost
        ends = [(lo << _POINT_BITS, lo + width << _POINT_BITS) for lo, width in zip(self.low, self.width, strict=True)]
        lp.col_lower_ = np.array([max(float(a - x) / unit, -reach) for (a, _), x in zip(ends, point, strict=True)])
        lp.col_upper_ = np.array([min(float(b - x) / unit, reach) for (_, b), x in zip(ends, point, strict=True)])
        lp.row_lower_ = np.full(len(self.rows), -highspy.kHighsInf)
        lp.row_upper_ = np.array(bound, dtype=float)
        matrix = lp.a_matrix_
        matrix.format_ = highspy.MatrixFormat.kRowwise
        matrix.start_, matrix.index_ = np.array(start), np.array(index, dtype=np.int32)
        matrix.value_ = np.array(value, dtype=float)
        return lp, unit

    def duals_of_basis(self, objective: Form | None, basis: highspy.HighsBasis) -> list[int] | None:
        """The duals that make every basic column's cost vanish, solved in fractions; None if the basis is singular."""
        basic = highspy.HighsBasisStatus.kBasic
        columns = [s for s, status in zip([*self.names, _ELASTIC], basis.col_status, strict=False) if status == basic]
        active = [i for i, status in enumerate(basis.row_status) if status != basic]
        if len(columns) != len(active) or len(columns) > _LARGEST_BASIS:
            return None
        costs = {_ELASTIC: Fraction(-1)}
        if objective is not None:
            costs = {s: Fraction(c, objective.den) for s, c in objective.terms.items()}

        def entry(i: int, symbol: Symbol) -> Fraction:
            return Fraction(-self.row_scale[i]) if symbol == _ELASTIC else Fraction(self.rows[i].terms.get(symbol, 0))

        rows = [[entry(i, s) for i in active] + [costs.get(s, Fraction(0))] for s in columns]
        solved = _solved(rows)
        if solved is None:
            return None
        duals = [0] * len(self.rows)
        for i, y in zip(active, solved, strict=True):
            if y > 0:
                duals[i] = (y.numerator << _DUAL_BITS) // y.denominator
        return duals

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
