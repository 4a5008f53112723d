"""The numbers that name things, as types of their own, so that an epoch is never passed for a position.

All are plain ints at run time. `Position` is opaque: strictly increasing within one log, not dense; 0 is the
position before the first record. Never add to one.
"""

from __future__ import annotations

from typing import Final, NewType

Epoch = NewType("Epoch", int)
Position = NewType("Position", int)
Term = NewType("Term", int)
PartitionId = NewType("PartitionId", int)
NodeId = NewType("NodeId", int)
Incarnation = NewType("Incarnation", int)

LogId = NewType("LogId", int)
"""A log is named by its partition; the control log has a name of its own."""

CONTROL_LOG: Final = LogId(-1)
BEFORE_FIRST: Final = Position(0)


def partition_log(partition: PartitionId) -> LogId:
    return LogId(partition)
