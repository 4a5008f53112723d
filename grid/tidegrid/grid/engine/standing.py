"""What the ring asks of the node it is part of (ring/local.py): promises, tails, and whether somebody waits for time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.ring.promise import PartitionPromise
from tidegrid.grid.ring.token import merge_tails

if TYPE_CHECKING:
    from tidegrid.grid.engine.node import Node


class Standing:
    def __init__(self, node: Node) -> None:
        self._node = node

    def promises(self) -> Iterable[PartitionPromise]:
        return self._node.writes.promises()

    def tails(self) -> Mapping[PartitionId, Position]:
        own = {number: partition.tail for number, partition in self._node.partitions.items() if partition.serving}
        return merge_tails(self._node.routing.tails, own)

    def highest_stamp(self) -> Epoch:
        return self._node.writes.highest_stamp

    def reference_epoch(self) -> Epoch:
        return max((partition.references_changed for partition in self._node.partitions.values()), default=Epoch(0))

    def waiting_for(self) -> Epoch:
        return max(self._node.intake.waiting_for, self._node.tenure.waiting_for)

    def ready(self) -> bool:
        return self._node.tenure.ready

    def time_ms(self) -> int:
        return self._node.instant.time_ms
