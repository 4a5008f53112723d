"""Rows of a file for `tidegrid load`: CSV or JSON lines, as (key, value) pairs.

A value is the row as it stands in the file: a dict of strings from CSV, the object of a line from JSON lines. A row
that makes no key is *refused* here and the reading goes on; a file that is not what it should be (bad quoting, not
UTF-8) ends there: `problem` says why, and the rows before it count.

Rows handed out are kept in `taken`, (line, row) each, until whoever loads them drops them: an answer that comes later
is then told with its line.
"""

from __future__ import annotations

import csv
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Final

import msgspec
from tidegrid.grid.app.load_format import Format
from tidegrid.grid.model.errors import ConfigurationError, GridError, InvalidKeyError, InvalidValueError
from tidegrid.grid.model.key_text import key_from_fields
from tidegrid.grid.model.maps import KeyField

CELL_CHARACTERS_MAX: Final = 16 * 1024 * 1024  # of one CSV cell: an unclosed quote ends here, not at the end of memory
Refuse = Callable[[int, GridError, Any], None]
"""Called as (line, error, row)."""


class Source:
    """Iterated once. `fields` name the columns of the key, with their types."""

    def __init__(self, name: str, file: BinaryIO, format_: Format, fields: Sequence[KeyField], refuse: Refuse) -> None:
        self.name = name
        self.taken: deque[tuple[int, Any]] = deque()
        self.problem: GridError | None = None
        self._file = file
        self._format = format_
        self._fields = tuple(fields)
        self._refuse = refuse

    def __iter__(self) -> Iterator[tuple[tuple[Any, ...], Any]]:
        return self._csv() if self._format is Format.CSV else self._json_lines()

    def position(self) -> int:
        """Bytes read so far."""
        return self._file.tell()

    def _csv(self) -> Iterator[tuple[tuple[Any, ...], Any]]:
        csv.field_size_limit(CELL_CHARACTERS_MAX)
        text = io.TextIOWrapper(self._file, encoding="utf-8-sig", newline="")
        reader = csv.reader(text)
        taken, columns = self.taken, 0
        line = 0
        try:
            header = self._header(next(reader, []))
            columns = len(header)
            quick = _quick_key(header, self._fields)
            for cells in reader:
                line = reader.line_num
                if len(cells) != columns:
                    if cells:
                        self._refuse(line, _ragged(len(cells), columns), cells)
                    continue
                row = dict(zip(header, cells, strict=True))
                key = quick(cells)
                if key is None:
                    try:
                        key = key_from_fields(row, self._fields)
                    except InvalidKeyError as error:
                        self._refuse(line, error, row)
                        continue
                taken.append((line, row))
                yield key, row
        except GridError as error:
            self.problem = error
        except csv.Error as error:
            self.problem = self._unreadable(reader.line_num, f"is not CSV ({error}); check its quotes")
        except UnicodeDecodeError:
            self.problem = self._unreadable(line + 1, "or a line soon after it is not UTF-8; convert the file to UTF-8")
        except OSError as error:
            self.problem = self._unreadable(line + 1, f"cannot be read: {error.strerror}")
        finally:
            text.detach()  # the file is not ours to close

    def _header(self, names: list[str]) -> list[str]:
        if not any(names):
            raise ConfigurationError(f"{self.name} is empty: the first line of a CSV file names its columns")
        double = {name for name in names if names.count(name) > 1}
        if double:
            raise ConfigurationError(
                f"{self.name} names column {min(double)!r} twice; rename one of them in its first line"
            )
        missing = [field.name for field in self._fields if field.name not in names]
        if missing:
            raise ConfigurationError(
                f"{self.name} has no column {missing[0]!r} for the key; its columns are {', '.join(names)[:300]}. Name the key's columns with --key"
            )
        return names

    def _json_lines(self) -> Iterator[tuple[tuple[Any, ...], Any]]:
        decode = msgspec.json.Decoder().decode
        fields, taken, line = self._fields, self.taken, 0
        try:
            for line, text in enumerate(self._file, 1):
                try:
                    row = decode(text)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                    if text.strip():
                        shown = text[:200].decode("utf-8", "replace").strip()
                        self._refuse(line, InvalidValueError(f"the line is not JSON: {error}"), shown)
                    continue
                if type(row) is not dict:
                    self._refuse(line, InvalidValueError("the line is no JSON object, so it has no key fields"), row)
                    continue
                try:
                    key = key_from_fields(row, fields)
                except InvalidKeyError as error:
                    self._refuse(line, error, row)
                    continue
                taken.append((line, row))
                yield key, row
        except OSError as error:
            self.problem = self._unreadable(line + 1, f"cannot be read: {error.strerror}")

    def _unreadable(self, line: int, reason: str) -> GridError:
        return ConfigurationError(f"{self.name}: line {line:,} {reason}. The rows before it are loaded", line=line)


def _quick_key(header: Sequence[str], fields: Sequence[KeyField]) -> Callable[[list[str]], tuple[Any, ...] | None]:
    """Makes keys of str and plain decimal int fields from the cells of a row; None: the long way tells."""
    parts = [(header.index(field.name), field.type) for field in fields]
    if any(kind not in ("str", "int", "any") for _, kind in parts):
        return lambda _cells: None

    def quick(cells: list[str]) -> tuple[Any, ...] | None:
        key: list[Any] = []
        for index, kind in parts:
            cell = cells[index]
            if kind == "int":
                if not (cell.isascii() and cell.isdigit() and len(cell) < 19):
                    return None
                key.append(int(cell))
            else:
                key.append(cell)
        return tuple(key)

    return quick


def _ragged(count: int, columns: int) -> GridError:
    return InvalidValueError(f"the line has {count} cells where the first line names {columns} columns")
