"""Parked writes: stored without outputs, in the log and after any restart; and run again, once."""

from __future__ import annotations

import pytest
from tidegrid.grid.engine.parking import ParkedId, ParkedWrite
from tidegrid.grid.engine.redrive import ParkedRequest, RedriveRequest
from tidegrid.grid.log.record import DATA, decode_record, decode_section
from tidegrid.grid.model.errors import LogTimeoutError, RejectedError, StorageFullError, WrongOwnerError
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.model.limits import Limits

from tests.unit.engine.stand import Stand, client_session, key, pack, recover, state_of
from tests.unit.engine.test_schemas import switch

BROKEN = """
from tidegrid.triggers import *
table("raw", key=("k",))
table("out", like="raw")
stream("heard", like="raw")
stream("said", like="raw")
table("plain", key=("k",))

@trigger(on=("raw", "heard"), emits=("out", "said"), on_error="park")
def make(write, grid):
    yield Event("said", write.key, ["before", write.version])
    if write.value == "no":
        raise Reject("no")
    if write.op == "delete":
        yield Delete("out", write.key)
        return
    previous = None if write.op == "event" else write.previous
    yield Put("out", write.key, [10 // write.value, previous, write.version, write.time_ms, write.epoch])
"""
MENDED = BROKEN.replace("10 // write.value", "-1 if not write.value else 10 // write.value")
STRICTER = BROKEN.replace('"no"', "0", 1).replace('Reject("no")', 'Reject("zero")')


def parked(stand: Stand, map_name: str = "", after: tuple[int, int] = (0, 0), rows_max: int = 100) -> list[ParkedWrite]:
    of = ParkedId(Position(after[0]), after[1])
    request = ParkedRequest(PartitionId(0), map_name, of, rows_max, "to the test")
    stand.submit(request)
    assert request.error is None and request in stand.answered
    return request.writes


def ask(stand: Stand, *ids: ParkedId, force: bool = False, drop: bool = False) -> RedriveRequest:
    request = RedriveRequest(PartitionId(0), ids, force, drop, "to the test")
    stand.submit(request)
    return request


def redrive(stand: Stand, *ids: ParkedId, **how: bool) -> list[tuple[str, str]]:
    request = ask(stand, *ids, **how)
    stand.land_all()
    assert request.error is None and request in stand.answered
    return [(outcome.word, outcome.message) for outcome in request.outcomes]


def restarted(stand: Stand) -> Stand:
    before = state_of(stand.partition())
    stand.restart()
    after = state_of(stand.partition())
    assert after["parked"] == before["parked"] and after["tables"] == before["tables"]
    return stand


def test_a_write_on_which_a_trigger_fails_is_stored_without_outputs() -> None:
    stand = Stand(source=BROKEN)
    done = stand.put_now([("a", 5), ("b", 0), ("c", "no"), ("d", 2)], map_name="raw")
    assert list(done.errors) == [2] and isinstance(done.errors[2], RejectedError) and not done.errors[2].failed
    assert done.versions == [1, 1, 0, 1]
    assert done.parked is not None and list(done.parked) == [1]
    assert "trigger 'make', module 'module', line 18, failed on key ('b',): ZeroDivisionError" in done.parked[1]
    assert stand.value("b", map_name="raw") == 0 and stand.value("b", map_name="out") is None
    assert stand.value("a", map_name="out")[0] == 2 and stand.value("d", map_name="out")[0] == 5
    record = decode_record(stand.log_of()[-1].payload)
    assert record.kind == DATA and [failure.row for failure in record.failures] == [1]
    said = decode_section(record.sections[list(record.maps).index("said")])
    assert list(said.causes) == [0, 2] and record.write_sections == 1
    (write,) = parked(stand)
    assert (write.map, write.key, write.value, write.version) == ("raw", key("b"), pack(0), 1)
    assert (write.id, write.trigger, write.line) == ((stand.partition().tail, 1), "make", 18)
    assert (write.effective, write.routed, write.tries) == (record.stamp, False, 0)
    restarted(stand)


