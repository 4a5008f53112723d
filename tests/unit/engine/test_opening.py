"""Rule O: a partition that is being opened reads its log after the VIEW, appends OPEN at its end, and serves only then."""

from __future__ import annotations

import pytest
from tidegrid.grid.engine.checkpoint import checkpoint_chunks
from tidegrid.grid.engine.effects import Append, LoadCheckpoint, Purpose, ReadLog
from tidegrid.grid.engine.opening import RETRY_SECONDS
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.record import OPEN, decode_record, encode_fill, encode_open
from tidegrid.grid.model.errors import (
    CorruptionError,
    LogFailedError,
    LogTimeoutError,
    StorageFullError,
    UnavailableError,
    WrongTailError,
)
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position, Term, partition_log
from tidegrid.grid.ring.ownership import PartitionState, joined_view, moved_view
from tidegrid.grid.ring.view import Member

from tests.unit.engine.stand import Stand

P0 = PartitionId(0)


def opens(stand: Stand) -> list[int]:
    """The terms of the OPENs in the log."""
    return [record.term for item in stand.log_of() if (record := decode_record(item.payload)).kind == OPEN]


def until_append(stand: Stand) -> Append:
    """Does what the opening asks for until its OPEN is on its way."""
    while True:
        effect = stand.opening[0]
        if isinstance(effect, Append):
            return effect
        stand.open_one()


def begun(**options: object) -> Stand:
    """A node with something in its log, started again."""
    stand = Stand(**options)  # type: ignore[arg-type]
    stand.put_now({"a": 1})
    stand.answered.clear()
    stand.start()
    return stand


def other_joins(stand: Stand) -> None:
    stand.view(joined_view(stand.node.control, Member(NodeId(1), Incarnation(1))))
    stand.read_control()


def test_the_order_is_checkpoint_log_to_its_end_open() -> None:
    stand = begun()
    done = []
    while stand.opening:
        done.append(stand.open_one())
        assert stand.node.standing.ready() == (not stand.opening)
    assert [type(effect) for effect in done] == [LoadCheckpoint, ReadLog, ReadLog, Append]
    append = done[-1]
    assert isinstance(append, Append) and append.slot == (0, 2, stand.log_of()[-2].position, Purpose.OPEN)
    assert opens(stand) == [1, 2] and stand.value("a") == 1 and not stand.node.openings


def test_a_checkpoint_spares_the_log_before_it() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    stand.checkpoints[P0] = (stand.partition().tail, list(checkpoint_chunks(stand.partition())))
    stand.put_now({"b": 2})
    stand.start()
    stand.open_one()
    (read,) = stand.opening
    assert isinstance(read, ReadLog) and read.after == stand.checkpoints[P0][0]
    stand.open_all()
    assert (stand.value("a"), stand.value("b")) == (1, 2)


def test_a_checkpoint_of_another_position_than_it_names_is_damaged() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    chunks = list(checkpoint_chunks(stand.partition()))
    for saved in ((Position(stand.partition().tail + 1), chunks), (stand.partition().tail, [b"\xc1"])):
        stand.checkpoints[P0] = saved
        stand.start()
        with pytest.raises(CorruptionError, match="partition 0"):
            stand.open_one()


def test_what_came_between_the_reading_and_the_open_is_read_on_and_replayed() -> None:
    """A late append of the owner before: it is valid, and the new owner knows it."""
    stand = Stand()
    stand.put_now({"a": 1})
    stand.put({"a": 2})
    (late,) = stand.frames
    stand.start()
    until_append(stand)
    stand.log.append([late.entry])
    stand.open_one()
    (again,) = stand.opening
    assert isinstance(again, ReadLog) and not stand.node.standing.ready()
    stand.open_all()
    assert stand.value("a") == 2 and opens(stand) == [1, 2]
    repeated = stand.put_now({"a": 2}, first=2)
    assert repeated.repeated == [0], "and remembers its request"


@pytest.mark.parametrize("landed", [True, False])
def test_an_open_of_which_nothing_is_heard_is_looked_for_in_the_log_and_is_there_once(landed: bool) -> None:
    stand = begun()
    append = until_append(stand)
    stand.opening.clear()
    if landed:
        stand.log.append([append.entry])
    stand.node.append_failed(stand.instant, append.slot, LogTimeoutError("no answer"))
    stand.collect()
    assert not stand.opening and stand.node.deadline() == stand.now + RETRY_SECONDS
    stand.pass_time(RETRY_SECONDS)
    stand.open_all()
    assert opens(stand) == [1, 2] and stand.node.standing.ready()
    assert stand.partition().opened[-1][1] == stand.partition().term == 2
    assert stand.partition().tail == stand.log_of()[-1].position
    stand.node.landed(stand.instant, append.slot, Position(10**6))  # an answer that is late after all
    assert not stand.put_now({"b": 1}).errors and stand.value("a") == 1


