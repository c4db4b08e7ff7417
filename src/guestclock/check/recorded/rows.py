"""Rows to blocks: text or JSON values become arrays, and what cannot be is refused with its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from operator import index
from typing import Any, NoReturn

import numpy as np

from guestclock.check.recorded.block import NOBODY, Block, Bools, Ints
from guestclock.check.recorded.columns import (
    CLOCK_CODES,
    COLUMN_BY_NAME,
    CONTEXT_CODES,
    KIND_BY_NAME,
    PATH_CODES,
    READ,
    Event,
    Kind,
)
from guestclock.errors import UserError

Cells = Sequence[Any] | Ints
"""A column of a stretch of rows: strings ("" for nothing), or ints and strings (None for nothing), or an array."""

FIRST_NAME = -(2**62)
NAMES = (*CLOCK_CODES, *CONTEXT_CODES, *PATH_CODES)
NAMED = {name.encode(): FIRST_NAME - place for place, name in enumerate(NAMES)}
"""The numbers that stand for names in an array: far from any that a trace has."""
NAMES_OF = {
    column: tuple(word.encode() for word in words)
    for column, words in (("clock", CLOCK_CODES), ("context", CONTEXT_CODES), ("path", PATH_CODES))
}

MAX_VCPU = 4095
LONGEST_TOLD = 60
U64 = 2**64
EVERYWHERE = ("vcpu", "c0", "c1", "h0", "h1")


class Rows:
    """A stretch of readings of one file as columns. at: how a row's place is told, by its number among them."""

    def __init__(self, columns: Mapping[str, Cells], count: int, at: Callable[[int], str]) -> None:
        self.columns, self.count, self.at = columns, count, at

    def block(self, names: Sequence[str], file: int, lines: Ints) -> Block:
        count = self.count
        for name in ("clock", "value"):
            if name not in self.columns and count:
                raise UserError(f"{self.at(0)}: a reading without {name}: there is no such column")
        clock = self._codes("clock", CLOCK_CODES, None)
        value, told = self._ints("value")
        if not told.all():
            self._refuse("value", int(np.argmin(told)), "a number")
        c0, c1, has_c = self._sandwich("c0", "c1")
        h0, h1, has_h = self._sandwich("h0", "h1")
        vcpu, _ = self._ints("vcpu")
        if count and not 0 <= int(vcpu.min()) <= int(vcpu.max()) <= MAX_VCPU:
            wrong = int(np.argmax((vcpu < 0) | (vcpu > MAX_VCPU)))
            self._refuse("vcpu", wrong, f"a vCPU, 0 to {MAX_VCPU}")
        epoch, has_epoch = self._ints("epoch")
        host_ns, has_host = self._ints("host_ns")
        err_ns, has_err = self._ints("err_ns")
        if (has_host & ~has_err).any():
            self._refuse("err_ns", int(np.argmax(has_host & ~has_err)), "a number, since host_ns needs it")
        return Block(
            names, np.full(count, file), lines, vcpu, clock, value, self._codes("context", CONTEXT_CODES, 0),
            self._codes("path", PATH_CODES, 0), np.where(has_epoch, epoch, NOBODY), c0, c1, has_c, h0, h1, has_h,
            host_ns, err_ns, has_host,
        )  # fmt: skip

    def seq(self) -> tuple[Ints, Bools]:
        return self._ints("seq")

    def _sandwich(self, first: str, second: str) -> tuple[Ints, Ints, Bools]:
        before, has_before = self._ints(first)
        after, has_after = self._ints(second)
        if (has_before != has_after).any():
            row = int(np.argmax(has_before != has_after))
            missing = second if has_before[row] else first
            self._refuse(missing, row, f"a number, since {first} and {second} go together")
        turned = after - before < 0
        if turned.any():
            row = int(np.argmax(turned))
            given = f"{self.columns[second][row]} is before {first}, {self.columns[first][row]}"
            raise UserError(f"{self.at(row)}: {second}: {given}; expected the counter after the reading")
        return before, after, has_before

    def _ints(self, name: str) -> tuple[Ints, Bools]:
        """The column's numbers and which there are; u64 beyond i64 as the i64 of the same bits."""
        cells = self.columns.get(name)
        if cells is None:
            return np.zeros(self.count, np.int64), np.zeros(self.count, bool)
        if isinstance(cells, np.ndarray) and (COLUMN_BY_NAME[name].signed or not (cells < 0).any()):
            return cells, np.ones(self.count, bool)
        number: Callable[[Any], int] = int if self.count and isinstance(cells[0], str) else index
        signed = COLUMN_BY_NAME[name].signed
        try:
            values = np.fromiter(map(number, cells), np.int64, self.count)
        except (ValueError, TypeError, OverflowError):
            pass
        else:
            if signed or not (values < 0).any():
                return values, np.ones(self.count, bool)
        values, told = np.zeros(self.count, np.int64), np.zeros(self.count, bool)
        for row, cell in enumerate(cells):
            if cell is None or cell == "":
                continue
            found = whole(cell)
            if found is None:
                self._refuse(name, row, "a whole number")
            if not (-(2**63) if signed else 0) <= found < (2**63 if signed and name != "value" else U64):
                self._refuse(name, row, "64 bits" if signed else "an unsigned number of 64 bits")
            values[row], told[row] = found - U64 if found >= 2**63 else found, True
        return values, told

    def _codes(self, name: str, codes: Mapping[str, int], default: int | None) -> Ints:
        cells = self.columns.get(name)
        if cells is None:
            return np.zeros(self.count, np.int64)
        if isinstance(cells, np.ndarray):
            known = np.array([codes.get(word, -1) for word in NAMES])
            coded = known[FIRST_NAME - cells]
            if (coded >= 0).all():
                return coded
            cells = [NAMES[place] for place in FIRST_NAME - cells]
        try:
            return np.fromiter(map(codes.__getitem__, cells), np.int64, self.count)
        except KeyError:
            pass
        found = np.zeros(self.count, np.int64)
        for row, cell in enumerate(cells):
            if (cell is None or cell == "") and default is not None:
                found[row] = default
            elif cell in codes:
                found[row] = codes[cell]
            else:
                close = get_close_matches(str(cell), codes, 1, 0.5)
                advice = f"; did you mean {close[0]}?" if close else ""
                self._refuse(name, row, f"one of {', '.join(codes)}{advice}")
        return found

    def _refuse(self, name: str, row: int, expected: str) -> NoReturn:
        cells = self.columns.get(name)
        cell = None if cells is None else cells[row]
        if isinstance(cell, np.integer):
            cell = str(cell)  # as it stands in the file
        found = "nothing" if cell is None or cell == "" else quoted(cell)
        raise UserError(f"{self.at(row)}: {name}: {found}, expected {expected}")


