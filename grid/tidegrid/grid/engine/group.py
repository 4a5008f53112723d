"""A commit group as its client sent it: writes to any partitions that are to be in the log together, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.v1 import grid_pb2


class GroupRequest:
    """`writes` are batches, each of one map and one partition; `id` names the group however often it is sent.

    After completion: `error`, of the whole; or `errors` by (batch, row), with nothing stored; or `epoch` and, per
    batch, `versions`, and by (batch, row) in `parked` what is stored without outputs.
    """

    __slots__ = ("epoch", "error", "errors", "id", "parked", "reply_to", "versions", "writes")

    def __init__(self, group: bytes, writes: Sequence[grid_pb2.WriteBatch], reply_to: Any) -> None:
        self.id = group
        self.writes = writes
        self.reply_to = reply_to
        self.epoch = Epoch(0)
        self.versions: list[list[int]] = []
        self.error: GridError | None = None
        self.errors: dict[tuple[int, int], GridError] = {}
        self.parked: dict[tuple[int, int], str] = {}

    def of(self, partition: PartitionId) -> list[int]:
        """Which batches belong to a partition."""
        return [at for at, batch in enumerate(self.writes) if batch.partition == partition]
