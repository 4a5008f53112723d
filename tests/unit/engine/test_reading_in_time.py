from __future__ import annotations

import pytest
from tidegrid.grid.engine.intake import Carry
from tidegrid.grid.engine.reads import EpochAtRequest
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.record import encode_open
from tidegrid.grid.model.errors import (
    DeadlineError,
    EpochTooNewError,
    EpochTooOldError,
    LogFailedError,
    NotClosedError,
    StoppingError,
    WrongOwnerError,
)
from tidegrid.grid.model.ids import CONTROL_LOG, Epoch, Incarnation, NodeId, PartitionId, Position, Term, partition_log
from tidegrid.grid.ring.declarations import spec_message
from tidegrid.grid.ring.ownership import next_view
from tidegrid.grid.ring.view import Member
from tidegrid.v1.control_pb2 import ControlRecord, MapDeclared

from tests.unit.engine.stand import TABLE, Stand, pack

# Linearizable reads: rule R2 ------------------------------------------------------------------------------------------


def test_the_log_is_asked_before_a_linearizable_read() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    read = stand.get("a", linearizable=True)
    assert read not in stand.answered
    stand.check_tails()
    assert read in stand.answered and read.values == [pack(1)]


def test_one_check_serves_all_who_came_before_it_started_and_nobody_else() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    first = stand.get("a", linearizable=True)
    early = [stand.get(name, linearizable=True) for name in "ab"]
    assert len(stand.tail_checks) == 1, "one check is on its way at a time"
    stand.check_tails()
    assert first in stand.answered and not any(read in stand.answered for read in early)
    late = stand.get("a", linearizable=True)
    assert len(stand.tail_checks) == 1
    stand.check_tails()
    assert all(read in stand.answered for read in early) and late not in stand.answered
    stand.check_tails()
    assert late in stand.answered and not stand.tail_checks, "nobody waits, nothing is asked"


def test_a_frame_of_its_own_that_is_in_the_log_and_not_heard_of_is_waited_for() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    stand.put({"a": 2})
    (frame,) = stand.frames
    read = stand.get("a", linearizable=True)
    (position,) = stand.log.append([frame.entry])
    stand.check_tails()
    assert read not in stand.answered
    stand.frames.clear()
    stand.node.landed(stand.instant, frame.slot, position)
    stand.turn()
    assert read in stand.answered and read.values == [pack(2)]


def test_a_frame_that_is_not_in_the_log_yet_is_not_waited_for() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    stand.put({"a": 2})
    read = stand.get("a", linearizable=True)
    stand.check_tails()
    assert read in stand.answered and read.values == [pack(1)]


def take_over(stand: Stand) -> None:
    """Another node has opened partition 0 and written to its log; this one has not heard of it."""
    log = partition_log(PartitionId(0))
    payload = encode_open(PartitionId(0), Term(9), stand.node.epoch, NodeId(1), Incarnation(1), 0)
    stand.log.append([Entry(log, stand.log.tail(log), stand.node.epoch, payload)])


def test_a_zombie_owner_does_not_answer() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    take_over(stand)
    assert stand.value("a") == 1, "a causal read may be of the past"
    readings = stand.readings
    read = stand.get("a", linearizable=True)
    stand.check_tails()
    assert isinstance(read.error, WrongOwnerError) and read.error.partition == 0
    assert stand.readings == readings + 1, "it reads the control log to learn who the owner is"


def test_a_frame_that_meets_a_zombies_end_ends_the_wait() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    stand.put({"a": 2})
    take_over(stand)
    read = stand.get("a", linearizable=True)
    stand.check_tails()
    assert read not in stand.answered
    stand.fail(LogFailedError("lost"))
    assert read in stand.answered and read.error is not None


def test_a_newer_view_is_read_before_the_answer() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    control = type(stand.control)()
    stand.fold(control)
    view = next_view(control, [Member(NodeId(1), Incarnation(1))])
    stand.declare(ControlRecord(view=view))
    read = stand.get("a", linearizable=True)
    stand.check_tails()
    assert read not in stand.answered and stand.readings
    stand.read_control()
    stand.node.control_at_tail(stand.instant)
    stand.collect()
    assert isinstance(read.error, WrongOwnerError)
    assert stand.log.tail(CONTROL_LOG) == stand.node.control.position


def test_each_thing_that_is_seen_of_the_control_log_is_judged_after_a_reading_of_its_own() -> None:
    """The log tells of a record that came after the reading which the request has waited for already."""
    stand = Stand()
    stand.put_now({"a": 1})

    def somebody_writes() -> Position:
        return stand.declare(ControlRecord(map=MapDeclared(spec=spec_message(TABLE))))

    read = stand.get("a", linearizable=True, carry=Carry(b"", somebody_writes(), Epoch(0)))
    stand.read_control()
    stand.node.control_at_tail(stand.instant)
    stand.collect()
    assert len(stand.tail_checks) == 1
    somebody_writes()
    stand.check_tails()
    stand.node.control_at_tail(stand.instant)  # of a reading that began before
    stand.collect()
    assert read not in stand.answered
    stand.read_control()
    stand.node.control_at_tail(stand.instant)
    stand.collect()
    assert read in stand.answered and read.error is None