def quoted(cell: Any) -> str:
    """A cell as it is told: cut, for it may be anything."""
    told = repr(cell)
    return told if len(told) <= LONGEST_TOLD else f"{told[: LONGEST_TOLD - 1]}…"


def whole(cell: Any) -> int | None:
    """The whole number that a cell holds, or None."""
    try:
        return int(cell) if isinstance(cell, str) else index(cell)
    except (ValueError, TypeError):
        return None


def event(row: Mapping[str, Any], at: str) -> Event:
    """A row that is not a reading, with its columns checked; cells that hold nothing are not in `row`."""
    name = row["event"]
    kind = KIND_BY_NAME.get(name)
    if kind is None:
        close = get_close_matches(str(name), KIND_BY_NAME, 1, 0.5)
        advice = f"did you mean {close[0]}?" if close else f"expected one of {', '.join((READ, *KIND_BY_NAME))}"
        raise UserError(f"{at}: event: {quoted(name)} ({advice})")
    for need in kind.needs:
        if need not in row:
            raise UserError(f"{at}: {need}: nothing, expected a value, as {kind.name} needs {', '.join(kind.needs)}")
    made = Event(kind.name, at)
    for column, cell in row.items():
        if column in EVERYWHERE:
            setattr(made, column, _number(column, cell, at))
        elif column in kind.needs or column in kind.may:
            made.data[column] = _cell(kind, column, cell, at)
        elif column not in ("event", "seq"):
            raise UserError(f"{at}: {column}: {quoted(cell)}, but {kind.name} has no {column}")
    for first, second in (("c0", "c1"), ("h0", "h1")):
        before, after = getattr(made, first), getattr(made, second)
        if (before is None) != (after is None):
            raise UserError(f"{at}: {first} and {second} go together, expected both or neither")
        if before is not None and after < before:
            raise UserError(f"{at}: {second}: {after} is before {first}, {before}")
    if not 0 <= made.vcpu <= MAX_VCPU:
        raise UserError(f"{at}: vcpu: {made.vcpu}, expected 0 to {MAX_VCPU}")
    return made


def _cell(kind: Kind, column: str, cell: Any, at: str) -> int | str | float:
    match COLUMN_BY_NAME[column].kind:
        case "int":
            return _number(column, cell, at)
        case "ppm":
            try:
                return float(cell)
            except (TypeError, ValueError):
                raise UserError(f"{at}: {column}: {quoted(cell)}, expected a number of ppm") from None
        case _:
            if column == "clock" and cell not in CLOCK_CODES:
                raise UserError(f"{at}: clock: {quoted(cell)}, expected one of {', '.join(CLOCK_CODES)}")
            return str(cell)


def _number(column: str, cell: Any, at: str) -> int:
    found = whole(cell)
    if found is None:
        raise UserError(f"{at}: {column}: {quoted(cell)}, expected a whole number")
    if not (-(2**63) if COLUMN_BY_NAME[column].signed else 0) <= found < U64:
        raise UserError(
            f"{at}: {column}: {cell}, expected 64 bits{'' if COLUMN_BY_NAME[column].signed else ', unsigned'}"
        )
    return found
