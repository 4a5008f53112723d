"""What a follower of a map gets: the changes of one frame, or a slice of what a switch of generations changes."""

from __future__ import annotations

from typing import NamedTuple

from tidegrid.grid.model.ids import Epoch, PartitionId, Position


class FeedEntry(NamedTuple):
    """`position` 0: of a switch."""

    effective: Epoch
    partition: PartitionId
    position: Position
    time_ms: int
    section: bytes
