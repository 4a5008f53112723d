"""Compacting the control log: the record that stands for the records before it.

    folded := ControlRecord{folded: ControlState.to_bytes()}       as of its own position

A grid that ticks appends a close each tick, for ever; once all live nodes have read them, only what they add up to is
worth keeping. Whoever starts reads the folded record like any other, and adopts its state; so a compacted log is as
self-contained as before, and losing a checkpoint loses nothing. A live node never reads one: it needs the events one
by one, and compaction stays at or below the lowest position that any of them has read to.

A state that was folded stays in the log for ever: every version of `ControlState.to_bytes` must stay readable.
"""

from __future__ import annotations

from collections.abc import Iterable

from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.ring.control import ControlState
from tidegrid.v1.control_pb2 import ControlRecord


def fold_records(records: Iterable[tuple[Position, Epoch, bytes]]) -> bytes:
    """Payload of the record that replaces `records`, which begin with the first of the log or with a folded one.

    Raises CorruptionError, FormatError.
    """
    state = ControlState()
    for position, _, payload in records:
        state.apply(position, ControlRecord.FromString(payload))
    return ControlRecord(folded=state.to_bytes()).SerializeToString()
