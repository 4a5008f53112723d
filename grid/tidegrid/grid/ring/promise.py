"""Rule P: what a node can promise, from what its partitions have in flight.

    floor = min over partitions:  not open: closed;  open: min(epoch, whatever is undecided) - 1

Undecided is: computed and not yet known to be in the log or not; lent to a commit group; in the log, with outputs not
yet delivered. A promise is given only with the node's epoch already above it, and is then stable: a new record is
stamped with the epoch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tidegrid.grid.model.ids import Epoch, PartitionId


@dataclass(frozen=True, slots=True)
class PartitionPromise:
    """What one partition holds back: the lowest epoch of each kind, None where there is nothing."""

    partition: PartitionId
    open: bool  # its OPEN is in the log and the log is replayed; True while draining
    in_flight: Epoch | None = None  # frames computed, not yet decided
    lent: Epoch | None = None  # slots lent to commit groups
    undelivered: Epoch | None = None  # frames whose routed outputs are not all delivered

    @property
    def lowest(self) -> Epoch | None:
        held = [epoch for epoch in (self.in_flight, self.lent, self.undelivered) if epoch is not None]
        return min(held) if held else None


def floor(promises: Iterable[PartitionPromise], owned: Collection[PartitionId], epoch: Epoch, closed: Epoch) -> Epoch:
    """The highest epoch at or below which this node puts nothing more into any partition it owns.

    `owned` is what the applied view gives to this node: one of them without a promise is not open. A promise for a
    partition that it owns no more counts all the same, since a frame of it may be in flight.
    """
    lowest = epoch
    missing = set(owned)
    for promise in promises:
        missing.discard(promise.partition)
        if not promise.open:
            return closed
        held = promise.lowest
        if held is not None and held < lowest:
            lowest = held
    return closed if missing else Epoch(lowest - 1)


def in_flight_below(promises: Iterable[PartitionPromise], epoch: Epoch) -> bool:
    """Whether waiting for frames to land would raise the floor to epoch - 1: what a visit holds the token for."""
    return any(p.open and p.in_flight is not None and p.in_flight < epoch for p in promises)
