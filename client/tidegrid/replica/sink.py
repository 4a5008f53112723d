"""What a follower writes to. A sink keeps its position together with its rows, so that any crash leaves both or neither.

Lifecycle: opened once (says how far it is), applied to batch group by batch group, closed. Between two calls of
`apply` it is at a position: everything up to that epoch is in, nothing of later ones. A snapshot may take many
calls; until its `live` batch is in, the sink counts as empty when it is opened again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tidegrid.client.change import FeedBatch
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.maps import MapSpec


@dataclass(frozen=True, slots=True)
class Source:
    """What is followed: a map of a grid."""

    grid_id: bytes
    spec: MapSpec


class Sink(Protocol):
    async def open(self, source: Source) -> Epoch | None:
        """How far the sink is; None: it is empty, or its snapshot is not complete.

        Raises WrongGridError, ConfigurationError (it belongs to another map, or to somebody else), InUseError.
        """
        ...

    async def apply(self, batches: Sequence[FeedBatch]) -> int:
        """Takes all of them in, and the last one's epoch as its position, or nothing. Returns the rows it wrote or deleted."""
        ...

    async def close(self) -> None:
        """Idempotent."""
        ...