def test_a_full_storage_is_tried_again_later() -> None:
    stand = begun()
    append = until_append(stand)
    stand.opening.clear()
    stand.node.append_failed(stand.instant, append.slot, StorageFullError("no space"))
    stand.pass_time(RETRY_SECONDS / 2)
    assert not stand.opening
    stand.pass_time(RETRY_SECONDS / 2)
    stand.open_all()
    assert stand.node.standing.ready() and opens(stand) == [1, 2]


def test_a_higher_open_means_a_view_that_is_on_its_way() -> None:
    stand = begun()
    readings = stand.readings
    until_append(stand)
    payload = encode_open(P0, Term(3), Epoch(99), NodeId(5), Incarnation(1), 5)
    stand.write_log(payload, 99)
    stand.open_one()
    while stand.opening:
        stand.open_one()
    assert stand.readings == readings + 1 and not stand.node.standing.ready() and opens(stand) == [1, 3]


def test_e3_a_log_that_knows_more_of_time_lets_the_control_log_be_read_first() -> None:
    """Its last stamp is at the limit: a CLOSE, and what acts from there, has not been read here."""
    stand = begun(limit=16)
    limit, epoch, readings = stand.node.control.limit, stand.node.epoch, stand.readings
    stand.write_log(encode_fill(P0, Term(1), limit, 5), limit)
    while stand.opening:
        stand.open_one()
    assert stand.readings == readings + 1 and opens(stand) == [1] and stand.node.epoch == epoch
    stand.pass_time(RETRY_SECONDS)
    stand.open_all()
    assert opens(stand) == [1], "not before a close is applied"
    stand.close(epoch)
    stand.pass_time(RETRY_SECONDS)
    stand.open_all()
    assert stand.node.standing.ready() and stand.node.epoch == stand.partition().last_stamp == limit


def test_o2_the_stamp_is_above_what_was_closed_as_of_the_view_and_in_the_log() -> None:
    stand = begun()
    last = stand.partition().last_stamp if stand.partition().tail else Epoch(0)
    append = until_append(stand)
    assert append.entry.epoch == max(stand.node.epoch, last, stand.node.control.closed + 1)
    stand.open_all()
    assert stand.node.epoch >= stand.partition().last_stamp == append.entry.epoch


def test_a_view_that_takes_it_away_ends_the_opening_and_late_answers_change_nothing() -> None:
    stand = begun()
    other_joins(stand)
    load = stand.opening[0]
    assert isinstance(load, LoadCheckpoint)
    stand.view(moved_view(stand.node.control, {P0: NodeId(1)}))
    stand.read_control()
    assert not stand.node.openings and not stand.node.partitions
    assert list(stand.node.checkpoint_loaded(stand.instant, load, Position(0), [])) == []
    stand.node.log_read(stand.instant, ReadLog(P0, load.term, Position(0)), stand.log_of())
    stand.collect()
    assert len(stand.opening) == 1 and opens(stand) == [1]


def test_a_term_of_before_does_not_answer_for_the_one_now() -> None:
    """Moved away and back while an OPEN was on its way."""
    stand = begun()
    other_joins(stand)
    append = until_append(stand)
    stand.opening.clear()
    for owner in (1, 0):
        stand.view(moved_view(stand.node.control, {P0: NodeId(owner)}))
        stand.read_control()
    (load,) = stand.opening
    assert isinstance(load, LoadCheckpoint) and load.term == append.slot.term + 2
    stand.log.append([append.entry])
    stand.node.landed(stand.instant, append.slot, stand.log_of()[-1].position)
    assert not stand.node.standing.ready() and stand.partition().state is PartitionState.OPENING
    stand.open_all()
    assert opens(stand) == [1, 2, 4] and stand.node.standing.ready() and stand.value("a") == 1


def test_while_it_is_opened_nothing_is_served_and_nothing_let_go() -> None:
    stand = begun()
    stand.open_one()
    stand.open_one()
    assert isinstance(stand.get("a").error, UnavailableError) and stand.partition().tail > 0
    for number in range(4):
        stand.partition().tables["t"].apply([b"0x\0"], [b"1"], b"\1", [number + 1], (Epoch(number + 1), Position(9), 0))
    before = stand.partition().tables["t"].version_count
    stand.close()
    stand.horizon(stand.node.control.closed)
    assert stand.node.reclaim(1000) == 0 and stand.partition().tables["t"].version_count == before


def test_a_dead_log_ends_it() -> None:
    stand = begun()
    append = until_append(stand)
    stand.node.append_failed(stand.instant, append.slot, LogFailedError("gone"))
    assert not stand.node.openings and not stand.node.standing.ready()
    assert isinstance(stand.put({"b": 1}).errors[0], LogFailedError)


def test_a_slot_that_is_taken_twice_is_read_on_twice() -> None:
    stand = begun()
    for _ in range(2):
        append = until_append(stand)
        name = partition_log(P0)
        stamp = append.entry.epoch
        stand.log.append([Entry(name, append.entry.expected, stamp, encode_fill(P0, Term(1), stamp, 5))])
        stand.opening.clear()
        stand.node.append_failed(stand.instant, append.slot, WrongTailError("taken"))
        stand.collect()
    stand.open_all()
    assert opens(stand) == [1, 2] and stand.node.standing.ready()
