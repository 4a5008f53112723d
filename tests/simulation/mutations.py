"""The rules of the protocol and of the engine, switched off one at a time. Each has to show itself in the simulator.

A mutation is a function that patches; `MUTATIONS` names the rule that it breaks, the options that make it likely to
show (nothing that another run could not have), and within how many seeds it must. `QUICK` ones take a few seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import pytest
from tidegrid.grid.engine import (
    checkpoint,
    exchange,
    feed,
    intake,
    node,
    opening,
    partition,
    reads,
    recent,
    reference,
    requests,
    writes,
)
from tidegrid.grid.engine.compute import Computation
from tidegrid.grid.engine.effects import Answered, Append, Purpose, Slot
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.model.errors import LogTimeoutError, StorageFullError, WrongTailError
from tidegrid.grid.model.ids import CONTROL_LOG, Epoch, Incarnation, Position, partition_log
from tidegrid.grid.ring import closing, control, hop, membership, promise, ring, token, vigil
from tidegrid.grid.ring.ring import Carried, Ring
from tidegrid.v1.control_pb2 import ControlRecord

from tests.simulation import process
from tests.simulation.world import World

Patch = pytest.MonkeyPatch


@dataclass(frozen=True, slots=True)
class Mutation:
    rule: str
    patch: Callable[[Patch], None]
    seeds: int
    options: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = False

    @property
    def name(self) -> str:
        return self.patch.__name__


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

    def open_(self: node.Node, of: opening.Opening) -> None:
        if of.at_end(self.ring.epoch, self._instant.time_ms):
            self._opened(of.partition)

    patch.setattr(node.Node, "_open", open_)


def opened_above_the_limit(patch: Patch) -> None:
    """The last stamp of the log says that the control log goes on, and it is not read."""

    def open_(self: node.Node, of: opening.Opening) -> None:
        stamp = node.open_stamp(self.ring.epoch, of.closed, of.partition.last_stamp)
        if of.at_end(stamp, self._instant.time_ms):
            self._opened(of.partition)

    patch.setattr(node.Node, "_open", open_)


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
    right = World.append

    def append(self: World, entry: Entry) -> Position:
        if entry.log == CONTROL_LOG and ControlRecord.FromString(entry.payload).WhichOneof("record") == "close":
            epoch = ControlRecord.FromString(entry.payload).close.epoch
            if epoch > self.truth.closed:
                entry = Entry(CONTROL_LOG, self.log.tail(CONTROL_LOG), self.truth.closed, entry.payload)
        return right(self, entry)

    patch.setattr(World, "append", append)
    patch.setattr(membership, "JOIN_PAUSE", 0.01)  # who comes back at once remembers least


def tails_left_out(patch: Patch) -> None:
    patch.setattr(ring, "visit", lambda held, me, floor, tails, *rest: token.visit(held, me, floor, {}, *rest))


def reference_epoch_left_out(patch: Patch) -> None:
    patch.setattr(node.Node, "reference_epoch", lambda self: Epoch(0))


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
    right, apply = partition.Partition.launch, partition.Partition._apply

    def launch(self: partition.Partition) -> Any:
        frame = right(self)
        if frame is not None and frame.payload is not None:
            stamp = (frame.stamp, Position(self.tail + 1), frame.time_ms)
            for (name, _), columns in frame.writes.items():
                apply(self, name, columns, stamp)
        return frame

    patch.setattr(partition.Partition, "launch", launch)
    patch.setattr(
        partition.Partition,
        "_apply",
        lambda self, name, columns, stamp: apply(self, name, columns, stamp) if columns.causes else None,
    )


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
    patch.setattr(writes.WritePath, "_fill", lambda self, of: None)


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

    def read(self: intake.Intake, request: Any) -> Any:
        wanted, request.at_least = request.as_of, Epoch(0)
        if wanted > self._control.closed:
            request.as_of = Epoch(0)
        try:
            return right(self, request)
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
    right = partition.Table._trim

    def trim(self: Any, key: bytes) -> None:
        horizon, self.horizon = self.horizon, Epoch(self.horizon + 3)
        right(self, key)
        self.horizon = horizon

    patch.setattr(partition.Table, "_trim", trim)


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


MOVES: Final = {"move_rate": 8.0, "nodes": 3, "partitions": 4}
SILENT: Final = {"no_answer": 0.3, "storage_full": 0.0}
CRASHES: Final = {"crash_rate": 3.0}
RESTARTS: Final = {"crash_rate": 6.0, "nodes": 3, "partitions": 4, "control_delay": 0.02, "loss": 0.0}
LAG: Final = {
    "history_seconds": 0.0,
    "loss": 0.3,
    "append_delay": 0.05,
    "write_delay": 0.004,
    "crash_rate": 0.0,
    "storage_full": 0.0,
    "nodes": 2,
    "partitions": 2,
    "limit": 16,
    "seconds": 3.0,
}
FULL: Final = {"storage_full": 0.3, "append_delay": 0.02, "write_delay": 0.006}

MUTATIONS: Final = (
    Mutation("P", in_flight_ignored_in_the_floor, 10, quick=True),
    Mutation("P", promise_up_to_the_own_epoch, 20),
    Mutation("E1", intro_not_capped, 20, quick=True),
    Mutation("E2", carried_pair_taken_unseen, 20, quick=True),
    Mutation("J", control_position_not_carried, 60, {"forge_rate": 0.0, "map_rate": 4.0}),
    Mutation("J", epoch_not_carried, 20, {"forge_rate": 0.0}, quick=True),
    Mutation("E3", deploy_acts_at_once, 60),
    Mutation("O3", promise_before_open, 60, CRASHES),
    Mutation("E (K = 2, liveness)", limit_span_of_two, 10),
    Mutation("O2", open_at_own_epoch, 60, CRASHES),
    Mutation("E3, at an opening", opened_above_the_limit, 100, {"limit": 4, **MOVES}),
    Mutation("O1", log_not_read_after_the_view, 60, {"append_delay": 0.02, **MOVES}),
    Mutation("S", restart_keeps_its_identity, 60, CRASHES),
    Mutation("O1, replay", log_not_read_to_its_tail, 20, CRASHES, quick=True),
    Mutation("O3, exactly once", request_memory_not_rebuilt, 10, CRASHES, quick=True),
    Mutation("Q after a restart", reference_changes_forgotten, 100, CRASHES),
    Mutation("checkpoint", checkpoint_of_a_later_memory, 100, {"checkpoint_rate": 8.0, **CRASHES}),
    Mutation("T", view_forgotten_in_the_token, 100, {**MOVES, "control_delay": 0.02, "loss": 0.0}),
    Mutation("T, coverage", hops_counted_for_visits, 100, {"cut_rate": 4.0, "pause_rate": 4.0, "nodes": 3}),
    Mutation("I4", closes_below_closed, 10),
    Mutation("C", close_without_expecting, 200, RESTARTS),
    Mutation("C tails", tails_left_out, 10, quick=True),
    Mutation("Q in CLOSE", reference_epoch_left_out, 20, quick=True),
    Mutation("L (liveness)", nothing_sent_again, 20, {"loss": 0.2, "nodes": 3, "partitions": 4}),
    Mutation("L (liveness)", no_wakes, 20, {"nodes": 3, "partitions": 4, "heartbeat": 1e6}),
    Mutation("exactly once", retry_not_deduplicated, 10, quick=True),
    Mutation("exactly once, joins", retry_does_not_join, 20),
    Mutation("exactly once, refusals", refusals_not_remembered, 60),
    Mutation("exactly once, watermark", below_the_lowest_is_new, 100, {"client_double": 0.4, "client_delay": 0.05}),
    Mutation("exactly once, expiry", sessions_end_at_the_own_epoch, 60, {"session_epochs": 24, **CRASHES}),
    Mutation("E2, honest clients", one_reading_of_the_control_log_judges_all, 100),
    Mutation("W, refusals", refusals_answered_before_the_frame_lands, 60, FULL),
    Mutation("W, apply", applied_before_durable, 20, quick=True),
    Mutation("W, overlay", frame_in_flight_not_seen, 20, FULL, quick=True),
    Mutation("F, undo", computed_on_what_failed, 20, FULL, quick=True),
    Mutation("F", full_storage_taken_for_success, 10, FULL, quick=True),
    Mutation("F1", expectation_refreshed, 60, {**SILENT, **MOVES}, quick=True),
    Mutation("F1, a higher OPEN", what_has_the_slot_taken_for_a_fill, 60, MOVES),
    Mutation("F1, mine", own_frame_not_known_again, 20, SILENT, quick=True),
    Mutation("F2", time_out_taken_for_failure, 60, SILENT, quick=True),
    Mutation("F2 (liveness)", never_filled, 20, SILENT),
    Mutation("F, moved (liveness)", given_up_with_what_is_in_flight, 60, {"append_delay": 0.02, **MOVES}),
    Mutation("F, moved", moved_is_told_before_the_slot_is_known, 60, {"append_delay": 0.02, **MOVES}),
    Mutation("R1", as_of_before_it_is_closed, 10, quick=True),
    Mutation("Q, copies", reference_rows_shown_as_they_come, 20, quick=True),
    Mutation("Q, own rows", own_reference_rows_before_recovery, 20, CRASHES, quick=True),
    Mutation(
        "Q, views", references_out_of_another_view, 200, {**MOVES, "control_delay": 0.02, "history_seconds": 100.0}
    ),
    Mutation("Q, parts", parts_of_two_reference_answers, 100, {"recent_bytes": 1500, "history_seconds": 0.3}),
    Mutation("Q, horizon", copies_reclaimed_beyond_what_they_hold, 60, LAG),
    Mutation("R1, horizon", reclaim_beyond_the_horizon, 60, {"history_seconds": 0.3}),
    Mutation("feeds, memory", feed_takes_memory_for_complete, 100, CRASHES),
    Mutation("feeds, log", feed_marks_an_epoch_half_read, 60, {"recent_bytes": 0}),
    Mutation("R1, scans", scans_show_the_latest, 10, quick=True),
)
