"""Where rows come from: CSV or JSON lines, plain, gzipped or on stdin, or Python; one stretch at a time."""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from itertools import chain, compress, islice
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec
import numpy as np

from guestclock.check.recorded.block import Block, Bools, Ints, grouped
from guestclock.check.recorded.columns import COLUMN_BY_NAME, COLUMNS, READ, Event
from guestclock.check.recorded.rows import FIRST_NAME, NAMED, NAMES_OF, Cells, Rows, event, quoted
from guestclock.errors import UserError
from guestclock.sim.trace import Trace

STRETCH = 1 << 16
"""Rows at a time: enough for numpy, and a few tens of MB."""

MARK = "guestclock_readings"
RUN_MARK = "guestclock_trace"
FORMAT = 1
GZIP = b"\x1f\x8b"
NEWLINE, COMMA = b"\n,"
I64_MAX = np.iinfo(np.int64).max
TYPES: dict[str, Any] = {"int": int, "ppm": float, "word": str, "text": str}

Row = msgspec.defstruct(
    "Row", [(c.name, TYPES[c.kind] | None, None) for c in COLUMNS], forbid_unknown_fields=True, gc=False
)
_columns_of = {c.name: attrgetter(c.name) for c in COLUMNS}


class Source:
    """One file, or one sequence of rows. header: (key, value, place) of what stood before the first row.

    blocks() may be asked once. Raises UserError, with the line, for whatever cannot be a row.
    """

    def __init__(self, name: str, number: int = 0) -> None:
        self.name, self.number = name, number
        self.names: list[str] = [""] * number + [name]
        self.header: list[tuple[str, Any, str]] = []
        self.last_seq: dict[int, int] = {}
        self.last_epoch: dict[int, int] = {}

    def blocks(self) -> Iterator[Block]:
        raise NotImplementedError

    # ---- columns to a block

    def made(self, columns: Mapping[str, Cells], lines: Ints, events: list[tuple[int, Event]]) -> Block:
        rows = Rows(columns, len(lines), lambda row: f"{self.name}: line {lines[row]}")
        block = rows.block(self.names, self.number, lines)
        block.events = events
        if "seq" in columns:
            self._rising(block, *rows.seq())
        if "epoch" in columns:
            self._never_falling(block)
        return block

    def _rising(self, block: Block, seq: Ints, told: Bools) -> None:
        for vcpu, rows in grouped(block.vcpu):
            rows = rows[told[rows]]
            if not len(rows):
                continue
            numbers = seq[rows]
            before = np.concatenate(([self.last_seq.get(vcpu, numbers[0] - 1)], numbers[:-1]))
            wrong = np.flatnonzero(numbers <= before)
            if len(wrong):
                row = int(rows[wrong[0]])
                number, last = int(numbers[wrong[0]]), int(before[wrong[0]])
                what = "is repeated" if number == last else f"comes after {last}"
                raise UserError(f"{block.at(row)}: seq: {number} of vcpu {vcpu} {what}, expected rising numbers")
            self.last_seq[vcpu] = int(numbers[-1])

    def _never_falling(self, block: Block) -> None:
        for vcpu, rows in grouped(block.vcpu):
            rows = rows[block.epoch[rows] >= 0]
            if not len(rows):
                continue
            epochs = block.epoch[rows]
            before = np.concatenate(([self.last_epoch.get(vcpu, epochs[0])], epochs[:-1]))
            wrong = np.flatnonzero(epochs < before)
            if len(wrong):
                row, went = int(rows[wrong[0]]), f"{epochs[wrong[0]]} after {before[wrong[0]]}"
                raise UserError(f"{block.at(row)}: epoch: {went} on vcpu {vcpu}, expected that it never goes back")
            self.last_epoch[vcpu] = int(epochs[-1])


