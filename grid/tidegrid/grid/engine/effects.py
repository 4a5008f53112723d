"""What the node engine asks of its shell, in the order in which it has to be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tidegrid.grid.engine.reads import CloseRequest, EpochAtRequest, HistoryRequest, ReadRequest
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId, Position
from tidegrid.v1.control_pb2 import ControlRecord


@dataclass(frozen=True, slots=True)
class AppendFrame:
    """Append this one entry; report with `Node.landed` or `Node.append_failed`."""

    partition: PartitionId
    entry: Entry


@dataclass(frozen=True, slots=True)
class AppendControl:
    """Append to the control log exactly after `expected`; report a failure with `Node.control_failed`.

    Success needs no report: the record is learned by reading the control log (rule C2).
    """

    expected: Position
    record: ControlRecord


@dataclass(frozen=True, slots=True)
class Tell:
    """Send to another node; it may be lost."""

    node: NodeId
    message: Any


@dataclass(frozen=True, slots=True)
class Answered:
    """These requests are complete: their answers are in them."""

    requests: Sequence[WriteRequest | ReadRequest | CloseRequest | EpochAtRequest | HistoryRequest]


@dataclass(frozen=True, slots=True)
class ClosedTo:
    """A close was applied: followers have something to take."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class ReadControl:
    """Somebody has seen more of the control log: read it to its end, then say `Node.control_at_tail`."""


@dataclass(frozen=True, slots=True)
class CheckTails:
    """Ask the log for these tails and for that of the control log; report with `Node.tails_checked`."""

    number: int
    partitions: Sequence[PartitionId]


Effect = AppendFrame | AppendControl | Tell | Answered | ClosedTo | ReadControl | CheckTails
