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
from tidegrid.replica.columns import Columns, Shape

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
        shape, rows, values = place(raw)
        rows.append((key, *columns.key_row(key, shape, values), version, epoch, *shape.kept(values)))


def _add_events(writes: Writes, sections: list[FeedSection], columns: Columns) -> None:
    place = _Placing(writes, columns)
    for section in sections:
        message = section.columns
        partition, position, offset = section.partition, section.position, section.offset
        for index, (key, raw, epoch) in enumerate(
            zip(message.keys, message.values, _epochs(section), strict=False), offset
        ):
            shape, rows, values = place(raw)
            rows.append(
                (partition, position, index, key, *columns.key_row(key, shape, values), epoch, *shape.kept(values))
            )
        writes.count += len(message.keys)


class _Placing:
    """Finds shape and rows of a value; most values have the shape of the one before."""

    __slots__ = ("_columns", "_last", "_names", "_writes")

    def __init__(self, writes: Writes, columns: Columns) -> None:
        self._writes = writes
        self._columns = columns
        self._names: tuple[str, ...] | None = None
        self._last: tuple[Shape, list[tuple[Any, ...]]] | None = None

    def __call__(self, raw: bytes) -> tuple[Shape, list[tuple[Any, ...]], tuple[Any, ...]]:
        value = decode_value(raw)
        if type(value) is not dict:
            self._names = None
            shape, rows = self._of(self._columns.plain_shape())
            return shape, rows, (value,)
        names = tuple(value)
        if names != self._names or self._last is None:
            self._last = self._of(self._columns.shape(names))
            self._names = names
        return (*self._last, tuple(value.values()))

    def _of(self, shape: Shape) -> tuple[Shape, list[tuple[Any, ...]]]:
        return self._writes.rows.setdefault(id(shape), (shape, []))