def test_rows_are_counted_in_the_order_of_the_record() -> None:
    """Two maps in one frame: the numbers of its writes are not yet those of its record."""
    stand = Stand(source=BROKEN)
    stand.put({"x": 1}, map_name="plain")  # in flight, so that the others share a frame
    requests = [
        stand.put({name: value}, map_name=of)
        for name, value, of in [("a", 5, "raw"), ("h", 0, "heard"), ("b", 0, "raw")]
    ]
    stand.land_all()
    assert [request.parked is not None for request in requests] == [False, True, True]
    assert [(write.map, write.key, write.id.row) for write in parked(stand)] == [
        ("raw", key("b"), 1),
        ("heard", key("h"), 2),
    ]
    assert [write.map for write in parked(stand, "heard")] == ["heard"]
    assert ["('b',)" in parked(stand)[0].message, "('h',)" in parked(stand)[1].message] == [True, True]
    assert stand.partition().parking.counts() == {"heard": 1, "raw": 1}
    restarted(stand)


def test_pages() -> None:
    stand = Stand(source=BROKEN)
    for name in "abc":
        stand.put_now([(name + "1", 0), (name + "2", 0)], map_name="raw")
    seen: list[ParkedId] = []
    while page := parked(stand, after=seen[-1] if seen else (0, 0), rows_max=2):
        assert len(page) <= 2
        seen += [write.id for write in page]
    assert seen == [write.id for write in parked(stand)] and len(seen) == 6


def test_what_the_frame_in_flight_parks_is_seen_by_nobody_before_it_lands() -> None:
    stand = Stand(source=BROKEN)
    waiting = stand.put({"a": 0}, map_name="raw")
    assert not parked(stand) and waiting not in stand.answered
    stand.fail(StorageFullError("full"))
    assert not parked(stand) and waiting.errors and waiting.parked is None


def test_a_slot_that_is_lost_parks_once() -> None:
    stand = Stand(source=BROKEN)
    request = stand.put({"a": 0}, map_name="raw")
    stand.fail(LogTimeoutError("late"))
    stand.land()  # the FILL
    stand.land_all()
    assert request.parked is not None and len(parked(stand)) == 1
    restarted(stand)


def test_redriven_by_the_code_of_today() -> None:
    stand = Stand(source=BROKEN)
    stand.put_now({"a": 5}, map_name="raw")
    stand.put_now({"a": 0, "b": 0}, map_name="raw")
    first, second = parked(stand)
    assert [word for word, _ in redrive(stand, first.id)] == ["failed"]
    (again, _) = parked(stand)
    assert (again.id, again.tries) == (first.id, 1)
    restarted(stand)
    switch(stand, MENDED)
    stand.now += 60
    request = ask(stand, first.id, second.id)
    assert request not in stand.answered and stand.value("b", map_name="out") is None
    stand.land_all()
    assert [(outcome.id, outcome.word) for outcome in request.outcomes] == [
        (first.id, "redriven"),
        (second.id, "redriven"),
    ]
    record = decode_record(stand.log_of()[-1].payload)
    epoch = record.stamp
    assert record.kind == DATA and not record.write_sections and {o.epoch for o in request.outcomes} == {epoch}
    assert [(done.position, done.row, done.dropped) for done in record.redriven] == [
        (*first.id, False),
        (*second.id, False),
    ]
    # The write as it was: value before it, version and time; the epoch is of now.
    assert stand.value("a", map_name="out") == [-1, 5, 2, first.time_ms, epoch]
    assert stand.value("b", map_name="out") == [-1, None, 1, first.time_ms, epoch]
    assert epoch > first.effective and not parked(stand)
    said = decode_section(record.sections[list(record.maps).index("said")])
    assert list(said.causes) == [0, 1]
    assert redrive(stand, first.id) == [("gone", "")]
    assert decode_record(stand.log_of()[-1].payload) == record  # what has nothing to say is not written
    restarted(stand)
    assert redrive(stand, second.id) == [("gone", "")]


