"""How a node starts (rules S and O): fold the control log, win a view, recover the partitions it gives, open them.

Every start does all of it, also with one node: only a fresh OPEN above everything in a partition's log makes it safe
to stamp there again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from tidegrid.grid.engine.checkpoint import Recovery
from tidegrid.grid.engine.node import Node
from tidegrid.grid.engine.retention import RetentionOptions
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.record import encode_open
from tidegrid.grid.model.errors import ConfigurationError, CorruptionError, FormatError, WrongTailError
from tidegrid.grid.model.ids import BEFORE_FIRST, CONTROL_LOG, Epoch, Incarnation, NodeId, PartitionId, partition_log
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.local import RingOptions
from tidegrid.grid.ring.ownership import open_stamp, plan_view
from tidegrid.grid.ring.view import Member
from tidegrid.grid.runtime.clock import Clock
from tidegrid.v1.control_pb2 import ControlRecord

_READ_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class NodeOptions:
    limits: Limits
    ring: RingOptions
    retention: RetentionOptions
    recent_bytes: int = (
        64 * 1024 * 1024
    )  # newest frames kept for followers, per node; more: slow ones read the log later

    def validate(self) -> None:
        self.retention.validate()
        if self.recent_bytes < 0:
            raise ConfigurationError("recent_bytes is 0 or more")


Progress = Callable[[PartitionId, int], None]
"""Called as (partition, entries recovered so far)."""


async def fold_control(log: Log, control: ControlState | None = None) -> ControlState:
    """The control log applied to its end, from its checkpoint or from `control` on."""
    if control is None:
        saved = await log.load_checkpoint(CONTROL_LOG)
        control = ControlState.from_bytes(b"".join(saved.chunks)) if saved is not None else ControlState()
    while records := await log.read(CONTROL_LOG, control.position, _READ_BYTES):
        for item in records:
            control.apply(item.position, ControlRecord.FromString(item.payload))
    return control


async def append_control(log: Log, control: ControlState, make: Callable[[ControlState], ControlRecord | None]) -> bool:
    """Appends the record that `make` decides on as of the end of the control log, again while others come in between."""
    while True:
        await fold_control(log, control)
        record = make(control)
        if record is None:
            return False
        try:
            await log.append([Entry(CONTROL_LOG, control.position, control.closed, record.SerializeToString())])
        except WrongTailError:
            continue
        await fold_control(log, control)
        return True


async def open_node(
    log: Log,
    me: NodeId,
    configured: Collection[NodeId],
    address: str,
    peer_address: str,
    options: NodeOptions,
    clock: Clock,
    progress: Progress | None = None,
) -> Node:
    """A node that owns its share of the partitions, all of them open. Raises CorruptionError, FormatError."""
    control = await fold_control(log)
    before = control.view.members.get(me)
    incarnation = Incarnation(before.incarnation + 1 if before is not None else 1)
    member = Member(me, incarnation, address, peer_address)
    await append_control(log, control, lambda state: ControlRecord(view=plan_view(state, member, configured)))
    view, closed = control.view, control.closed
    owned = view.owned_by(me, incarnation)
    recent_bytes = options.recent_bytes // max(1, len(owned))
    node = Node(me, incarnation, control, options.limits, options.ring, options.retention, recent_bytes)
    node.control_records(clock.instant(), [])
    for partition in owned:
        await _recover(log, node, partition, progress)
    # The view stays ours until somebody else starts under the same name, which the log's own lock rules out.
    for partition in owned:
        recovered = node.partitions[partition]
        stamp = open_stamp(node.epoch, closed, recovered.last_stamp)
        instant = clock.instant()
        payload = encode_open(partition, view.owners[partition].term, stamp, me, incarnation, instant.time_ms)
        (position,) = await log.append([Entry(partition_log(partition), recovered.tail, stamp, payload)])
        node.opened(instant, partition, position, stamp)
    return node


async def _recover(log: Log, node: Node, number: PartitionId, progress: Progress | None) -> None:
    partition = node.adopt(number)
    recovery = Recovery(partition, node.writes.reference_maps)
    name = partition_log(number)
    saved = await log.load_checkpoint(name)
    if saved is not None:
        for chunk in saved.chunks:
            recovery.chunk(chunk)
            if progress is not None:
                progress(number, recovery.entries)
        if recovery.position != saved.position:
            raise CorruptionError(
                f"the checkpoint of partition {number} is not of the position it names; delete it, and the log is read from its beginning",
                partition=number,
            )
    while records := await log.read(name, recovery.position, _READ_BYTES):
        try:
            recovery.records(records)
        except FormatError as error:
            raise CorruptionError(f"partition {number}: {error.message}", partition=number) from error
        if progress is not None:
            progress(number, recovery.entries)
    assert partition.tail != BEFORE_FIRST or partition.last_stamp == Epoch(0)
