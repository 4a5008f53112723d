"""Feed batches as rows for SQL: what to delete, and what to write, grouped by statement.

Of a table only the last change of each key counts, so that the order of statements does not matter and each runs
once, however many shapes the values have. Of a stream every event is a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

from tidegrid.client.change import DELETE, FeedBatch, FeedSection
from tidegrid.grid.model.values import decode_value
from tidegrid.replica.columns import VALUE, Columns, Shape, is_key_of

_DELETE = bytes((DELETE,))


class Writes:
    """`wipe`: everything older goes first. `rows` by shape; each is complete, the own columns first."""

    __slots__ = ("count", "deletes", "rows", "wipe")

    def __init__(self) -> None:
        self.wipe = False
        self.count = 0
        self.deletes: list[tuple[bytes]] = []
        self.rows: dict[int, tuple[Shape, list[tuple[Any, ...]]]] = {}


def writes_of(batches: Sequence[FeedBatch], columns: Columns) -> Writes:
    """Raises ConfigurationError when a value does not fit the columns."""
    writes = Writes()
    begin = 0
    for index, batch in enumerate(batches):
        if batch.begins:
            writes.wipe, begin = True, index
    sections = [section for batch in batches[begin:] for section in batch.sections]
    if columns.stream:
        _add_events(writes, sections, columns)
    else:
        _add_latest(writes, sections, columns)
    return writes


def _epochs(section: FeedSection) -> Iterable[int]:
    return repeat(int(section.epoch)) if section.epochs is None else section.epochs


def _add_latest(writes: Writes, sections: list[FeedSection], columns: Columns) -> None:
    latest: dict[bytes, tuple[bytes, int, int]] = {}
    for section in sections:
        message = section.columns
        # Rows are as many as keys: the epochs of a live section go on for ever.
        latest.update(
            zip(message.keys, zip(message.values, message.versions, _epochs(section), strict=False), strict=True)
        )
        writes.count += len(message.keys)
    place = _Placing(writes, columns)
    for key, (raw, version, epoch) in latest.items():
        if not raw:
            writes.deletes.append((key,))
            continue
        rows, key_row, fields = place(key, raw)
        rows.append((key, *key_row, version, epoch, *fields))


def _add_events(writes: Writes, sections: list[FeedSection], columns: Columns) -> None:
    place = _Placing(writes, columns)
    for section in sections:
        message = section.columns
        partition, position = section.partition, section.position
        events = zip(message.keys, message.values, _epochs(section), strict=False)
        for index, (key, raw, epoch) in enumerate(events, section.offset):
            rows, key_row, fields = place(key, raw)
            rows.append((partition, position, index, key, *key_row, epoch, *fields))
        writes.count += len(message.keys)


class _Placing:
    """Takes keys and values apart; most values have the shape of the one before, which is tried first."""

    __slots__ = ("_columns", "_last", "_rows", "_writes")

    def __init__(self, writes: Writes, columns: Columns) -> None:
        self._writes = writes
        self._columns = columns
        self._last = _NO_SHAPE
        self._rows: list[tuple[Any, ...]] = []

    def __call__(self, key: bytes, raw: bytes) -> tuple[list[tuple[Any, ...]], tuple[Any, ...], tuple[Any, ...]]:
        """Where the row belongs, what its key columns hold, and what the shape's columns hold."""
        value = decode_value(raw)
        last = self._last
        if type(value) is not dict:
            value = {VALUE: value}
            last = self._turn_to(self._columns.plain_shape())
        elif len(value) != last.size:
            last = self._turn_to(self._columns.shape(tuple(value)))
        try:
            fields = last.kept(value)
            repeated = last.repeated(value)
        except KeyError:  # as many fields, but others
            last = self._turn_to(self._columns.shape(tuple(value)))
            fields, repeated = last.kept(value), last.repeated(value)
        if last.has_whole_key and is_key_of(repeated, key):
            return self._rows, repeated, fields
        return self._rows, self._columns.key_row(key, last, repeated), fields

    def _turn_to(self, shape: Shape) -> Shape:
        if shape is not self._last:
            self._last = shape
            self._rows = self._writes.rows.setdefault(id(shape), (shape, []))[1]
        return shape


_NO_SHAPE = Shape([], [], [], 0, of_dicts=False)
