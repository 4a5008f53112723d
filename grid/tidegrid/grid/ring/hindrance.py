"""Who holds time back, in words for `tidegrid status`: what one node can tell from its own state."""

from __future__ import annotations

from collections.abc import Iterable

from tidegrid.grid.model.ids import Epoch, NodeId
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.hop import Hop
from tidegrid.grid.ring.promise import PartitionPromise


def held_back_by(
    me: NodeId, epoch: Epoch, control: ControlState, promises: Iterable[PartitionPromise], hop: Hop
) -> str:
    """The first of: a partition without an owner, one not open, a node that does not answer, the oldest in flight."""
    uncovered = control.view.uncovered(control.partitions)
    if uncovered:
        return f"partition {uncovered[0]} has no live owner: start the node that owns it"
    held = list(promises)
    opening = [promise.partition for promise in held if not promise.open]
    if opening:
        return f"partition {min(opening)} is being opened by node {me}"
    if hop.attempts > 1:
        return f"node {hop.to} does not take the token (sent {hop.attempts} times by node {me})"
    oldest = min(((p.lowest, p.partition) for p in held if p.lowest is not None), default=None)
    if oldest is not None and oldest[0] <= control.closed + 1 < epoch:
        return f"partition {oldest[1]} of node {me} has something of epoch {oldest[0]} undecided"
    return ""