class File(Source):
    """A file by its path, or stdin by "-"."""

    def __init__(self, path: str, number: int = 0) -> None:
        super().__init__("stdin" if path == "-" else path, number)
        self.file = self._opened(path)
        self.line = 0
        self.pending: list[bytes] = []
        self.is_run = False
        self.as_json = self._begin()

    def _opened(self, path: str) -> BinaryIO:
        if path != "-" and Path(path).is_dir():
            raise UserError(f"{path}: a directory, expected a file of readings")
        try:
            raw: Any = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        buffered = raw if hasattr(raw, "peek") else io.BufferedReader(raw)
        begin = buffered.peek(1 << 12)[: 1 << 12]
        if begin[:2] == GZIP:
            return cast(BinaryIO, gzip.GzipFile(fileobj=buffered))
        if b"\0" in begin:
            raise UserError(f"{self.name}: binary data, expected CSV or JSON lines, plain or gzipped")
        return cast(BinaryIO, buffered)

    def _lines(self, count: int) -> list[bytes]:
        ready, self.pending = self.pending, []
        try:
            found = ready + list(islice(self.file, count - len(ready)))
        except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
            what = "the gzip file is cut off" if isinstance(error, EOFError) else f"the file is damaged ({error})"
            raise UserError(f"{self.name}: {what} somewhere after line {self.line}") from None
        return found

    def _text(self, lines: list[bytes]) -> list[str]:
        try:
            text = b"".join(lines).decode()
        except UnicodeDecodeError:
            for number, line in enumerate(lines, self.line + 1):
                try:
                    line.decode()
                except UnicodeDecodeError:
                    raise UserError(f"{self.name}: line {number}: not text, expected UTF-8") from None
            raise
        split = text.split("\n")
        return split[:-1] if split[-1] == "" else split

    def _begin(self) -> bool:
        """Reads the header and, of CSV, the line of column names. Whether these are JSON lines."""
        self.columns: list[str] = []
        while True:
            lines = self._lines(1)
            if not lines:
                raise UserError(f"{self.name}: empty, expected readings")
            (text,) = self._text(lines)
            text = text.strip().removeprefix("﻿")
            if not text:
                self.line += 1
            elif text.startswith("{"):
                return self._json_header(lines[0])
            elif text.startswith("#"):
                self.line += 1
                key, colon, value = text[1:].partition(":")
                if colon:
                    self.header.append((key.strip(), value.strip(), f"{self.name}: line {self.line}"))
            else:
                self.line += 1
                self._name_columns(text)
                return False

    def _json_header(self, first: bytes) -> bool:
        try:
            found = msgspec.json.decode(first)
        except msgspec.DecodeError:
            found = {}
        at = f"{self.name}: line {self.line + 1}"
        self.pending = [first]
        if isinstance(found, dict) and RUN_MARK in found:
            self.is_run = True
            return True
        if not isinstance(found, dict) or MARK not in found:
            return True
        self.pending = []
        if found.pop(MARK) != FORMAT:
            raise UserError(f"{at}: {MARK} of another number, this program reads {FORMAT}")
        self.header += [(key, value, at) for key, value in found.items()]
        self.line += 1
        return True

    def _name_columns(self, text: str) -> None:
        self.columns = [name.strip() for name in next(csv.reader([text]))]
        at = f"{self.name}: line {self.line}"
        for place, name in enumerate(self.columns):
            if name not in COLUMN_BY_NAME:
                close = get_close_matches(name, COLUMN_BY_NAME, 1, 0.5)
                advice = f"did you mean {close[0]}?" if close else "see guestclock trace columns"
                raise UserError(f"{at}: unknown column {quoted(name)} ({advice})")
            if name in self.columns[:place]:
                raise UserError(f"{at}: column {name} stands there twice")

    # ---- rows

    def blocks(self) -> Iterator[Block]:
        while lines := self._lines(STRETCH):
            block = self._from_json(lines) if self.as_json else self._from_csv(lines)
            self.line += len(lines)
            if len(block) or block.events:
                yield block

    def _from_csv(self, lines: list[bytes]) -> Block:
        numbers = np.arange(self.line + 1, self.line + 1 + len(lines))
        columns = self._plain(lines)
        if columns is None:
            rows = list(csv.reader(self._text(lines)))
            keep = [i for i, row in enumerate(rows) if row and not row[0].lstrip().startswith("#")]
            rows, numbers = [rows[i] for i in keep], numbers[keep]
            width = len(self.columns)
            for row, number in zip(rows, numbers, strict=True):
                if len(row) != width:
                    raise UserError(
                        f"{self.name}: line {number}: {len(row)} fields, expected {width}: {', '.join(self.columns)}"
                    )
            columns = dict(zip(self.columns, zip(*rows, strict=True), strict=True)) if rows else {}
        events: list[tuple[int, Event]] = []
        if any(kind not in ("", READ) for kind in columns.get("event", ())):
            columns, numbers = self._without_events(columns, numbers, events)
        return self.made(columns, numbers, events)

    def _plain(self, lines: list[bytes]) -> dict[str, Cells] | None:
        """The columns, where all lines are of one width and nothing is quoted; csv takes many times as long."""
        data = b"".join(lines)
        if b'"' in data or b"#" in data or b"\r" in data or not data.isascii():
            return None
        data = data.removesuffix(b"\n")
        seen, width = np.frombuffer(data, np.uint8), len(self.columns)
        ends = np.append(np.flatnonzero(seen == NEWLINE), len(seen))
        commas = np.searchsorted(np.flatnonzero(seen == COMMA), ends)
        if len(ends) != len(lines) or (commas != np.arange(1, len(ends) + 1) * (width - 1)).any():
            return None
        data = data.replace(b"\n", b",")
        matrix = self._all_numbers(data, len(lines))
        if matrix is not None:
            return {name: matrix[:, i] for i, name in enumerate(self.columns)}
        flat = data.decode("ascii").split(",")
        return {name: flat[i::width] for i, name in enumerate(self.columns)}

    def _all_numbers(self, data: bytes, count: int) -> Ints | None:
        """The cells where all are numbers, but for names where names belong: those become codes (see rows.NAMED)."""
        data = b"," + data + b","
        for column in self.columns:
            for name in NAMES_OF.get(column, ()):
                data = data.replace(b",%s," % name, b",%d," % NAMED[name])
        try:
            found = np.fromstring(data[1:-1].decode("ascii"), np.int64, sep=",")
        except (ValueError, DeprecationWarning):
            return None
        if len(found) != count * len(self.columns) or (found == I64_MAX).any():
            return None  # numbers beyond 64 bits are cut to the greatest
        matrix = found.reshape(count, -1)
        words = [COLUMN_BY_NAME[name].kind != "int" for name in self.columns]
        coded = (matrix <= FIRST_NAME) & (matrix > FIRST_NAME - len(NAMED))
        return matrix if (coded == words).all() else None

    def _without_events(
        self, columns: Mapping[str, Cells], numbers: Ints, events: list[tuple[int, Event]]
    ) -> tuple[dict[str, Cells], Ints]:
        reading = [kind in ("", READ) for kind in columns["event"]]
        before = 0
        for i, yes in enumerate(reading):
            before += yes
            if not yes:
                told = {name: cells[i] for name, cells in columns.items() if cells[i] != ""}
                events.append((before, event(told, f"{self.name}: line {numbers[i]}")))
        return {name: list(compress(cells, reading)) for name, cells in columns.items()}, numbers[np.array(reading)]

    def _from_json(self, lines: list[bytes]) -> Block:
        try:
            found = _decoder.decode_lines(b"".join(lines))
        except (msgspec.DecodeError, UnicodeDecodeError):
            found = []
            for number, line in enumerate(lines, self.line + 1):
                if line.strip():
                    try:
                        found.append(_decoder.decode(line))
                    except (msgspec.DecodeError, UnicodeDecodeError) as error:
                        raise UserError(f"{self.name}: line {number}: {_told(error)}") from None
        if len(found) == len(lines):
            numbers = np.arange(self.line + 1, self.line + 1 + len(lines))
        else:
            numbers = np.array([n for n, line in enumerate(lines, self.line + 1) if line.strip()])
        return from_structs(self, found, numbers)

    def run(self) -> Trace:
        """The whole of a run's trace, where this is one."""
        assert self.is_run
        return Trace.load((line.decode(errors="replace") for line in chain(self.pending, self.file)), self.name)


