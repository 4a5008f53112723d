"""Rules of the ring switched off: stamps, limit, promises, openings, the token and the close. See mutations.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tidegrid.grid.engine import (
    checkpoint,
    opening,
    standing,
    tenure,
)
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.model.errors import WrongTailError
from tidegrid.grid.model.ids import CONTROL_LOG, Epoch, Incarnation, Position
from tidegrid.grid.ring import closing, control, hop, promise, ring, token, vigil
from tidegrid.grid.ring.ring import Carried, Ring
from tidegrid.v1.control_pb2 import ControlRecord

from tests.simulation import process
from tests.simulation.world import World

Patch = pytest.MonkeyPatch


# Stamps, limit, promises -----------------------------------------------------------------------------------------


def in_flight_ignored_in_the_floor(patch: Patch) -> None:
    patch.setattr(promise.PartitionPromise, "lowest", property(lambda self: None))


def intro_not_capped(patch: Patch) -> None:
    patch.setattr(Ring, "_capped", lambda self, epoch: epoch)


def carried_pair_taken_unseen(patch: Patch) -> None:
    def carry(self: Ring, now: float, position: Position, epoch: Epoch, *, at_tail: bool = False) -> Carried:
        self._raise(epoch)
        return Carried.TAKEN

    patch.setattr(Ring, "carry", carry)


def control_position_not_carried(patch: Patch) -> None:
    right = Ring.carry
    patch.setattr(
        Ring, "carry", lambda self, now, position, epoch, **more: right(self, now, Position(0), epoch, **more)
    )


def epoch_not_carried(patch: Patch) -> None:
    right = Ring.carry
    patch.setattr(
        Ring, "carry", lambda self, now, position, epoch, **more: right(self, now, position, Epoch(0), **more)
    )


def deploy_acts_at_once(patch: Patch) -> None:
    right = control.ControlState._deploy

    def deploy(self: control.ControlState, position: Position, record: Any) -> Any:
        span, self._limit_span = self._limit_span, 1
        try:
            return right(self, position, record)
        finally:
            self._limit_span = span

    patch.setattr(control.ControlState, "_deploy", deploy)


def promise_before_open(patch: Patch) -> None:
    right = promise.floor
    patch.setattr(
        ring, "floor", lambda promises, owned, epoch, closed: right([p for p in promises if p.open], (), epoch, closed)
    )


def limit_span_of_two(patch: Patch) -> None:
    patch.setattr(control.ControlState, "limit", property(lambda self: Epoch(self._closed + 2)))


# Opening ---------------------------------------------------------------------------------------------------------


def open_at_own_epoch(patch: Patch) -> None:
    """The last stamp of the log is not carried either, which would raise that epoch."""

    def open_(self: tenure.Tenure, now: float, time_ms: int, of: opening.Opening) -> None:
        if of.at_end(self._ring.epoch, time_ms):
            self._opened(now, of.partition)

    patch.setattr(tenure.Tenure, "_open", open_)


def restart_keeps_its_identity(patch: Patch) -> None:
    """No new incarnation, so no new view and no new term."""
    patch.setattr(process, "Incarnation", lambda number: Incarnation(1))


def log_not_read_after_the_view(patch: Patch) -> None:
    """What came between the reading and the OPEN is stepped over."""
    right_failed, right_read = opening.Opening.failed, opening.Opening.read

    def failed(self: Any, now: float, error: Any) -> None:
        self.behind = isinstance(error, WrongTailError)
        right_failed(self, now, error)

    def read(self: Any, records: Any) -> None:
        if getattr(self, "behind", False):
            self._recovery.position = self.partition.tail = records[-1].position
            self.read_on()
        else:
            right_read(self, records)

    patch.setattr(opening.Opening, "failed", failed)
    patch.setattr(opening.Opening, "read", read)


def log_not_read_to_its_tail(patch: Patch) -> None:
    """The checkpoint is taken for the whole state."""
    right = checkpoint.Recovery.records

    def records(self: checkpoint.Recovery, items: list[Any]) -> None:
        if self.partition.term:
            self.position = self.partition.tail = items[-1].position
        else:
            right(self, items)

    patch.setattr(checkpoint.Recovery, "records", records)


def request_memory_not_rebuilt(patch: Patch) -> None:
    patch.setattr(checkpoint.Recovery, "_remember", lambda self, *columns: None)


def reference_changes_forgotten(patch: Patch) -> None:
    right = checkpoint.Recovery.records

    def records(self: checkpoint.Recovery, items: list[Any]) -> None:
        right(self, items)
        self.partition.references_changed = Epoch(0)

    patch.setattr(checkpoint.Recovery, "records", records)


def checkpoint_of_a_later_memory(patch: Patch) -> None:
    right = checkpoint.checkpoint_chunks

    def chunks(of: Any) -> Any:
        position = of.tail
        first, *_ = right(of)
        yield first
        yield from [chunk for chunk in list(right(of))[1:] if of.tail >= position]

    patch.setattr(process, "checkpoint_chunks", chunks)


# The token and the close -----------------------------------------------------------------------------------------


def view_forgotten_in_the_token(patch: Patch) -> None:
    patch.setattr(ring, "renew", lambda held, view, changed: token.renew(held, view, ()))
    patch.setattr(closing, "renew", lambda held, view, changed: token.renew(held, view, ()))


def close_without_expecting(patch: Patch) -> None:
    """Appended wherever the control log ends, as long as it closes more than before."""
    right = World.append_all

    def append_all(self: World, entries: Sequence[Entry]) -> Sequence[Position]:
        entry = entries[0]
        if _is_close(entry) and ControlRecord.FromString(entry.payload).close.epoch > self.truth.closed:
            entries = [Entry(CONTROL_LOG, self.log.tail(CONTROL_LOG), self.truth.closed, entry.payload)]
        return right(self, entries)

    patch.setattr(World, "append_all", append_all)
    reach = process.Process._reach

    def slowly(self: process.Process, mean: float, entries: Sequence[Entry], hear: Any) -> None:
        reach(self, 0.2 if _is_close(entries[0]) else mean, entries, hear)

    patch.setattr(process.Process, "_reach", slowly)


def _is_close(entry: Entry) -> bool:
    return entry.log == CONTROL_LOG and ControlRecord.FromString(entry.payload).WhichOneof("record") == "close"


def tails_left_out(patch: Patch) -> None:
    patch.setattr(ring, "visit", lambda held, me, floor, tails, *rest: token.visit(held, me, floor, {}, *rest))


def reference_epoch_left_out(patch: Patch) -> None:
    patch.setattr(standing.Standing, "reference_epoch", lambda self: Epoch(0))


def promise_up_to_the_own_epoch(patch: Patch) -> None:
    right = promise.floor
    patch.setattr(
        ring, "floor", lambda promises, owned, epoch, closed: right(promises, owned, Epoch(epoch + 1), closed)
    )
    patch.setattr(ring, "begin", lambda *facts: replace(token.begin(*facts), floor=facts[4]))


def closes_below_closed(patch: Patch) -> None:
    right = closing.close_record

    def lower(*facts: Any) -> ControlRecord:
        record = right(*facts)
        record.close.epoch = max(1, record.close.epoch - 2)
        return record

    patch.setattr(closing, "close_record", lower)


def hops_counted_for_visits(patch: Patch) -> None:
    """Whom the token goes past counts as visited."""

    def go_past(self: Ring, now: float, silent: Any, held: token.Token) -> None:
        if self.member and silent not in held.visited:
            self._pass_on(now, replace(held, visited=held.visited | {silent}))

    patch.setattr(Ring, "_go_past", go_past)


def nothing_sent_again(patch: Patch) -> None:
    patch.setattr(hop.Hop, "time_passed", lambda self, now: self.forget() if self.due and now >= self.due else None)
    patch.setattr(hop.Hop, "given_up", lambda self, now: None)
    patch.setattr(vigil.Vigil, "lost_at", lambda self, rank, *, alone: None)


def no_wakes(patch: Patch) -> None:
    patch.setattr(Ring, "_wake_origin", lambda self, now, *, again=False: self._vigil.woke(now, again=again))
    patch.setattr(vigil.Vigil, "lost_at", lambda self, rank, *, alone: None)


def compaction_ahead_of_the_slowest(patch: Patch) -> None:
    """Records that a live node has not read yet are folded away."""
    patch.setattr(World, "compacted_to", lambda self, read_by_all: self.truth.position)
