"""Rules of the engine switched off: requests, frames and slots, reads, references, history, feeds. See mutations.py."""

from __future__ import annotations

from typing import Any

import pytest
from tidegrid.grid.engine import (
    exchange,
    feed,
    holding,
    intake,
    node,
    partition,
    reads,
    recent,
    reference,
    requests,
    retention,
    tables,
    writes,
)
from tidegrid.grid.engine.compute import Computation
from tidegrid.grid.engine.effects import Answered, Append, Purpose, Slot
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.model.errors import LogTimeoutError, StorageFullError
from tidegrid.grid.model.ids import Epoch, Position, partition_log
from tidegrid.grid.ring.holds import Holds
from tidegrid.grid.store.table import Table

Patch = pytest.MonkeyPatch


# Requests --------------------------------------------------------------------------------------------------------


def retry_not_deduplicated(patch: Patch) -> None:
    def admit(request: Any, memory: requests.RequestMemory, epoch: Epoch, limits: Any) -> list[Any]:
        memory.admit(request.session, epoch, request.lowest_unanswered)
        return [request]

    patch.setattr(partition, "admit", admit)


def retry_does_not_join(patch: Patch) -> None:
    right = requests.Session.look_up

    def look_up(self: requests.Session, sequence: int) -> requests.Known:
        pending, self.pending = self.pending, []
        known = right(self, sequence)
        self.pending = pending
        return known

    patch.setattr(requests.Session, "look_up", look_up)


def refusals_not_remembered(patch: Patch) -> None:
    right = partition.Partition._answer

    def answer(self: partition.Partition, frame: Any) -> list[Any]:
        done = right(self, frame)
        for portion in frame.portions:
            session = self.memory.get(portion.request.session)
            if session is not None:
                session.refused.clear()
        return done

    patch.setattr(partition.Partition, "_answer", answer)


def below_the_lowest_is_new(patch: Patch) -> None:
    right = requests.Session.look_up

    def look_up(self: requests.Session, sequence: int) -> requests.Known:
        lowest, self.lowest = self.lowest, 0
        known = right(self, sequence)
        self.lowest = lowest
        return known

    patch.setattr(requests.Session, "look_up", look_up)


def sessions_end_at_the_own_epoch(patch: Patch) -> None:
    """Forgotten by an epoch that a restart takes back."""
    right = node.Node.reclaim

    def reclaim(self: node.Node, budget: int) -> int:
        for one in self.partitions.values():
            one.memory.closed = self.ring.epoch
        return right(self, budget)

    patch.setattr(node.Node, "reclaim", reclaim)


def one_reading_of_the_control_log_judges_all(patch: Patch) -> None:
    right = node.Node.control_at_tail

    def at_tail(self: node.Node, instant: node.Instant) -> None:
        self.intake.unread = [pending._replace(read=True) for pending in self.intake.unread]
        right(self, instant)

    patch.setattr(node.Node, "control_at_tail", at_tail)


# Frames ----------------------------------------------------------------------------------------------------------


def refusals_answered_before_the_frame_lands(patch: Patch) -> None:
    right = writes.WritePath.compute_one

    def compute_one(self: writes.WritePath, *facts: Any) -> int:
        worked = right(self, *facts)
        for one in self.partitions.values():
            if one.next is not None and one.next.payload is None:
                frame, one.next = one.next, None
                done = one._answer(frame)
                if done:
                    self._emit(Answered(tuple(done)))
        return worked

    patch.setattr(writes.WritePath, "compute_one", compute_one)


def applied_before_durable(patch: Patch) -> None:
    right, apply = partition.Partition.launch, tables.Tables.apply
    applied: dict[int, Any] = {}  # columns of keys, kept so that no other gets the identity of one

    def launch(self: partition.Partition) -> Any:
        frame = right(self)
        if frame is not None and frame.payload is not None:
            stamp = (frame.stamp, Position(self.tail + 1), frame.time_ms)
            for (name, _), columns in frame.writes.items():
                applied[id(columns.keys)] = columns.keys
                apply(self.tables, name, columns.keys, columns.values, bytes(columns.ops), columns.versions, stamp)
        return frame

    def apply_others(self: tables.Tables, name: str, keys: Any, *rest: Any) -> None:
        if id(keys) not in applied:
            apply(self, name, keys, *rest)

    patch.setattr(partition.Partition, "launch", launch)
    patch.setattr(tables.Tables, "apply", apply_others)


