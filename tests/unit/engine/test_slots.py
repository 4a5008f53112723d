"""Rule F: an append that was refused or not heard of. What is in its slot decides, and until then it is in flight."""

from __future__ import annotations

import pytest
from tidegrid.grid.engine import partition as partition_module
from tidegrid.grid.engine.effects import Append, Purpose
from tidegrid.grid.engine.writes import RETRY_SECONDS
from tidegrid.grid.log.record import DATA, FILL, decode_record, encode_fill, encode_open
from tidegrid.grid.model.errors import LogTimeoutError, StorageFullError, WrongOwnerError, WrongTailError
from tidegrid.grid.model.ids import Incarnation, NodeId, PartitionId, Position, Term
from tidegrid.grid.ring.ownership import PartitionState

from tests.unit.engine.stand import Stand, client_session

TIMEOUT = LogTimeoutError("no answer")
P0 = PartitionId(0)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second frame is computed as soon as anything waits."""
    monkeypatch.setattr(partition_module, "_EAGER_BYTES", 1)


def kinds(stand: Stand) -> list[int]:
    """Of the records in the log, without the OPEN."""
    return [decode_record(item.payload).kind for item in stand.log_of()][1:]


def promised(stand: Stand) -> object:
    (promise,) = stand.node.standing.promises()
    return promise.in_flight


def two_in_flight() -> tuple[Stand, object, object, Append]:
    """One frame on its way to the log, one computed on it."""
    stand = Stand()
    one = stand.put({"k": 1})
    two = stand.put({"k": 2}, session=client_session(2), conditions={0: 1})
    assert stand.partition().next is not None
    return stand, one, two, stand.frames[0]


def check_both(stand: Stand, one: object, two: object) -> None:
    """Both are there, once, in their order."""
    stand.land_all()
    assert one.versions == [1] and two.versions == [2] and not one.errors and not two.errors  # type: ignore[attr-defined]
    assert stand.answered.count(one) == stand.answered.count(two) == 1
    assert sum(sum(decode_record(item.payload).counts) for item in stand.log_of()) == 2 and stand.value("k") == 2
    assert promised(stand) is None and stand.node.writes._queued_bytes == stand.partition().queued_bytes == 0
    assert stand.partition().tail == stand.log_of()[-1].position


# F1 ----------------------------------------------------------------------------------------------------------------


def test_f1_my_own_frame_in_the_slot_is_a_success() -> None:
    """It had landed, and was sent again by somebody below."""
    stand, one, two, frame = two_in_flight()
    stand.log.append([frame.entry])
    stand.fail(WrongTailError("taken"))
    assert one not in stand.answered and promised(stand) == frame.entry.epoch
    stand.read_slot()
    assert one in stand.answered
    check_both(stand, one, two)
    assert kinds(stand) == [DATA, DATA]


def test_f1_somebody_elses_record_lets_it_be_computed_again_once() -> None:
    stand, one, two, frame = two_in_flight()
    stamp = frame.entry.epoch
    stand.write_log(encode_fill(P0, Term(1), stamp, 5), stamp)
    stand.land()
    stand.read_slot()
    (again,) = stand.frames
    assert again.slot.after == stand.log_of()[-1].position > frame.slot.after
    check_both(stand, one, two)
    assert kinds(stand) == [FILL, DATA]


def test_f1_of_several_records_each_takes_its_slot() -> None:
    stand, one, two, frame = two_in_flight()
    stamp = frame.entry.epoch
    for _ in range(2):
        stand.write_log(encode_fill(P0, Term(1), stamp, 5), stamp)
    for _ in range(2):
        stand.land()
        stand.read_slot()
    check_both(stand, one, two)


def test_f1_a_higher_open_ends_the_term() -> None:
    """The view that goes with it is on its way: it is read, and nothing is written under the old term again."""
    stand, one, two, frame = two_in_flight()
    readings, stamp = stand.readings, frame.entry.epoch
    stand.write_log(encode_open(P0, Term(2), stamp, NodeId(9), Incarnation(1), 5), stamp)
    stand.land()
    stand.read_slot()
    assert all(isinstance(request.errors[0], WrongOwnerError) for request in (one, two))  # type: ignore[attr-defined]
    assert {one, two} <= set(stand.answered) and not stand.frames
    assert stand.partition().state is PartitionState.CLOSED and not stand.node.standing.ready()
    assert stand.readings == readings + 1 and stand.node.writes._queued_bytes == 0
    assert isinstance(stand.put({"k": 3}, first=2).errors[0], WrongOwnerError)
    assert len(kinds(stand)) == 1, "and the log has nothing of ours"
    assert [promise.open for promise in stand.node.standing.promises()] == [False], "closed is all that is promised"


def test_f1_an_open_of_a_lower_term_is_nobodys() -> None:
    stand, one, two, frame = two_in_flight()
    stamp = frame.entry.epoch
    stand.write_log(encode_open(P0, Term(1), stamp, NodeId(9), Incarnation(1), 5), stamp)
    stand.land()
    stand.read_slot()
    assert stand.node.standing.ready()
    check_both(stand, one, two)


# F2 ----------------------------------------------------------------------------------------------------------------


def test_f2_a_fill_contends_for_the_same_slot() -> None:
    stand, one, two, frame = two_in_flight()
    stand.fail(TIMEOUT)
    (fill,) = stand.frames
    assert fill.slot == frame.slot._replace(purpose=Purpose.FILL) and fill.entry.expected == frame.entry.expected
    record = decode_record(fill.entry.payload)
    assert (record.kind, record.term, record.stamp) == (FILL, 1, frame.entry.epoch)
    assert not stand.answered and promised(stand) == frame.entry.epoch, "in flight until it is decided"
    stand.land()
    assert kinds(stand) == [FILL] and promised(stand) is not None
    with pytest.raises(WrongTailError):
        stand.log.append([frame.entry])  # late: never in the log
    check_both(stand, one, two)


def test_f2_a_frame_that_lands_late_wins_over_its_fill() -> None:
    stand, one, two, frame = two_in_flight()
    stand.fail(TIMEOUT)
    stand.log.append([frame.entry])
    stand.land()
    assert one not in stand.answered
    stand.read_slot()
    assert one in stand.answered
    check_both(stand, one, two)
    assert kinds(stand) == [DATA, DATA]


@pytest.mark.parametrize("lands", [True, False])
def test_f2_a_fill_of_which_nothing_is_heard_is_sent_again(lands: bool) -> None:
    stand, one, two, frame = two_in_flight()
    stand.fail(TIMEOUT)
    fill = stand.frames[0]
    stand.fail(TIMEOUT)
    if lands:
        stand.log.append([fill.entry])
    (again,) = stand.frames
    assert again.slot == fill.slot and promised(stand) == frame.entry.epoch
    stand.land()
    if lands:
        stand.read_slot()
    check_both(stand, one, two)
    assert kinds(stand) == [FILL, DATA]


def test_f2_a_fill_that_finds_the_storage_full_waits() -> None:
    stand, one, two, frame = two_in_flight()
    stand.fail(TIMEOUT)
    stand.fail(StorageFullError("no space"))
    assert not stand.frames and not stand.answered and promised(stand) == frame.entry.epoch
    assert stand.node.deadline() == stand.now + RETRY_SECONDS
    stand.pass_time(RETRY_SECONDS / 2)
    assert not stand.frames
    stand.pass_time(RETRY_SECONDS / 2)
    assert [fill.slot.purpose for fill in stand.frames] == [Purpose.FILL]
    check_both(stand, one, two)
    assert stand.node.writes.deadline() is None


def test_f2_meets_a_higher_open() -> None:
    stand, one, two, frame = two_in_flight()
    stand.fail(TIMEOUT)
    stamp = frame.entry.epoch
    stand.write_log(encode_open(P0, Term(2), stamp, NodeId(9), Incarnation(1), 5), stamp)
    stand.land()
    stand.read_slot()
    assert all(isinstance(request.errors[0], WrongOwnerError) for request in (one, two))  # type: ignore[attr-defined]
    assert not stand.frames and stand.partition().state is PartitionState.CLOSED


def test_an_outcome_that_is_told_twice_or_of_another_slot_changes_nothing() -> None:
    stand, one, two, frame = two_in_flight()
    stand.land()
    before = list(stand.answered)
    stand.node.landed(stand.instant, frame.slot, Position(10**6))
    for error in (TIMEOUT, WrongTailError("taken"), StorageFullError("no space")):
        stand.node.append_failed(stand.instant, frame.slot, error)
        stand.node.append_failed(stand.instant, stand.frames[0].slot._replace(term=Term(9)), error)
    stand.collect()
    assert stand.answered == before and len(stand.frames) == 1 and not stand.reads
    check_both(stand, one, two)
