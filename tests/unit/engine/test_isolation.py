"""Frames in the making: rows whose triggers run in worker processes, with a pool that answers when the test says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tidegrid.grid.engine.effects import RunBatch
from tidegrid.grid.engine.group import GroupRequest
from tidegrid.grid.engine.intake import Carry
from tidegrid.grid.engine.made import Ending, Part
from tidegrid.grid.engine.making import BatchDone
from tidegrid.grid.engine.redrive import RedriveRequest
from tidegrid.grid.log.record import DELETE, PUT
from tidegrid.grid.model.errors import (
    GridError,
    LogTimeoutError,
    RejectedError,
    StorageFullError,
    TooLargeError,
    TriggerSuspendedError,
    UnavailableError,
)
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.triggers.batch import Answer, decode_code
from tidegrid.triggers.batch_run import run
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import TriggerRuntime
from tidegrid.v1 import grid_pb2

from tests.unit.engine.stand import Stand, client_session, key, pack

SOURCE = """
from tidegrid.triggers import *
table("raw", key=("k",))
table("out", like="raw")
table("elsewhere", like="raw")
table("plain", key=("k",))

@trigger(on="raw", emits="out", isolation="process", budget=2.0)
def make(write, grid):
    if write.value == "no":
        raise Reject("no")
    yield Put("out", write.key, [write.version, write.previous, write.epoch, grid.get("plain", write.key)])

@trigger(on="plain", emits="elsewhere")
def near(write):
    yield Put("elsewhere", write.key, write.value)
"""
PARKING = SOURCE.replace("budget=2.0", 'budget=2.0, on_error="park"')
LOOKING = """
from tidegrid.triggers import *
table("raw", key=("k",))
table("out", like="raw")

@trigger(on="raw", emits="out", isolation="process", on_error="park")
def make(write, grid):
    if write.value == "broken":
        raise ValueError("broken")
    yield Put("out", write.key, "x" * 80_000 if write.value == "large" else grid.get("raw", "a"))
