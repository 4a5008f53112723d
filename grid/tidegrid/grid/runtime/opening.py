"""How nodes begin (rule S): fold the control log, become a new incarnation, and be named in a view.

What the view gives to a node it opens by itself (engine/opening.py); every start does all of it, also with one node:
only a fresh OPEN above everything in a partition's log makes it safe to stamp there again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidegrid.grid.engine.node import Node
from tidegrid.grid.engine.retention import RetentionOptions
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.model.errors import ConfigurationError, WrongTailError
from tidegrid.grid.model.ids import CONTROL_LOG, Incarnation, NodeId, PartitionId
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.local import RingOptions
from tidegrid.grid.ring.ownership import next_view
from tidegrid.grid.ring.view import Member
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
    strict: bool = False  # triggers run twice, and one that breaks the contract refuses the write; for development

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


async def new_member(log: Log, me: NodeId, address: str, peer_address: str) -> Member:
    """Rule S: a start is a new incarnation, whatever the ones before it left behind, and wherever they may live on."""
    before = (await fold_control(log)).incarnation(me)
    return Member(me, Incarnation(before + 1), address, peer_address)


async def start_together(log: Log, members: Sequence[Member]) -> None:
    """The view of a process that starts all nodes of a grid: nobody else is alive, since the log is its alone."""
    await append_control(log, ControlState(), lambda state: ControlRecord(view=next_view(state, members)))


async def new_node(log: Log, member: Member, options: NodeOptions) -> Node:
    """Over the control log as it is now. It opens what the view gives to it, once it is started."""
    control = await fold_control(log)
    return Node(member, control, options.limits, options.ring, options.retention, options.recent_bytes, options.strict)
