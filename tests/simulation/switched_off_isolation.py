"""Rules of frames in the making switched off (engine/making.py). See mutations.py."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from tidegrid.grid.engine import compute, isolation, partition, writes
from tidegrid.grid.model.ids import Epoch

Patch = pytest.MonkeyPatch


def makings_not_counted(patch: Patch) -> None:
    """E4: time closes the epoch of a frame in the making."""

    def lowest(self: partition.Partition) -> Epoch | None:
        frame = self.in_flight or self.next
        return frame.stamp if frame is not None and frame.loan is None else None

    patch.setattr(partition.Partition, "lowest_in_flight", property(lowest))


def made_at_the_answer(patch: Patch) -> None:
    """E4: it is stamped when the answer has come, with what its triggers have seen before."""
    right = isolation.Isolation.done

    def done(self: isolation.Isolation, answer: Any) -> Any:
        found = right(self, answer)
        if found is not None and found.making is not None and found.making.kind is not isolation.Kind.LOAN:
            found.making = dataclasses.replace(found.making, epoch=max(found.making.epoch, self.epoch()))
        return found

    init = writes.WritePath.__init__

    def made(self: writes.WritePath, limits: Any, seed: Any, emit: Any, epoch: Any, *rest: Any) -> None:
        init(self, limits, seed, emit, epoch, *rest)
        self.isolation.epoch = epoch  # type: ignore[attr-defined]

    patch.setattr(writes.WritePath, "__init__", made)
    patch.setattr(isolation.Isolation, "done", done)


def any_answer_taken(patch: Patch) -> None:
    """That of a making which was dropped is taken for the one that came after it."""

    def making(self: isolation.Isolation, number: int) -> partition.Partition | None:
        found = None
        for one in self._partitions.values():
            if one.making is not None and (found is None or one.making.number == number):
                found = one
        return found

    patch.setattr(isolation.Isolation, "making", making)


def run_on_refused_rows(patch: Patch) -> None:
    """What ran after a row that is then refused for want of room is taken, though it saw that row stored."""

    def nothing(self: compute.Computation) -> None: ...

    patch.setattr(compute.Computation, "_leave_rest", nothing)


def base_undone_and_still_made(patch: Patch) -> None:
    """What was being made on a frame that never lands is kept."""
    for name in ("failed", "slot_taken"):
        right = getattr(partition.Partition, name)

        def keep(self: partition.Partition, *arguments: Any, right: Any = right) -> Any:
            kept = self.making
            found = right(self, *arguments)
            if self.serving:
                self.making = kept
            return found

        patch.setattr(partition.Partition, name, keep)


def computed_beside_a_making(patch: Patch) -> None:
    """What comes next is computed while rows are in the hands of a worker, if that is at the same epoch: what these look up
    changes under them, and what they are of may be computed twice."""
    wants, begin = partition.Partition.wants_computing, isolation.Isolation.begin

    def wanted(self: partition.Partition, epoch: Epoch) -> bool:
        kept = self.making
        if kept is None or self.redrives or self.in_flight is not None or epoch != kept.epoch:
            return wants(self, epoch)
        self.making = None
        try:
            return wants(self, epoch)
        finally:
            self.making = kept

    def begun(self: isolation.Isolation, at: partition.Partition, *arguments: Any) -> int:
        return 0 if at.making is not None else begin(self, at, *arguments)

    patch.setattr(partition.Partition, "wants_computing", wanted)
    patch.setattr(isolation.Isolation, "begin", begun)


def loans_not_dropped(patch: Patch) -> None:
    """Liveness: a group has gone elsewhere, and what was made for it stays in flight."""

    def waits(waiting: Any, attempt: object) -> bool:
        return True

    patch.setattr("tidegrid.grid.engine.lending._waits", waits)
