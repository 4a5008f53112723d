"""Rules of commit groups switched off: the coordinator (engine/groups.py) and the owners (engine/lending.py). See mutations.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tidegrid.grid.engine import intake, lending
from tidegrid.grid.engine.groups import Groups
from tidegrid.grid.engine.lending import Lending
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.requests import Known
from tidegrid.grid.engine.writes import WritePath
from tidegrid.grid.model.errors import GridError, LogTimeoutError, WrongTailError
from tidegrid.grid.model.ids import Epoch, Position
from tidegrid.grid.ring import promise

Patch = pytest.MonkeyPatch


def slots_lent_without_an_end(patch: Patch) -> None:
    """Whatever acts from a later epoch on; `bound`, which would hold for triggers, is off too."""
    right = Groups.lent

    def lent(self: Groups, now: float, sender: Any, message: Any, epoch: Epoch) -> Any:
        message.until, message.bound = 1 << 62, False
        return right(self, now, sender, message, epoch)

    patch.setattr(Groups, "lent", lent)


def what_triggers_saw_is_stamped_anew(patch: Patch) -> None:
    right = Groups.lent

    def lent(self: Groups, now: float, sender: Any, message: Any, epoch: Epoch) -> Any:
        message.bound = False
        return right(self, now, sender, message, epoch)

    patch.setattr(Groups, "lent", lent)


def lent_slots_not_registered(patch: Patch) -> None:
    patch.setattr(promise.PartitionPromise, "lowest", property(lambda self: self.in_flight))


def stamped_below_a_lender(patch: Patch) -> None:
    right = Groups._go_on

    def go_on(self: Groups, now: float, trial: Any, epoch: Epoch) -> Any:
        lowest = min((lent.stamp for lent in trial.lent.values()), default=epoch)
        return right(self, now, trial, Epoch(lowest))

    patch.setattr(Groups, "_go_on", go_on)


def released_without_a_fill(patch: Patch) -> None:
    def contend(self: Lending, partition: Partition) -> None:
        self._writes.group_released(partition)

    patch.setattr(Lending, "_contend", contend)


def lent_for_ever(patch: Patch) -> None:
    patch.setattr(Lending, "_contend", lambda self, partition: None)


def given_up_after_sending(patch: Patch) -> None:
    right = Groups.failed

    def failed(self: Groups, now: float, name: Any, error: GridError) -> Any:
        trial = self._current(*name)
        if trial is not None and isinstance(error, LogTimeoutError | WrongTailError):
            return self._again(now, trial)
        return right(self, now, name, error)

    patch.setattr(Groups, "failed", failed)


def latest_read_while_a_slot_is_lent(patch: Patch) -> None:
    right = intake.Intake._read

    def read(self: intake.Intake, request: Any, carried: Epoch, tails: Any) -> Any:
        return right(self, request, Epoch(0), tails)

    patch.setattr(intake.Intake, "_read", read)


def repeated_group_not_recognised(patch: Patch) -> None:
    right = lending._known

    def known(partition: Partition, requests: Sequence[Any], epoch: Epoch) -> list[Known]:
        return [Known("new") for _ in right(partition, requests, epoch)]

    patch.setattr(lending, "_known", known)


def landed_at_the_lenders_own_epoch(patch: Patch) -> None:
    right = WritePath.group_landed

    def landed(self: WritePath, partition: Partition, epoch: Epoch, position: Position) -> None:
        assert partition.in_flight is not None
        right(self, partition, partition.in_flight.stamp, position)

    patch.setattr(WritePath, "group_landed", landed)


def lent_beside_a_frame_in_flight(patch: Patch) -> None:
    """The next frame is computed while the slot is lent."""
    right = Partition.wants_computing

    def wants(self: Partition, epoch: Epoch) -> bool:
        kept, self.reserved = self.reserved, False
        loan = self.in_flight.loan if self.in_flight is not None else None
        if loan is not None and self.in_flight is not None:
            self.in_flight.loan = None
        try:
            more = bool(self.queue) and not self.redrives and self.next is None and self.making is None
            return right(self, epoch) or (loan is not None and more and self.serving)
        finally:
            self.reserved = kept
            if self.in_flight is not None:
                self.in_flight.loan = loan

    patch.setattr(Partition, "wants_computing", wants)