class Given(Source):
    """Rows from Python: (line as it is told, mapping of column to value) each, with `header` in front."""

    def __init__(
        self, rows: Iterable[tuple[int, Mapping[str, Any]]], header: Mapping[str, Any], name: str, number: int = 0
    ) -> None:
        super().__init__(name, number)
        self.rows = iter(rows)
        self.header = [(key, value, f"{name}: header") for key, value in header.items()]

    def blocks(self) -> Iterator[Block]:
        while rows := list(islice(self.rows, STRETCH)):
            lines = [line for line, _ in rows]
            try:
                found = msgspec.convert([row for _, row in rows], list[Row])  # type: ignore[valid-type]
            except msgspec.ValidationError as error:
                raise UserError(f"{self.name}: {_told(error)}, counted from line {lines[0]}") from None
            yield from_structs(self, found, np.array(lines))


_decoder = msgspec.json.Decoder(Row)


def from_structs(source: Source, found: list[Any], numbers: Ints) -> Block:
    events: list[tuple[int, Event]] = []
    kinds = [row.event for row in found]
    readings, lines = found, numbers
    if any(kind not in (None, "", READ) for kind in kinds):
        kept = []
        for i, row in enumerate(found):
            if kinds[i] in (None, "", READ):
                kept.append(i)
            else:
                told = {c.name: cell for c in COLUMNS if (cell := getattr(row, c.name)) is not None}
                events.append((len(kept), event(told, f"{source.name}: line {numbers[i]}")))
        readings, lines = [found[i] for i in kept], numbers[kept]
    columns = {}
    for name, getter in _columns_of.items():
        cells = list(map(getter, readings))
        if name != "event" and cells and (cells[0] is not None or any(cell is not None for cell in cells)):
            columns[name] = cells
    return source.made(columns, lines, events)


def _told(error: Exception) -> str:
    """msgspec's message, as a user reads it."""
    text = str(error).replace("Object contains unknown field", "unknown column").replace("`", "'")
    return f"not a row: {text[:1].lower()}{text[1:]}"
