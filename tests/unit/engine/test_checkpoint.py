"""Restart: from the log alone, and from a checkpoint with the records after it, gives the partition that was."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegrid.grid.engine import checkpoint
from tidegrid.grid.engine.checkpoint import checkpoint_chunks
from tidegrid.grid.engine.parking import ParkedId
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.redrive import RedriveRequest
from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.record import Record, RequestRun, encode_data, encode_open, encode_section
from tidegrid.grid.model.errors import EpochTooOldError, FormatError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, Incarnation, NodeId, PartitionId, Position, Term, partition_log
from tidegrid.v1.record_pb2 import DATA

from tests.unit.engine.stand import Stand, client_session, key, named_session, pack, recover, state_of

EVERYTHING = """
from tidegrid.triggers import Delete, Event, Put, stream, table, trigger
table("raw", key=("k",))
table("copy", like="raw")
stream("said", like="raw")

@trigger(on="raw", emits=("copy", "said"), on_error="park")
def follow(write, grid):
    if write.value == 3 and grid.random.random() < 0.7:
        raise ValueError(write.previous)
    if write.op == "delete":
        yield Delete("copy", write.key)
    else:
        yield Put("copy", write.key, write.value)
        yield Event("said", write.key, write.value)
"""

steps = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(["t", "raw", "r", "s"]),
            st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(0, 9)), min_size=1, max_size=5),
        ),
        st.tuples(st.sampled_from(["close", "restart", "checkpoint", "reclaim", "redrive", "drop"]), st.just([])),
    ),
    max_size=25,
)


def fresh(stand: Stand) -> Partition:
    return Partition(PartitionId(0), stand.limits, 100, 0)


@settings(max_examples=60)
@given(steps, st.integers(1, 4))
def test_recovered_state_equals_the_live_one(
    plan: list[tuple[str, list[tuple[str, int | None]]]], slice_rows: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "ROWS_PER_SLICE", slice_rows)
        stand = Stand(source=EVERYTHING)
        saved: list[bytes] = []
        for number, (step, rows) in enumerate(plan):
            if step == "close":
                stand.close()
                stand.horizon(stand.node.control.closed - 1)
            elif step == "restart":
                stand.restart()
            elif step == "checkpoint":
                saved = list(checkpoint_chunks(stand.partition()))
            elif step == "reclaim":
                stand.node.reclaim(100)
            elif step in ("redrive", "drop"):
                ids = [write.id for write in stand.partition().parking.page("", ParkedId(BEFORE_FIRST, 0), 3)[0]]
                if ids:
                    stand.submit(RedriveRequest(PartitionId(0), ids, number % 2 == 0, step == "drop", "to the test"))
                    stand.land_all()
            else:
                session = named_session() if number % 3 == 0 else client_session(number % 2, created=1)
                pairs = [(of, value if step != "s" else value or 0) for of, value in rows]
                stand.put_now(pairs, map_name=step, session=session)
        references = stand.node.writes.reference_maps
        from_log = recover(stand.log, fresh(stand), references).partition
        from_checkpoint = recover(stand.log, fresh(stand), references, saved).partition
        for one in (stand.partition(), from_log, from_checkpoint):
            for table in one.tables.values():
                table.reclaim(stand.node.control.horizon, 10_000)
                table._check()
        live = _without_empty(state_of(stand.partition()))
        assert _without_empty(state_of(from_log)) == live == _without_empty(state_of(from_checkpoint))


def _without_empty(state: dict) -> dict:  # type: ignore[type-arg]
    return {**state, "tables": {name: rows for name, rows in state["tables"].items() if rows}}


def test_writes_between_slices_are_left_to_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "ROWS_PER_SLICE", 2)
    stand = Stand()
    stand.put_now([(f"k{row}", row) for row in range(9)])
    stand.put_now([("k1", "again")])
    chunks, taken = checkpoint_chunks(stand.partition()), []
    for number, chunk in enumerate(chunks):
        taken.append(chunk)
        stand.put_now([("k1", number), (f"new{number}", number), ("k8", None)])
    assert len(taken) > 5
    kinds = [msgspec.msgpack.decode(chunk)[0] for chunk in taken]
    assert kinds[:4] == ["head", "generations", "routes", "sessions"] and {"one", "rows"} <= set(kinds)
    recovered = recover(stand.log, fresh(stand), frozenset({"r"}), taken).partition
    live = state_of(stand.partition())
    assert _without_empty(state_of(recovered)) == _without_empty(live)


def test_many_sessions_take_several_chunks() -> None:
    stand = Stand()
    for number in range(501):
        stand.put({f"k{number}": 1}, session=client_session(number))
    stand.land_all()
    chunks = list(checkpoint_chunks(stand.partition()))
    assert [msgspec.msgpack.decode(chunk)[0] for chunk in chunks].count("sessions") == 2
    assert len(recover(stand.log, fresh(stand), frozenset(), chunks).partition.memory) == 501


def test_what_is_no_checkpoint_of_this_partition_is_refused() -> None:
    stand = Stand()
    stand.put_now({"a": 1})
    head = msgspec.msgpack.decode(next(checkpoint_chunks(stand.partition())))
    encode = msgspec.msgpack.encode
    for wrong in (
        b"\xc1",
        encode([]),
        encode(head[:3]),
        encode([head[0], 99, *head[2:]]),
        encode([*head[:2], 7, *head[3:]]),
        encode(["one", "t", [key("a")], [], [], []]),
        encode(["rows", "t", [key("a")], []]),
        encode(["sessions", [[client_session(), 1, 2, [[1, 2, 1, b"x"]]]]]),
    ):
        with pytest.raises(FormatError):
            recover(stand.log, fresh(stand), frozenset(), [wrong])


def test_records_of_an_old_term_count_for_nothing() -> None:
    """Only their place does: the next append goes after them."""
    stand = Stand(active=False)
    name, number = partition_log(PartitionId(0)), PartitionId(0)

    def append(payload: bytes, stamp: int) -> Position:
        return stand.log.append([Entry(name, stand.log.tail(name), Epoch(stamp), payload)])[0]

    def data(term: int, stamp: int, sequence: int) -> bytes:
        section = encode_section("t", [key("k")], [pack(sequence)], b"\1", [sequence])
        runs = [RequestRun(client_session(), sequence, 1)]
        return encode_data(number, Term(term), Epoch(stamp), Epoch(0), 5, runs, ["t"], [section], 1)

    def opened(term: int, stamp: int) -> bytes:
        return encode_open(number, Term(term), Epoch(stamp), NodeId(0), Incarnation(1), 5)

    append(opened(1, 3), 3)
    append(data(1, 3, 1), 3)
    append(opened(2, 4), 4)
    append(data(1, 5, 2), 5)
    append(opened(2, 6), 6)
    append(data(2, 6, 2), 6)
    append(Record(kind=DATA + 40, term=2, stamp=7).SerializeToString(), 7)  # type: ignore[arg-type]
    last = append(data(1, 8, 9), 8)
    partition = recover(stand.log, fresh(stand), frozenset()).partition
    assert (partition.term, partition.tail, partition.last_stamp) == (2, last, 6)
    assert [value for value, _, _ in partition.tables["t"].chain(key("k"))] == [pack(1), pack(2)]
    known = partition.memory.get(client_session())
    assert known is not None and known.look_up(2).epoch == 6 and known.look_up(9).state == "new"
    assert [term for _, term in partition.opened] == [1, 2]


def test_a_restart_goes_on_where_it_was_and_remembers_requests() -> None:
    stand = Stand(source=EVERYTHING)
    first = stand.put_now([("a", 1), ("a", 2)], map_name="raw")
    stand.put_now({"x": 1}, map_name="r")
    changed = stand.node.standing.reference_epoch()
    stamp = stand.partition().last_stamp
    stand.restart()
    assert stand.node.epoch >= stamp and stand.node.standing.reference_epoch() == changed
    again = stand.put_now([("a", 1), ("a", 2)], map_name="raw", first=1)
    assert again.versions == first.versions and again.epochs == first.epochs and again.repeated == [0, 1]
    assert stand.put_now([("a", 3)], map_name="raw").versions == [3] and stand.value("a", map_name="copy") == 3


def test_what_was_let_go_of_before_a_checkpoint_is_not_taken_for_nothing() -> None:
    """Whoever opens from it may not have read of that horizon yet: it says too old, not another value."""
    stand = Stand()
    for value in range(4):
        stand.put_now({"k": value})
        stand.close(stand.node.epoch)
    early = stand.node.control.closed - 2
    stand.horizon(stand.node.control.closed)
    stand.node.reclaim(100)
    chunks = list(checkpoint_chunks(stand.partition()))
    table = recover(stand.log, fresh(stand), frozenset({"r"}), chunks).partition.tables["t"]
    with pytest.raises(EpochTooOldError):
        table.as_of(key("k"), Epoch(early))
    assert table.reclaim(Epoch(early), 100) == 0 and table.horizon == stand.node.control.closed


def test_numbers_that_began_anew_go_on_so_after_a_restart() -> None:
    """The log still has the numbers of before, and the tombstone after which the owner began anew."""
    stand = Stand(session_epochs=3)
    early = client_session(6, created=stand.node.epoch)
    assert stand.put_now([("a", 1), ("a", 2), ("a", None)], session=early).versions == [1, 2, 3]
    for _ in range(6):
        stand.close()
    stand.horizon(stand.node.control.closed)
    stand.node.reclaim(100)
    assert stand.put_now([("a", 3)], session=client_session(7, created=stand.node.epoch)).versions == [1]
    stand.restart()
    assert stand.put_now([("a", 4)], session=client_session(8, created=stand.node.epoch)).versions == [2]
