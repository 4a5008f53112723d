"""What goes into a log and what comes out: opaque payloads with the epoch by which they are found again."""

from __future__ import annotations

from typing import NamedTuple

from tidegrid.grid.model.ids import Epoch, LogId, Position


class Entry(NamedTuple):
    """One record to append. `expected` is the tail the writer knows (0: the log is empty): the compare of the append."""

    log: LogId
    expected: Position
    epoch: Epoch
    payload: bytes


class LogRecord(NamedTuple):
    """One record as read."""

    position: Position
    epoch: Epoch
    payload: bytes
