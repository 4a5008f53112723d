"""What the node engine asks of its shell, in the order in which it has to be done."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tidegrid.grid.engine.group import GroupRequest
from tidegrid.grid.engine.hold import HoldRequest
from tidegrid.grid.engine.reads import CloseRequest, EpochAtRequest, HistoryRequest, ReadRequest
from tidegrid.grid.engine.redrive import ParkedRequest, RedriveRequest
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId, Position, Term
from tidegrid.triggers.batch import Batch
from tidegrid.v1.control_pb2 import ControlRecord

Try = tuple[bytes, int]
"""(group, attempt): one try to commit a group."""


class Purpose(enum.Enum):
    FRAME = "frame"
    FILL = "fill"  # settles a slot whose outcome is unknown (rule F2)
    OPEN = "open"


class Slot(NamedTuple):
    """What an append contends for, and its outcome is told with: the position after a tail, under one term."""

    partition: PartitionId
    term: Term
    after: Position
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class Append:
    """Append this one entry; report with `Node.landed` or `Node.append_failed`."""

    slot: Slot
    entry: Entry


@dataclass(frozen=True, slots=True)
class LoadCheckpoint:
    """A partition is to be opened: hand its newest checkpoint to `Node.checkpoint_loaded`, which there may not be."""

    partition: PartitionId
    term: Term


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Read what comes after `after`, some or all of it; hand it to `Node.log_read`, also when there is nothing."""

    partition: PartitionId
    term: Term
    after: Position
    group: Try | None = None  # asked by the coordinator of a group, not by the owner


@dataclass(frozen=True, slots=True)
class LoadBase:
    """Another generation of a map is built in a partition: hand the chunks of its base to `Builds.base_loaded`."""

    partition: PartitionId
    term: Term
    map: str
    number: int
    base: str

    @property
    def build(self) -> tuple[PartitionId, Term, str, int]:
        return self.partition, self.term, self.map, self.number


@dataclass(frozen=True, slots=True)
class ReadOutputs:
    """Then what the log has after a position (None: of records with epochs above `above`): hand it to
    `Node.outputs_read`, with that position, also when there is nothing. What cannot be read is for `Builds.failed`."""

    partition: PartitionId
    term: Term
    map: str
    number: int
    above: Epoch
    after: Position | None

    @property
    def build(self) -> tuple[PartitionId, Term, str, int]:
        return self.partition, self.term, self.map, self.number


@dataclass(frozen=True, slots=True)
class AppendGroup:
    """Append all entries at once; report with `Node.group_landed` or `Node.group_failed`."""

    group: Try
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class AppendControl:
    """Append to the control log exactly after `expected`; report a failure with `Node.control_failed`.

    Success needs no report: the record is learned by reading the control log (rule C2).
    """

    expected: Position
    record: ControlRecord


@dataclass(frozen=True, slots=True)
class RunBatch:
    """Run these rows in a worker process, and report with `Node.batch_done`; look-ups go to `Isolation.look_up`.

    `code` is what the worker has to load (tidegrid.triggers.batch).
    """

    number: int
    partition: PartitionId
    code: bytes
    batch: Batch


@dataclass(frozen=True, slots=True)
class Suspended:
    """A trigger is not run any more on this node: somebody should be told."""

    trigger: str
    words: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Send to another node; it may be lost."""

    node: NodeId
    message: Any


@dataclass(frozen=True, slots=True)
class Answered:
    """These requests are complete: their answers are in them."""

    requests: Sequence[
        WriteRequest
        | ReadRequest
        | CloseRequest
        | EpochAtRequest
        | HistoryRequest
        | GroupRequest
        | HoldRequest
        | ParkedRequest
        | RedriveRequest
    ]


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


Effect = (
    Append
    | AppendGroup
    | AppendControl
    | LoadCheckpoint
    | ReadLog
    | LoadBase
    | ReadOutputs
    | CheckTails
    | RunBatch
    | Suspended
    | Tell
    | Answered
    | ClosedTo
    | ReadControl
)
