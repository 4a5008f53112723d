"""Which views nodes propose, and how a partition is opened and given up.

    opening --OPEN in the log, log replayed--> open --a planned move, or a stop--> draining --no move any more--> open
    any of them --another view, or a higher OPEN in the log--> closed

A view is planned from the view before it and appended at exactly the position it was planned at. Whoever appends it,
the rules are the same: living owners keep what they have, what nobody living owns goes where `assignment` puts it, and
every partition that changes hands gets a higher term. A new owner opens it only after the VIEW is in the log (rule O).
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Final

from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId, Term
from tidegrid.grid.ring.assignment import assignment
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.view import Member, Owner, view_message
from tidegrid.v1 import control_pb2


class PartitionState(enum.Enum):
    OPENING = "opening"  # owned by the view; OPEN is not in the log yet, or the log is not replayed
    OPEN = "open"
    DRAINING = "draining"  # takes nothing new, promises as an open one does
    CLOSED = "closed"  # for good: the same partition is opened anew under a higher term


TRANSITIONS: Final[Mapping[PartitionState, frozenset[PartitionState]]] = {
    PartitionState.OPENING: frozenset({PartitionState.OPEN, PartitionState.CLOSED}),
    PartitionState.OPEN: frozenset({PartitionState.DRAINING, PartitionState.CLOSED}),
    PartitionState.DRAINING: frozenset({PartitionState.OPEN, PartitionState.CLOSED}),
    PartitionState.CLOSED: frozenset(),
}


def advance(state: PartitionState, to: PartitionState) -> PartitionState:
    """Returns `to`. A transition that the table does not have is a bug."""
    assert to in TRANSITIONS[state], f"{state.value} -> {to.value}"
    return to


def next_view(
    control: ControlState, members: Iterable[Member], give: Mapping[PartitionId, NodeId] = MappingProxyType({})
) -> control_pb2.View:
    """The view of these members: append it at exactly `control.position`. `give` moves partitions to members.

    A member under a new incarnation owns nothing of what it had before (rule S).
    """
    alive = {member.node: member for member in members}
    assert alive
    wanted = assignment(control.partitions, frozenset(alive))
    owners: dict[PartitionId, Owner] = {}
    for partition in map(PartitionId, range(control.partitions)):
        present = control.view.owners.get(partition)
        if present is not None:
            member = alive.get(present.node)
            if member is None or member.incarnation != present.incarnation:
                present = None
        target = give.get(partition, present.node if present is not None else wanted[partition])
        if present is None or target != present.node:
            present = Owner(target, alive[target].incarnation, Term(control.term(partition) + 1))
        owners[partition] = present
    return view_message(alive.values(), owners)


def joined_view(control: ControlState, me: Member) -> control_pb2.View:
    """The present members and this one, which takes nothing from the living."""
    return next_view(control, [*(m for m in control.view.members.values() if m.node != me.node), me])


def view_without(control: ControlState, gone: Collection[NodeId]) -> control_pb2.View:
    return next_view(control, [member for member in control.view.members.values() if member.node not in gone])


def moved_view(control: ControlState, give: Mapping[PartitionId, NodeId]) -> control_pb2.View:
    return next_view(control, control.view.members.values(), give)


def open_stamp(own_epoch: Epoch, closed_as_of_view: Epoch, last_stamp: Epoch) -> Epoch:
    """Rule O2: the stamp of OPEN, and the epoch follows. `last_stamp` is that of the last valid record of the log."""
    return max(own_epoch, Epoch(closed_as_of_view + 1), last_stamp)