def test_a_veto_of_today_leaves_it_parked() -> None:
    stand = Stand(source=BROKEN)
    stand.put_now({"a": 0}, map_name="raw")
    (write,) = parked(stand)
    switch(stand, STRICTER)
    ((word, message),) = redrive(stand, write.id)
    assert word == "failed" and "rejected key ('a',): zero" in message
    (again,) = parked(stand)
    assert (again.message, again.tries) == (message, 1)
    restarted(stand)


def test_two_redrives_at_once_give_one() -> None:
    stand = Stand(source=BROKEN)
    stand.put_now({"a": 0}, map_name="raw")
    (write,) = parked(stand)
    switch(stand, MENDED)
    first, second = ask(stand, write.id), ask(stand, write.id)
    stand.land_all()
    assert [first.outcomes[0].word, second.outcomes[0].word] == ["redriven", "gone"]
    records = [decode_record(item.payload) for item in stand.log_of()]
    assert sum(len(record.redriven) for record in records) == 1


def test_writes_and_redrives_take_turns() -> None:
    stand = Stand(source=BROKEN)
    stand.put_now([(name, 0) for name in "abc"], map_name="raw")
    switch(stand, MENDED)
    stand.put({"x": 1}, map_name="plain")
    asked = [ask(stand, write.id) for write in parked(stand)]
    written = stand.put({"y": 1}, map_name="plain")
    assert len(stand.frames) == 1
    stand.land()
    assert asked[0] not in stand.answered and written not in stand.answered
    for done in (asked[0], written, asked[1], asked[2]):
        stand.land()
        assert stand.answered[-1] is done


def test_a_redrive_waits_for_the_frame_in_flight_alone() -> None:
    """However much is queued behind that."""
    stand = Stand(source=BROKEN)
    stand.put_now({"a": 0}, map_name="raw")
    (write,) = parked(stand)
    switch(stand, MENDED)
    stand.put({"x": 1}, map_name="plain")
    asked = ask(stand, write.id)
    written = stand.put({f"{number}": "x" * 1000 for number in range(80)}, map_name="plain")
    assert stand.partition().next is None
    stand.land()
    stand.land()
    assert asked in stand.answered and written not in stand.answered
    stand.land_all()
    assert written in stand.answered


def test_a_later_version_supersedes() -> None:
    stand = Stand(source=BROKEN)
    stand.put_now({"a": 0, "b": 0}, map_name="raw")
    stand.put_now({"a": 5}, map_name="raw")
    stand.put_now({"b": None}, map_name="raw")
    switch(stand, MENDED)
    first, second = parked(stand)
    for write in (first, second):
        ((word, message),) = redrive(stand, write.id)
        assert word == "superseded" and "--force" in message
    assert stand.value("a", map_name="out")[0] == 2
    assert redrive(stand, first.id, force=True) == [("redriven", "")]
    assert stand.value("a", map_name="out")[:3] == [-1, None, 1]
    assert redrive(stand, second.id, drop=True) == [("dropped", "")]
    assert not parked(stand) and stand.value("b", map_name="out") is None
    assert redrive(stand, second.id, drop=True) == [("gone", "")]
    restarted(stand)


def test_two_writes_of_one_key_in_one_frame() -> None:
    stand = Stand(source=BROKEN)
    stand.put_now([("a", 0), ("a", 0)], map_name="raw")
    switch(stand, MENDED)
    first, second = parked(stand)
    assert [word for word, _ in redrive(stand, first.id, second.id)] == ["superseded", "redriven"]
    assert stand.value("a", map_name="out")[:3] == [-1, 0, 2]