def frame_in_flight_not_seen(patch: Patch) -> None:
    right = Computation.__init__

    def init(self: Computation, frame: Any, base: Any, *rest: Any) -> None:
        right(self, frame, None, *rest)

    patch.setattr(Computation, "__init__", init)


def computed_on_what_failed(patch: Patch) -> None:
    right = partition.Partition.failed

    def failed(self: partition.Partition, error: Any) -> list[Any]:
        kept, self.next = self.next, None
        done = right(self, error)
        self.next = kept
        return done

    patch.setattr(partition.Partition, "failed", failed)


def full_storage_taken_for_success(patch: Patch) -> None:
    right = writes.WritePath.failed

    def failed(self: writes.WritePath, now: float, slot: Slot, error: Any) -> None:
        of = self._undecided(slot)
        if isinstance(error, StorageFullError) and slot.purpose is Purpose.FRAME and of is not None:
            self._answer(of.landed(None))
            self._go_on(of)
        else:
            right(self, now, slot, error)

    patch.setattr(writes.WritePath, "failed", failed)


def time_out_taken_for_failure(patch: Patch) -> None:
    right = writes.WritePath.failed

    def failed(self: writes.WritePath, now: float, slot: Slot, error: Any) -> None:
        of = self._undecided(slot)
        if isinstance(error, LogTimeoutError) and of is not None:
            self._answer(of.failed(error))
            self._go_on(of)
        else:
            right(self, now, slot, error)

    patch.setattr(writes.WritePath, "failed", failed)


def never_filled(patch: Patch) -> None:
    patch.setattr(writes.WritePath, "fill", lambda self, of: None)


def expectation_refreshed(patch: Patch) -> None:
    """A frame whose slot is taken is sent again behind whatever took it."""

    def slot_read(self: writes.WritePath, read: Any, records: Any) -> None:
        of = self._undecided(Slot(read.partition, read.term, read.after, Purpose.FRAME))
        if of is None or of.in_flight is None:
            return
        of.tail = records[-1].position
        entry = Entry(partition_log(of.id), of.tail, of.in_flight.stamp, of.in_flight.payload)
        self._emit(Append(Slot(of.id, of.claim, of.tail, Purpose.FRAME), entry))

    patch.setattr(writes.WritePath, "slot_read", slot_read)


def what_has_the_slot_taken_for_a_fill(patch: Patch) -> None:
    """A higher OPEN is not looked for: its place is taken over, and writing goes on behind it."""
    patch.setattr(writes, "OPEN", -1)


def own_frame_not_known_again(patch: Patch) -> None:
    """It is in its slot, and computed again all the same."""

    def slot_read(self: writes.WritePath, read: Any, records: Any) -> None:
        of = self._undecided(Slot(read.partition, read.term, read.after, Purpose.FRAME))
        if of is not None:
            self._lost_slot(of, records[0].position, Epoch(0))

    patch.setattr(writes.WritePath, "slot_read", slot_read)


def given_up_with_what_is_in_flight(patch: Patch) -> None:
    right = writes.WritePath.give_up

    def give_up(self: writes.WritePath, number: Any) -> None:
        right(self, number)
        self._given_up.clear()

    patch.setattr(writes.WritePath, "give_up", give_up)


def moved_is_told_before_the_slot_is_known(patch: Patch) -> None:
    """A view takes the partition: what is in flight is answered as not stored."""
    right = writes.WritePath.give_up

    def give_up(self: writes.WritePath, number: Any) -> None:
        of = self.partitions[number]
        if of.in_flight is not None:
            self._answer(of.failed(StorageFullError("it has moved")))
        right(self, number)

    patch.setattr(writes.WritePath, "give_up", give_up)


# Reads, references, history, feeds ---------------------------------------------------------------------------------


def as_of_before_it_is_closed(patch: Patch) -> None:
    right = intake.Intake._read

    def read(self: intake.Intake, request: Any, carried: Epoch, tails: Any) -> Any:
        wanted, request.at_least = request.as_of, Epoch(0)
        if wanted > self._control.closed:
            request.as_of = Epoch(0)
        try:
            return right(self, request, carried, tails)
        finally:
            request.as_of = wanted

    patch.setattr(intake.Intake, "_read", read)


