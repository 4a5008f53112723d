"""Who holds time back, for `tidegrid status`: what one node can tell from its own state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.hop import Hop
from tidegrid.grid.ring.promise import PartitionPromise


class Hindrance(NamedTuple):
    """`epoch`: what cannot be closed for it; 0: nothing at all can."""

    words: str
    node: NodeId
    partition: PartitionId | None = None
    epoch: Epoch = Epoch(0)


def hindrance(
    me: NodeId, epoch: Epoch, control: ControlState, promises: Iterable[PartitionPromise], hop: Hop
) -> Hindrance | None:
    """The first of: a partition without an owner, one not open, a node that does not answer, the oldest in flight."""
    uncovered = control.view.uncovered(control.partitions)
    if uncovered:
        number, owner = uncovered[0], control.view.owners.get(uncovered[0])
        words = f"partition {number} has no live owner: start the node that owns it"
        return Hindrance(words, owner.node if owner is not None else me, number)
    held = list(promises)
    opening = [promise.partition for promise in held if not promise.open]
    if opening:
        return Hindrance(f"partition {min(opening)} is being opened by node {me}", me, min(opening))
    if hop.attempts > 1 and hop.to is not None:
        words = f"node {hop.to} does not take the token (sent {hop.attempts} times by node {me})"
        return Hindrance(words, hop.to)
    oldest = min(
        ((p.lowest, p.partition, p.undelivered) for p in held if p.lowest is not None),
        key=lambda one: one[:2],
        default=None,
    )
    if oldest is not None and oldest[0] <= control.closed + 1 < epoch:
        lowest, partition, undelivered = oldest
        words = f"partition {partition} of node {me} has something of epoch {lowest} undecided"
        if undelivered == lowest:
            words = f"partition {partition} of node {me} has sent outputs of epoch {lowest} whose consequences have not all arrived"
        return Hindrance(words, me, partition, lowest)
    return None