def test_a_parked_delete_stays_the_latest_when_it_is_reclaimed() -> None:
    failing = BROKEN.replace('yield Delete("out", write.key)', "1 // 0")
    stand = Stand(source=failing, session_epochs=100)
    stand.put_now({"a": 5}, map_name="raw")
    stand.put_now({"a": None}, map_name="raw")
    (write,) = parked(stand)
    assert write.value is None and write.previous == pack(5)
    for _ in range(10):
        stand.close(stand.node.control.limit - 1)
    stand.horizon(stand.node.control.closed)
    while stand.node.reclaim(1000):
        pass
    assert stand.partition().tables["raw"].latest(key("a")) is None
    switch(stand, MENDED)
    assert redrive(stand, write.id) == [("redriven", "")]
    assert stand.value("a", map_name="out") is None


def test_events_are_never_superseded() -> None:
    stand = Stand(source=BROKEN)
    stand.put_now([("a", 0), ("a", 5)], map_name="heard")
    switch(stand, MENDED)
    (write,) = parked(stand)
    assert redrive(stand, write.id) == [("redriven", "")]


def test_where_no_trigger_is_left_nothing_comes_of_it() -> None:
    stand = Stand(source=BROKEN)
    stand.put_now({"a": 0}, map_name="raw")
    switch(stand, BROKEN.partition("@trigger")[0])
    (write,) = parked(stand)
    assert redrive(stand, write.id) == [("redriven", "")]
    assert stand.value("a", map_name="out") is None and not parked(stand)


def test_a_schema_that_nothing_handles_any_more_stays_parked() -> None:
    stand = Stand(source=BROKEN)
    stand.put_now({"a": 0}, map_name="raw")
    switch(stand, MENDED.replace('on_error="park"', 'on_error="park", schema=1'))
    (write,) = parked(stand)
    ((word, message),) = redrive(stand, write.id)
    assert word == "failed" and "handles schema 0" in message


@pytest.mark.parametrize("limits", [Limits(parked_max=2), Limits(parked_bytes_max=1000)])
def test_where_there_is_no_room_it_is_refused_by_its_failure(limits: Limits) -> None:
    """What is in flight counts, too."""
    stand = Stand(source=BROKEN, limits=limits)
    first = stand.put({"a": 0, "x": 5}, map_name="raw")
    rest = stand.put({"b": 0, "c": 0, "y": 5}, map_name="raw")
    stand.land_all()
    assert not first.errors and len(stand.partition().parking) == 2
    assert list(rest.errors) == [1] and rest.parked is not None and list(rest.parked) == [0]
    error = rest.errors[1]
    assert isinstance(error, RejectedError) and error.failed
    assert "ZeroDivisionError" in str(error) and "tidegrid parked redrive" in str(error)
    assert stand.value("c", map_name="raw") is None and stand.value("y", map_name="out") is not None
    switch(stand, MENDED)
    assert {word for word, _ in redrive(stand, *(write.id for write in parked(stand)))} == {"redriven"}
    assert stand.partition().parking.bytes == 0
    switch(stand, BROKEN)
    assert stand.put_now({"c": 0}, map_name="raw").parked


def test_a_frame_computed_on_top_counts_what_is_in_flight() -> None:
    stand = Stand(source=BROKEN, limits=Limits(parked_max=1))
    first = stand.put({"a": 0}, map_name="raw")
    big = stand.put({"b": 0, "pad": 1}, map_name="raw")
    wide = stand.put({f"{number}": "x" * 1000 for number in range(80)}, map_name="plain")
    assert stand.partition().next is not None, "computed while the other is in flight"
    stand.land_all()
    assert first.parked and list(big.errors) == [0] and not wide.errors


def test_outputs_that_do_not_fit_one_record_go_into_the_next() -> None:
    large = BROKEN.replace("[10 // write.value,", "[10 // write.value, 'x' * 30_000,")
    stand = Stand(source=large, limits=Limits(record_bytes_max=70_000))
    for name in "abc":
        stand.put_now({name: 0}, map_name="raw")
    switch(stand, large.replace("10 // write.value", "-1"))
    ids = [write.id for write in parked(stand)]
    before = len(stand.log_of())
    assert {word for word, _ in redrive(stand, *ids)} == {"redriven"}
    assert len(stand.log_of()) - before == 2