def reference_rows_shown_as_they_come(patch: Patch) -> None:
    right = reference.ReferenceCopies.received

    def received(self: Any, now: float, owner: Any, number: int, skip: int, rows: list[Any], complete: bool) -> Any:
        result = right(self, now, owner, number, skip, rows, complete)
        if self._target:
            self.through, self._target = self._target, Epoch(0)
            for row in self._rows:
                self._tables.setdefault(row.map, reference.Table()).insert(row.key, row.value, row.version, row.stamp)
            self._rows = []
        return result

    patch.setattr(reference.ReferenceCopies, "received", received)


def own_reference_rows_before_recovery(patch: Patch) -> None:
    patch.setattr(
        exchange.ReferenceExchange,
        "_all_open",
        lambda self: True,
    )
    patch.setattr(exchange.ReferenceExchange, "opened", lambda self, now: [])


def references_out_of_another_view(patch: Patch) -> None:
    right = exchange.ReferenceExchange.received

    def received(self: Any, now: float, sender: Any, view: Position, body: Any) -> Any:
        return right(self, now, sender, self._control.view.position, body)

    patch.setattr(exchange.ReferenceExchange, "received", received)


def parts_of_two_reference_answers(patch: Patch) -> None:
    right = exchange.ReferenceExchange._answer

    def answer(self: Any, sender: Any, request: Any) -> Any:
        whole = reference.reference_rows(self._partitions, self.names, Epoch(request.after), Epoch(request.through))
        self._answers[sender] = (request.id, whole)
        return right(self, sender, request)

    patch.setattr(exchange.ReferenceExchange, "_answer", answer)


def copies_reclaimed_beyond_what_they_hold(patch: Patch) -> None:
    def reclaim(self: Any, horizon: Epoch, budget: int) -> None:
        for table in self._tables.values():
            table.reclaim(horizon, budget)

    patch.setattr(reference.ReferenceCopies, "reclaim", reclaim)


def reclaim_beyond_the_horizon(patch: Patch) -> None:
    right = Table._trim

    def trim(self: Any, key: bytes, budget: int) -> int:
        horizon, self.horizon = self.horizon, Epoch(self.horizon + 3)
        steps = right(self, key, budget)
        self.horizon = horizon
        return steps

    patch.setattr(Table, "_trim", trim)


def holds_ignored_by_the_horizon(patch: Patch) -> None:
    patch.setattr(retention.Retention, "_lowest", lambda self, without: [])
    patch.setattr(Holds, "lowest", None)


def holds_dropped_before_they_expire(patch: Patch) -> None:
    right = retention.Retention.proposal
    patch.setattr(retention.Retention, "proposal", lambda self, time_ms, size: right(self, time_ms + 400, size))


def hold_decided_at_another_position(patch: Patch) -> None:
    """What was decided before another record took the slot is appended after that one, as it is."""
    right = holding.Holding._append
    patch.setattr(holding.Holding, "_append", lambda self, record: right(self, self._first(record)))

    def first(self: holding.Holding, record: Any) -> Any:
        return self.__dict__.setdefault("kept", {}).setdefault(id(self._waiting[0].request), record)

    patch.setattr(holding.Holding, "_first", first, raising=False)


def feed_takes_memory_for_complete(patch: Patch) -> None:
    right = recent.RecentFrames.start
    patch.setattr(recent.RecentFrames, "start", lambda self, after: right(self, Epoch(after - 1)))


def feed_marks_an_epoch_half_read(patch: Patch) -> None:
    right = feed.LogMerge.give

    def give(self: feed.LogMerge, of: Any, after: Position, records: Any) -> None:
        right(self, of, after, records)
        if records:
            self._seen[of] = max(self._seen[of], min(self.through, records[-1].epoch))

    patch.setattr(feed.LogMerge, "give", give)


def scans_show_the_latest(patch: Patch) -> None:
    right = reads.ScanRequest.scan

    def scan(self: Any, *facts: Any) -> None:
        as_of, self.as_of = self.as_of, Epoch(0)
        right(self, *facts)
        self.as_of = as_of

    patch.setattr(reads.ScanRequest, "scan", scan)