"""
NO_ROOM = [("broken", RejectedError, "would be parked"), ("large", TooLargeError, "with its outputs")]


@pytest.fixture
def stand() -> Stand:
    return Stand(source=SOURCE)


def worker(stand: Stand, order: RunBatch, rows: int = 1 << 30) -> Answer:
    """What a worker makes of as many rows."""
    code = decode_code(order.code)
    maps = {spec.name: spec for spec in code.maps}
    runtime = TriggerRuntime(load_modules(code.modules, maps), maps, code.partitions, code.limits)

    def look_up(name: str, of: bytes, reference: bool) -> bytes | None:
        return stand.node.writes.isolation.look_up(order.number, name, of, reference)

    return run(runtime, order.batch, code.limits, look_up, lambda answer: answer if len(answer.rows) < rows else None)


def tell(stand: Stand, done: BatchDone) -> None:
    stand.node.batch_done(stand.instant, done)
    stand.turn()


def answer(stand: Stand, rows: int = 1 << 30, ending: Ending | None = None) -> None:
    order = stand.batches.pop(0)
    tell(stand, BatchDone(order.number, [Part([worker(stand, order, rows)], ending)]))


def put(stand: Stand, rows: Any, map_name: str = "raw", **more: Any) -> Any:
    return stand.put(rows, map_name=map_name, **more)


def group_part(rows: list[tuple[str, Any]]) -> grid_pb2.WriteBatch:
    return grid_pb2.WriteBatch(
        session=client_session(7),
        first_sequence=1 + (rows[0][0] != "a"),
        map="raw",
        keys=[key(name) for name, _ in rows],
        values=[pack(value) for _, value in rows],
        ops=bytes(PUT for _ in rows),
    )


def test_it_is_in_flight_from_its_stamp_on_which_it_keeps(stand: Stand) -> None:
    stamp = stand.node.epoch
    request = put(stand, {"a": 1})
    assert not stand.frames and [one.in_flight for one in stand.node.standing.promises()] == [stamp]
    assert not stand.node.drained and stand.node.standing.highest_stamp() == stamp
    stand.node.ring.carry(stand.now, stand.node.control.position, stamp + 3)  # type: ignore[arg-type]
    assert stand.node.epoch > stamp
    answer(stand)
    assert [append.entry.epoch for append in stand.frames] == [stamp]
    stand.land_all()
    assert request in stand.answered and request.versions == [1] and request.epochs == [stamp]
    assert stand.value("a", map_name="out") == [1, None, stamp, None] and stand.node.drained


def test_nothing_else_is_computed_in_its_partition_meanwhile(stand: Stand) -> None:
    put(stand, {"a": 1})
    put(stand, {"a": 2}, map_name="plain")
    assert len(stand.batches) == 1 and not stand.frames
    answer(stand)
    assert len(stand.frames) == 1, "the write to raw alone"
    stand.land_all()
    assert stand.value("a", map_name="out")[3] is None and stand.value("a", map_name="elsewhere") == 2


def test_rows_of_a_batch_see_one_another_and_what_is_in_flight(stand: Stand) -> None:
    stand.put_now({"a": 7}, map_name="plain")
    put(stand, [("a", 1), ("b", "no"), ("a", 2), ("b", 3)])
    answer(stand)
    stand.land_all()
    assert stand.value("a", map_name="out")[:2] == [2, 1] and stand.value("a", map_name="out")[3] == 7
    assert stand.value("b", map_name="out")[:2] == [1, None]


def test_what_an_answer_leaves_out_comes_in_the_next_frame(stand: Stand) -> None:
    request = put(stand, [(name, 1) for name in "abc"])
    answer(stand, rows=2)
    stand.land_all()
    assert request not in stand.answered and len(stand.batches) == 1
    assert [len(section.keys) for section in stand.batches[0].batch.sections] == [1]
    answer(stand)
    stand.land_all()
    assert request.versions == [1, 1, 1] and len(stand.log_of()) == 3, "OPEN, and two frames"


@pytest.mark.parametrize(("value", "error", "said"), NO_ROOM)
@pytest.mark.parametrize("together", [True, False])
def test_what_was_run_as_if_a_refused_row_were_stored_is_run_again(
    value: str, error: type[GridError], said: str, together: bool
) -> None:
    stand = Stand(source=LOOKING, limits=Limits(parked_max=0, record_bytes_max=70_000))
    put(stand, {"a": 1})
    rows = [("a", value), ("b", 2)]
    requests = [put(stand, some) for some in ([rows] if together else [[row] for row in rows])]
    answer(stand)
    stand.land_all()
    assert stand.batches[0].batch.rows == 2
    while stand.batches:
        answer(stand)
        stand.land_all()
    refused = requests[0].errors[0]
    assert isinstance(refused, error) and said in str(refused) and all(one in stand.answered for one in requests)
    assert sum(len(one.errors) for one in requests) == 1
    assert stand.value("a", map_name="raw") == 1 and stand.value("b", map_name="out") == 1


@pytest.mark.parametrize("together", [True, False])
def test_a_group_is_told_which_row_there_was_no_room_for(together: bool) -> None:
    stand = Stand(source=LOOKING, limits=Limits(parked_max=0))
    rows = [("a", "broken"), ("b", 2)]
    group = GroupRequest(b"g1", [group_part(some) for some in ([rows] if together else [[row] for row in rows])], "")
    stand.submit(group)
    answer(stand)
    assert group in stand.answered and list(group.errors) == [(0, 0)]
    assert "would be parked" in str(group.errors[0, 0])
    assert stand.node.drained and len(stand.log_of()) == 1, "OPEN"


@pytest.mark.parametrize("source", [SOURCE, PARKING])
def test_a_row_that_a_worker_was_stopped_with_fails_as_declared(source: str) -> None:
    stand = Stand(source=source)
    request = put(stand, [("a", 1), ("b", 1), ("c", 1)])
    answer(stand, rows=1, ending=Ending())
    stand.land_all()
    answer(stand)
    stand.land_all()
    said = "trigger 'make', module 'module', line 8, failed on key ('b',): it ran for longer than its budget of 2 s"
    if source is SOURCE:
        assert [str(error) for error in request.errors.values()] == [said] and request.versions == [1, 0, 1]
    else:
        assert request.parked == {1: said} and request.versions == [1, 1, 1] and not request.errors
    assert stand.value("c", map_name="out") is not None and stand.value("b", map_name="out") is None


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("source", [SOURCE, PARKING])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_group_in_which_a_row_overran_is_refused_and_told_which(source: str, at: int, together: bool) -> None:
    """Also where that row is the last, and would be parked: what came of a group does not hang on the order of its rows."""
    stand = Stand(source=source)
    rows = [("a", 1), ("b", 1), ("c", 1)]
    parts = [group_part(rows)] if together else [group_part([row]) for row in rows]
    for sequence, part in enumerate(parts, 1):
        part.first_sequence = sequence
    group = GroupRequest(b"g1", parts, "")
    stand.submit(group)
    answer(stand, rows=at, ending=Ending())
    assert group in stand.answered and list(group.errors) == [(0, at) if together else (at, 0)]
    assert f"key ('{rows[at][0]}',): it ran for longer than its budget" in str(next(iter(group.errors.values())))
    assert stand.node.drained and len(stand.log_of()) == 1, "OPEN"


def test_what_was_made_on_a_frame_that_never_lands_is_made_anew(monkeypatch: pytest.MonkeyPatch, stand: Stand) -> None:
    monkeypatch.setattr("tidegrid.grid.engine.partition._EAGER_BYTES", 1)
    put(stand, {"a": 5}, map_name="plain")
    request = put(stand, {"a": 1})
    late = stand.batches.pop()
    made = worker(stand, late)
    stand.fail(StorageFullError("no space"))
    stand.turn()
    tell(stand, BatchDone(late.number, [Part([made])]))
    assert not stand.frames, "its look-up of plain is of what was undone"
    answer(stand)
    stand.land_all()
    assert request.versions == [1] and stand.value("a", map_name="out")[3] is None


def test_rows_that_were_refused_stay_so_when_those_before_them_are_computed_again(
    monkeypatch: pytest.MonkeyPatch, stand: Stand
) -> None:
    monkeypatch.setattr("tidegrid.grid.engine.partition._EAGER_BYTES", 1)
    request = put(stand, {"a": 1, "b": 2, "c": 3})
    answer(stand, rows=1)
    order = stand.batches.pop(0)
    tell(stand, BatchDone(order.number, error=UnavailableError("no worker", address="")))
    stand.fail(LogTimeoutError("no answer"))
    stand.land()  # the FILL, so the frame with the first row never lands
    answer(stand)
    stand.land_all()
    assert request.versions == [1, 0, 0] and list(request.errors) == [1, 2] and request.unanswered == 0
    assert [stand.value(name, map_name="raw") for name in "abc"] == [1, None, None]
    assert not stand.batches and stand.node.drained


def test_answers_of_what_was_given_up_and_second_ones_are_passed_over(stand: Stand) -> None:
    request = put(stand, {"a": 1})
    order = stand.batches.pop()
    done = BatchDone(order.number, [Part([worker(stand, order)])])
    tell(stand, done)
    tell(stand, done)
    assert len(stand.frames) == 1
    stand.land_all()
    put(stand, {"b": 1})
    order = stand.batches.pop()
    stand.partition().close()
    assert stand.node.writes.isolation.look_up(order.number, "raw", key("a"), False) is None
    tell(stand, BatchDone(order.number, [Part([Answer()])]))
    assert request.versions == [1] and not stand.frames and next(iter(stand.node.standing.promises())).in_flight is None


def test_a_second_answer_changes_nothing_of_the_first_while_that_waits(stand: Stand) -> None:
    """The part of a group that was made may wait for its turn."""
    stand.submit(GroupRequest(b"g1", [group_part([("a", 1)])], ""))
    order, isolation = stand.batches.pop(), stand.node.writes.isolation
    partition = isolation.done(BatchDone(order.number, [Part([worker(stand, order)])]))
    assert partition is not None and partition.making is not None
    first = partition.making.made
    for second in (
        BatchDone(order.number, [Part([Answer()])]),
        BatchDone(order.number, error=UnavailableError("no", address="")),
    ):
        assert isolation.done(second) is None
        assert partition.making.made is first is not None and partition.making.error is None


def test_a_batch_that_cannot_be_run_is_refused_for_now(stand: Stand) -> None:
    request = put(stand, {"a": 1})
    tell(stand, BatchDone(stand.batches.pop().number, error=UnavailableError("no worker", address="")))
    assert isinstance(request.errors[0], UnavailableError) and request in stand.answered and stand.node.drained
    again = put(stand, {"a": 2})
    answer(stand)
    stand.land_all()
    assert again.versions == [1]


def forged(change: Callable[[Answer], Any]) -> Callable[[Answer], Answer]:
    def made(answer: Answer) -> Answer:
        change(answer)
        return answer

    return made


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (forged(lambda answer: answer.names.__setitem__(0, "elsewhere")), "cannot have made"),
        (forged(lambda answer: answer.names.__setitem__(0, "raw")), "cannot have made"),
        (forged(lambda answer: answer.keys.__setitem__(0, b"rubbish")), "cannot have made"),
        (forged(lambda answer: answer.keys.__setitem__(0, key(5))), "cannot have made"),
        (forged(lambda answer: answer.values.__setitem__(0, b"\xc1")), "cannot have made"),
        (forged(lambda answer: answer.values.__setitem__(0, None)), "cannot have made"),
        (forged(lambda answer: answer.ops.__setitem__(0, 3)), "cannot have made"),
        (forged(lambda answer: answer.ops.__setitem__(0, DELETE)), "cannot have made"),
        (forged(lambda answer: answer.maps.__setitem__(0, 9)), "makes no sense"),
        (forged(lambda answer: answer.maps.__setitem__(0, -1)), "makes no sense"),
        (forged(lambda answer: answer.counts.__setitem__(0, (2, 0))), "makes no sense"),
        (forged(lambda answer: answer.counts.__setitem__(0, (0, 1))), "makes no sense"),
        (forged(lambda answer: answer.rows.__setitem__(0, 9)), "makes no sense"),
        (forged(lambda answer: answer.versions.append(1)), "makes no sense"),
    ],
)
def test_what_no_trigger_can_have_made_is_refused(stand: Stand, forge: Callable[[Answer], Answer], said: str) -> None:
    request = put(stand, {"a": 1})
    order = stand.batches.pop()
    tell(stand, BatchDone(order.number, [Part([forge(worker(stand, order))])]))
    stand.land_all()
    assert isinstance(request.errors[0], RejectedError) and said in str(request.errors[0])
    assert len(stand.log_of()) == 1, "OPEN"


def test_an_answer_for_another_row_is_not_taken(stand: Stand) -> None:
    request = put(stand, [("a", 1), ("b", 1)])
    order = stand.batches.pop()
    made = worker(stand, order)
    made.versions[0] = 2
    tell(stand, BatchDone(order.number, [Part([made])]))
    assert request not in stand.answered and not stand.frames and len(stand.batches) == 1
    answer(stand)
    stand.land_all()
    assert request.versions == [1, 1]


def test_conditions_hold_within_a_batch(stand: Stand) -> None:
    request = put(stand, [("a", 1), ("a", 2), ("a", 3)], conditions={0: 0, 1: 9, 2: 1})
    answer(stand)
    stand.land_all()
    assert request.versions == [1, 0, 2] and list(request.errors) == [1]


def test_parked_writes_are_redriven_in_a_worker() -> None:
    stand = Stand(source=PARKING)
    put(stand, {"a": 1, "b": 2})
    answer(stand, rows=0, ending=Ending("its worker process ended"))
    stand.land_all()
    answer(stand, rows=0, ending=Ending("its worker process ended"))
    stand.land_all()
    ids = [write.id for write in stand.partition().parking.page("", (0, 0), 9)[0]]  # type: ignore[arg-type]
    request = RedriveRequest(PartitionId(0), ids, False, False, "to the test")
    stand.submit(request)
    assert len(ids) == 2 and len(stand.batches) == 1, "one at a time"
    for _ in ids:
        answer(stand)
        stand.land_all()
    assert [outcome.word for outcome in request.outcomes] == ["redriven", "redriven"]
    assert stand.value("b", map_name="out")[:2] == [1, None]


def test_a_part_of_a_group_that_is_made_is_lent_its_slot_whatever_has_come_meanwhile(stand: Stand) -> None:
    """Groups and other writes take turns; it was its turn when it went off."""

    def group(name: bytes, sequence: int) -> GroupRequest:
        part = grid_pb2.WriteBatch(
            session=client_session(7),
            first_sequence=sequence,
            map="raw",
            keys=[key("a")],
            values=[pack(1)],
            ops=b"\x01",
        )
        request = GroupRequest(name, [part], "reply")
        stand.node.submit(stand.instant, request, Carry(b"", Position(0), Epoch(0)), stand.now + 10)
        stand.turn()
        return request

    for sequence in (1, 2):
        request = group(b"g%d" % sequence, sequence)
        waiting = put(stand, {"b": sequence}, "plain") if sequence == 2 else None
        answer(stand)
        (effect,) = stand.group_appends
        stand.group_appends.clear()
        stand.log.append(effect.entries)
        stand.node.group_landed(stand.instant, effect.group, [stand.log.tail(entry.log) for entry in effect.entries])
        stand.turn()
        assert request in stand.answered and request.error is None
    stand.land_all()
    assert waiting in stand.answered and stand.node.drained


def test_a_trigger_that_overruns_again_and_again_is_suspended_until_resumed(stand: Stand) -> None:
    for number in range(3):
        request = put(stand, {"a": number})
        answer(stand, rows=0, ending=Ending())
        stand.land_all()
        assert isinstance(request.errors[0], RejectedError)
    assert [one.trigger for one in stand.suspended] == ["make"]
    request = put(stand, {"a": 5})
    assert stand.batches[0].batch.suspended.keys() == {"make"}
    answer(stand)
    stand.land_all()
    assert isinstance(request.errors[0], TriggerSuspendedError) and "--resume make" in str(request.errors[0])
    assert stand.node.suspensions.resume("near") == [] and stand.node.suspensions.resume("make") == ["make"]
    put(stand, {"a": 5})
    answer(stand)
    stand.land_all()
    assert stand.value("a", map_name="out")[:1] == [1]


def test_overruns_far_apart_suspend_nothing(stand: Stand) -> None:
    for number in range(4):
        put(stand, {"a": number})
        answer(stand, rows=0, ending=Ending())
        stand.land_all()
        stand.now += 40
    assert not stand.suspended
