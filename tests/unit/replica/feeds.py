"""Feed batches made by hand."""

from __future__ import annotations

from typing import Any

from tidegrid.client.change import FeedBatch, FeedSection
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import KeyField, MapKind, MapSpec
from tidegrid.grid.model.values import encode_value
from tidegrid.replica import Source
from tidegrid.v1 import grid_pb2, record_pb2

GRID = b"G" * 16
DELETE: Any = object()


def source(name: str = "m", key: tuple[str, ...] = (), kind: MapKind = MapKind.TABLE, grid_id: bytes = GRID) -> Source:
    return Source(grid_id, MapSpec(name, kind, tuple(map(KeyField.parse, key))))


def changes(epoch: int, rows: list[tuple[Any, Any]], version: int = 1, partition: int = 0) -> FeedBatch:
    """One epoch's batch of (key, value or DELETE)."""
    section = record_pb2.Section(map="m")
    ops = bytearray()
    for key, value in rows:
        section.keys.append(encode_key(key))
        section.values.append(b"" if value is DELETE else encode_value(value, Limits()))
        section.versions.append(version)
        ops.append(2 if value is DELETE else 1)
    section.ops = bytes(ops)
    raw = section.SerializeToString()
    return FeedBatch(Epoch(epoch), [FeedSection(PartitionId(partition), Position(epoch * 10), Epoch(epoch), 0, raw)])


def piece(epoch: int, rows: list[tuple[Any, Any]], begins: bool = False, live: bool = False) -> FeedBatch:
    chunk = grid_pb2.SnapshotChunk(
        keys=[encode_key(key) for key, _ in rows],
        values=[encode_value(value, Limits()) for _, value in rows],
        versions=[1] * len(rows),
        epochs=[epoch] * len(rows),
        times_ms=[0] * len(rows),
    )
    return FeedBatch(
        Epoch(epoch), [FeedSection.of_snapshot(chunk, Epoch(epoch))], snapshot=True, begins=begins, live=live
    )