def test_a_log_that_does_not_answer() -> None:
    stand = Stand()
    failed = stand.get("a", linearizable=True)
    stand.check_tails(error=LogFailedError("it is dead"))
    assert isinstance(failed.error, LogFailedError)
    late = stand.get("a", linearizable=True, seconds=1)
    stand.pass_time(2)
    assert isinstance(late.error, DeadlineError)
    after = stand.get("b", linearizable=True)
    stand.check_tails()
    assert after not in stand.answered
    stand.check_tails()
    assert after in stand.answered and after.error is None
    assert stand.answered.count(late) == 1


def test_who_waits_for_the_log_is_told_when_the_node_stops() -> None:
    stand = Stand()
    read = stand.get("a", linearizable=True)
    stand.node.stop()
    stand.collect()
    assert isinstance(read.error, StoppingError)
    stand.check_tails()
    assert stand.answered.count(read) == 1


# At least, at once, not too stale ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["as_of", "at_least"])
def test_what_may_not_wait_is_told_how_far_time_has_come(option: str) -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    epoch = stand.node.epoch
    refused = stand.get("a", at_once=True, **{option: epoch})
    assert isinstance(refused.error, NotClosedError)
    assert (refused.error.requested, refused.error.closed) == (epoch, epoch - 1)
    assert stand.node.standing.waiting_for() == 0
    stand.close()
    assert stand.value("a", at_once=True, **{option: epoch}) == 1
    beyond = stand.get("a", at_once=True, **{option: stand.node.control.limit})
    for _ in range(2):
        stand.node.control_at_tail(stand.instant)
        stand.collect()
    assert isinstance(beyond.error, EpochTooNewError)


def test_staleness_is_the_age_of_the_last_close() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    closed = stand.close()
    stand.pass_time(0.5)
    assert stand.value("a", staleness_ms_max=500) == 1
    refused = stand.get("a", staleness_ms_max=499, at_once=True)
    assert isinstance(refused.error, NotClosedError)
    assert (refused.error.closed, refused.error.age_ms) == (closed, 500)
    read = stand.get("a", staleness_ms_max=499)
    assert read not in stand.answered
    assert stand.node.standing.waiting_for() == closed + 1, "time is woken where nothing happens"
    stand.close()
    assert read in stand.answered and read.values == [pack(1)]


def test_a_close_that_is_too_old_when_it_is_heard_of_does_not_do() -> None:
    stand = Stand()
    stand.close()
    stand.pass_time(1)
    read = stand.get("a", staleness_ms_max=100)
    time_ms = stand.time_ms
    stand.pass_time(1)
    now, stand.now = stand.now, (time_ms - 1_000_000) / 1000
    stand.declare(_close_now(stand))
    stand.now = now
    stand.read_control()
    assert read not in stand.answered
    stand.close()
    assert read in stand.answered


def _close_now(stand: Stand) -> ControlRecord:
    record = ControlRecord()
    record.close.epoch, record.close.time_ms = stand.node.epoch, stand.time_ms
    return record


# Wall-clock times ---------------------------------------------------------------------------------------------------------


def epoch_at(stand: Stand, time_ms: int) -> EpochAtRequest:
    request = EpochAtRequest(time_ms, "to the test")
    stand.submit(request)
    assert request in stand.answered
    return request


def test_a_time_is_the_epoch_closed_at_it_or_before() -> None:
    stand = Stand()
    closes: list[tuple[int, Epoch]] = []
    for _ in range(3):
        stand.pass_time(1)
        closes.append((stand.time_ms, stand.close()))
    for (time_ms, epoch), before in zip(closes[1:], closes, strict=False):
        assert epoch_at(stand, time_ms).epoch == epoch
        assert epoch_at(stand, time_ms - 1).epoch == before[1]
        assert epoch_at(stand, time_ms + 999).epoch == epoch
    assert epoch_at(stand, (1 << 64) - 1).epoch == closes[-1][1], "later than all: the newest close"
    error = epoch_at(stand, 5).error
    assert isinstance(error, EpochTooOldError) and error.earliest == 15 and error.since_ms == 1_000_000


def test_a_time_before_anything_was_closed() -> None:
    error = epoch_at(Stand(active=False), 5).error
    assert isinstance(error, EpochTooOldError) and "no epoch has been closed" in str(error)
