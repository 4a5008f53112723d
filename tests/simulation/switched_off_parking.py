"""Rules of parked writes switched off. See mutations.py."""

from __future__ import annotations

from typing import Any

import pytest
from tidegrid.grid.engine import checkpoint, parking, redriving
from tidegrid.grid.engine.partition import Partition

Patch = pytest.MonkeyPatch


def redriven_and_still_parked(patch: Patch) -> None:
    """Whoever asks again gets it again."""
    patch.setattr(parking.Parking, "_redriven", lambda self, of, failure: None)


def parked_writes_forgotten_by_a_new_owner(patch: Patch) -> None:
    right = checkpoint.Recovery._record

    def record(self: checkpoint.Recovery, item: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(parking.Parking, "landed", lambda self, *arguments: None)
            right(self, item)

    patch.setattr(checkpoint.Recovery, "_record", record)


def parked_writes_left_out_of_checkpoints(patch: Patch) -> None:
    patch.setattr(parking.Parking, "slices", lambda self: iter(()))


def parked_writes_of_a_later_moment_in_checkpoints(patch: Patch) -> None:
    def slices(self: parking.Parking) -> Any:
        yield from parking._slices(list(self._writes.values()), self.unparked)

    patch.setattr(parking.Parking, "slices", slices)


def later_versions_not_seen(patch: Patch) -> None:
    patch.setattr(redriving, "superseded", lambda write, table: False)


def redriven_on_a_frame_in_flight(patch: Patch) -> None:
    """What is on its way is not looked at: later versions, and redrives of the same write."""
    right = Partition.wants_computing

    def wants_computing(self: Partition, epoch: Any) -> bool:
        if self.redrives and self.in_flight is not None and self.next is None and self.serving:
            return self.in_flight.loan is None
        return right(self, epoch)

    def compute_redrive(self: Partition, *arguments: Any) -> Any:
        flying, self.in_flight = self.in_flight, None
        made = redrive(self, *arguments)
        self.in_flight = flying
        return made

    redrive = Partition.compute_redrive
    patch.setattr(Partition, "wants_computing", wants_computing)
    patch.setattr(Partition, "compute_redrive", compute_redrive)


def parked_nowhere(patch: Patch) -> None:
    """A write is refused though there is room."""
    patch.setattr(parking.Parking, "has_room", lambda self, writes, size: False)
