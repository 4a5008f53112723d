"""A frame in the making: rows whose triggers run in worker processes, between the moment that they are stamped and the
answer with which their frame is computed.

    begin (stamped, RunBatch goes out) --done--> computed as any frame, on its way to the log
              |--its base is undone, or the partition given up--> dropped: what it was of waits as before

Rule E4: the stamp is fixed from `begin` on, so from then on it counts as in flight (`Partition.lowest_in_flight`), and
time does not close its epoch. Nothing else is computed in the partition meanwhile, so what its triggers look up does not
change: tables and the frame in flight as they were, whether that one has landed by now or not; reference maps as of one
epoch. A frame in flight that never lands takes what was being made on it along.

What is of a making stays in its queue until the frame is computed, so dropping one is forgetting it. An answer finds its
making by number, or nothing: numbers are not used twice in one life of a node.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.engine.compute import References
from tidegrid.grid.engine.delivery import Delivery
from tidegrid.grid.engine.made import Made, Part
from tidegrid.grid.engine.redrive import RedriveRequest
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch
from tidegrid.triggers.batch import Batch
from tidegrid.triggers.context import State


class Kind(enum.Enum):
    WRITES = "writes"
    DELIVERY = "delivery"
    REDRIVE = "redrive"
    LOAN = "loan"  # the part of a commit group


class BatchDone(NamedTuple):
    """What became of a batch. `error`: it could not be run at all."""

    number: int
    parts: Sequence[Part] = ()
    error: GridError | None = None


@dataclass(frozen=True, slots=True)
class AsOf:
    """`References` that stand still."""

    through: Epoch
    changed: Epoch
    copies: References

    def get(self, map_name: str, key: bytes, as_of: Epoch) -> bytes | None:
        return self.copies.get(map_name, key, as_of)


Work = list[WriteRequest] | Delivery | RedriveRequest | tuple[bytes, int]
"""The requests, the delivery or the redrive that a frame is made of; of a loan, group and attempt."""


@dataclass(slots=True)
class Making:
    number: int
    kind: Kind
    of: Work
    catalog: Catalog
    epoch: Epoch
    time_ms: int
    references: AsOf
    state: State
    batch: Batch
    made: Made | None = None
    error: GridError | None = None

    @property
    def decided(self) -> bool:
        return self.made is not None or self.error is not None
