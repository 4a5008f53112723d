"""Who is to own what, and how a partition is opened.

    opening --OPEN in the log, log replayed--> open <--draining: a planned move, or a stop--> draining
    any of them --another view, or a higher OPEN in the log--> closed

First form: members are configured, partition p belongs to configured node p mod N, and every start takes its share
anew with a new incarnation and higher terms (rule S: a start owns nothing). `assigned` is the place for rendezvous
hashing, where members come and go; take-over and moves write the same VIEW and change no rule.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from tidegrid.grid.model.errors import ConfigurationError
from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId, Term
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


def assigned(partition: PartitionId, nodes: Iterable[NodeId]) -> NodeId:
    """The configured node that is to own the partition."""
    ring = sorted(nodes)
    return ring[partition % len(ring)]


def plan_view(control: ControlState, me: Member, configured: Collection[NodeId]) -> control_pb2.View:
    """The view by which a start becomes a member and takes its share: append it at exactly `control.position`.

    Others that are still configured stay members and keep what the view says of them; this node's share becomes its
    own under a term higher than any before. Raises ConfigurationError: `me` is not configured.
    """
    if me.node not in configured:
        raise ConfigurationError(
            f"node {me.node} is not among the configured nodes {sorted(configured)}; start it with one of those ids",
            node=me.node,
        )
    view = control.view
    others = {node: member for node, member in view.members.items() if node in configured and node != me.node}
    owners: dict[PartitionId, Owner] = {}
    for partition in map(PartitionId, range(control.partitions)):
        present = view.owners.get(partition)
        if assigned(partition, configured) == me.node:
            owners[partition] = Owner(me.node, me.incarnation, Term(control.term(partition) + 1))
        elif present is not None and present.node in others:
            owners[partition] = present
    return view_message([me, *others.values()], owners)


def open_stamp(own_epoch: Epoch, closed_as_of_view: Epoch, last_stamp: Epoch) -> Epoch:
    """Rule O2: the stamp of OPEN, and the epoch follows. `last_stamp` is that of the last valid record of the log."""
    return max(own_epoch, Epoch(closed_as_of_view + 1), last_stamp)
