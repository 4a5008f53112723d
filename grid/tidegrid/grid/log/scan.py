"""Reading a segment's batches one after the other, and telling the end from a tear and a tear from corruption.

Batches lie end to end. Where the next one is not valid, either nothing was written yet (zeros), or a write was torn
by a crash, or stored bytes changed. Every batch says up to which position all was durable when it was written, and a
batch can be found by its magic and checksum even past a bad place; so:

    a bad place below the highest position that any valid batch calls durable    is corruption
    any other bad place                                                          is a tear: it was never acknowledged

All reads go through `read(position, length)`, which gives fewer bytes only at the end of the segment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from tidegrid.grid.log.batch import BATCH_HEADER_BYTES, BATCH_MAGIC, Flaw, Row, decode_batch_header, decode_rows

Read = Callable[[int, int], bytes]
"""(position, length) -> bytes"""

WINDOW_BYTES = 1 << 20
_ZEROS = bytes(1 << 16)


class WholeBatch(NamedTuple):
    start: int
    end: int
    synced: int
    rows: list[Row]


def scan(read: Read, start: int, limit: int, salt: int) -> Iterator[WholeBatch | Flaw]:
    """Every valid batch from `start` on; a Flaw, if the bytes before `limit` do not end with a valid one, comes last.

    The flaw's position is that of the record or header that is bad; the batch begins where the last one ended.
    """
    window, window_start = b"", start
    cursor = start
    while cursor < limit:
        window, window_start = _cover(read, window, window_start, cursor, BATCH_HEADER_BYTES, limit)
        offset = cursor - window_start
        header = decode_batch_header(window, offset, salt, cursor)
        if header is None:
            yield Flaw(cursor, "there is no valid batch header")
            return
        body = cursor + BATCH_HEADER_BYTES
        end = body + header.length
        if end > limit:
            yield Flaw(cursor, "the batch reaches past its segment")
            return
        window, window_start = _cover(read, window, window_start, cursor, end - cursor, limit)
        rows = decode_rows(window, body - window_start, header, salt, body)
        if isinstance(rows, Flaw):
            yield rows
            return
        yield WholeBatch(cursor, end, header.synced, rows)
        cursor = end


def find_batches(read: Read, start: int, limit: int, salt: int) -> Iterator[tuple[int, int]]:
    """(position, synced) of every valid batch header anywhere in [start, limit), whether its body is whole or not."""
    cursor, overlap = start, BATCH_HEADER_BYTES - 1
    while cursor < limit:
        window = read(cursor, min(WINDOW_BYTES, limit - cursor))
        if not window:
            return
        found = window.find(BATCH_MAGIC)
        while found >= 0:
            header = decode_batch_header(window, found, salt, cursor + found)
            if header is not None:
                yield cursor + found, header.synced
            found = window.find(BATCH_MAGIC, found + 1)
        if len(window) <= overlap or cursor + len(window) >= limit:
            return
        cursor += len(window) - overlap  # a header across the boundary is seen again, whole


def written_spans(read: Read, start: int, limit: int) -> Iterator[tuple[int, int]]:
    """The pieces [from, to) of [start, limit) that hold anything but zeros, each at most 64 KiB long."""
    step, cursor = len(_ZEROS), start
    while cursor < limit:
        window = read(cursor, min(step, limit - cursor))
        if not window:
            return
        if window != _ZEROS and window.count(0) != len(window):  # comparing is much faster than counting
            yield cursor, cursor + len(window)
        cursor += len(window)


def _cover(read: Read, window: bytes, start: int, cursor: int, length: int, limit: int) -> tuple[bytes, int]:
    """A window that holds [cursor, cursor + length), if the segment does."""
    if start <= cursor and cursor + length <= start + len(window):
        return window, start
    return read(cursor, min(max(length, WINDOW_BYTES), limit - cursor)), cursor