def test_outputs_that_fit_no_record_leave_it_parked() -> None:
    stand = Stand(source=BROKEN, limits=Limits(record_bytes_max=70_000))
    stand.put_now({"a": 0}, map_name="raw")
    switch(stand, BROKEN.replace("[10 // write.value,", "['x' * 90_000,"))
    (write,) = parked(stand)
    ((word, message),) = redrive(stand, write.id)
    assert word == "failed" and "more than a record has room for" in message


def test_an_answer_is_given_only_by_what_landed() -> None:
    stand = Stand(source=BROKEN)
    stand.put_now({"a": 0}, map_name="raw")
    (write,) = parked(stand)
    switch(stand, MENDED)
    request = ask(stand, write.id)
    stand.fail(StorageFullError("full"))
    assert isinstance(request.error, StorageFullError) and len(parked(stand)) == 1
    request = ask(stand, write.id)
    stand.fail(LogTimeoutError("late"))
    stand.land()  # the FILL has the slot
    stand.land_all()
    assert request.error is None and request.outcomes[0].word == "redriven" and not parked(stand)
    restarted(stand)


def test_a_partition_that_moves_answers_what_is_known() -> None:
    stand = Stand(source=BROKEN)
    stand.put_now({"a": 0, "b": 0}, map_name="raw")
    first, second = parked(stand)
    switch(stand, MENDED)
    in_flight, waiting = ask(stand, first.id), ask(stand, second.id)
    assert stand.partition().close() == [waiting] and isinstance(waiting.error, WrongOwnerError)
    assert in_flight.error is None and not in_flight.outcomes
    assert stand.partition().landed(Position(1 << 40)) == [in_flight]
    assert in_flight.error is None and in_flight.outcomes[0].word == "redriven"


def test_a_repeated_write_is_not_parked_again() -> None:
    stand = Stand(source=BROKEN)
    session = client_session()
    stand.put_now({"a": 0}, map_name="raw", session=session, first=1)
    again = stand.put_now({"a": 0}, map_name="raw", session=session, first=1)
    assert again.repeated == [0] and len(parked(stand)) == 1


def test_a_retry_that_joins_is_told_as_well() -> None:
    stand = Stand(source=BROKEN)
    session = client_session()
    stand.put({"a": 0, "b": 1}, map_name="raw", session=session, first=1)
    joined = stand.put({"a": 0, "b": 1}, map_name="raw", session=session, first=1)
    stand.land_all()
    assert joined.parked is not None and list(joined.parked) == [0]


def test_parked_state_comes_from_the_log_or_a_checkpoint() -> None:
    from tidegrid.grid.engine.checkpoint import checkpoint_chunks
    from tidegrid.grid.engine.partition import Partition

    stand = Stand(source=BROKEN)
    stand.put_now({"a": 0, "b": 0, "c": 0}, map_name="raw")
    first, second, third = parked(stand)
    redrive(stand, second.id)
    chunks = checkpoint_chunks(stand.partition())
    saved = [next(chunks)]
    redrive(stand, first.id, drop=True)  # the partition goes on between two chunks
    redrive(stand, third.id)
    stand.put_now({"e": 0}, map_name="raw")
    saved += chunks
    stand.put_now({"d": 0}, map_name="raw")
    live = state_of(stand.partition())
    assert [row[1] for row in live["parked"]] == ["raw"] * 4
    for chunks_of in ([], saved):
        found = Partition(PartitionId(0), stand.limits, 100, 0)
        found.tables.declare(stand.node.control.declared.values())
        recover(stand.log, found, frozenset(), chunks_of)
        assert state_of(found)["parked"] == live["parked"] and found.parking.bytes == stand.partition().parking.bytes
    assert third.id == live["parked"][1][0] and Epoch(third.effective) > 0
