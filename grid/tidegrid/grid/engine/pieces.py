"""What a pass of a replay makes of one partition, as chunks of a piece (log/piece.py), and back.

    label ["rows", map]       msgpack [[effective, position, time_ms, nth, ops, keys, values], ...]      SettledRows
    label ["sent", target]    msgpack [[source, position, entry, effective, time_ms, ref_epoch, depth, logged,
                                        [[map, schema, ops, keys, values], ...]], ...]                   SentRows
    label ["base", map]       chunks of a table (table_chunks.py)                               the base of a generation
    summary                   Tally.plain(); of a base, nothing

Chunks of a label, and the rows in them, are in order: rows by (effective, position, time_ms, nth), what is sent by
epoch. The rows of a map in a partition are those of all its passes, merged (`generation.in_order`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import msgspec
from tidegrid.grid.engine.replaying import SentRows, SentSection, SettledRows
from tidegrid.grid.log.piece import Label
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import PartitionId

CHUNK_BYTES: Final = 256 * 1024
SENT_CHUNK_BYTES: Final = 64 * 1024  # there may be thousands of receivers
_PER_ROW_BYTES: Final = 8
_PER_GROUP_BYTES: Final = 32
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(type=list[list[Any]]).decode


def rows_label(map_name: str) -> Label:
    return ("rows", map_name)


def base_label(map_name: str) -> Label:
    return ("base", map_name)


def sent_label(target: PartitionId) -> Label:
    return ("sent", target)


class _Chunk:
    __slots__ = ("groups", "size")

    def __init__(self) -> None:
        self.groups: list[list[Any]] = []
        self.size = 0


class ChunkWriter:
    """Collects what a pass makes, and writes chunks as they fill. Lifecycle: `add`, then `end`."""

    def __init__(self, write: Callable[[Label, bytes], None]) -> None:
        self._write = write
        self._open: dict[Label, _Chunk] = {}

    def add(self, made: SettledRows | SentRows) -> None:
        if isinstance(made, SettledRows):
            effective, position, time_ms, nth, name, ops, keys, values = made
            size = _PER_GROUP_BYTES + _size(keys, values)
            self._put(("rows", name), [effective, position, time_ms, nth, ops, keys, values], size, CHUNK_BYTES)
        else:
            size = _PER_GROUP_BYTES + sum(_size(one.keys, one.values) for one in made.sections)
            self._put(("sent", made.target), list(made[1:]), size, SENT_CHUNK_BYTES)

    def end(self) -> None:
        for label, chunk in self._open.items():
            if chunk.groups:
                self._write(label, _encode(chunk.groups))
        self._open.clear()

    def _put(self, label: Label, group: list[Any], size: int, size_max: int) -> None:
        chunk = self._open.get(label)
        if chunk is None:
            chunk = self._open[label] = _Chunk()
        chunk.groups.append(group)
        chunk.size += size
        if chunk.size >= size_max:
            self._write(label, _encode(chunk.groups))
            self._open[label] = _Chunk()


def settled_rows(map_name: str, chunks: Iterable[bytes]) -> Iterator[SettledRows]:
    """Raises FormatError."""
    for groups in _groups(chunks):
        for effective, position, time_ms, nth, ops, keys, values in groups:
            yield SettledRows(effective, position, time_ms, nth, map_name, ops, keys, values)


def sent_rows(target: PartitionId, chunks: Iterable[bytes]) -> Iterator[SentRows]:
    """Raises FormatError."""
    for groups in _groups(chunks):
        for *facts, sections in groups:
            source, position, entry, effective, time_ms, ref_epoch, depth, logged = facts
            found = [SentSection(*section) for section in sections]
            yield SentRows(
                target, source, position, entry, effective, time_ms, ref_epoch, depth, logged, found
            )  # fmt: skip


def _groups(chunks: Iterable[bytes]) -> Iterator[list[list[Any]]]:
    for chunk in chunks:
        try:
            yield _decode(chunk)
        except msgspec.DecodeError as error:
            raise FormatError(f"a chunk of a piece does not parse: {error}") from error


def _size(keys: list[bytes], values: list[bytes]) -> int:
    return sum(map(len, keys)) + sum(map(len, values)) + _PER_ROW_BYTES * len(keys)
