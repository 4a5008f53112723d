"""The way back from a row to the raw write, over records made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tidegrid.grid.engine import lineage as walks
from tidegrid.grid.engine.lineage import Place, RecordView, Walk
from tidegrid.grid.log.record import (
    DELETE,
    MERGE,
    PUT,
    Failure,
    RequestRun,
    SourceId,
    encode_data,
    encode_open,
    encode_outbox,
    encode_routed,
    encode_section,
)
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position, Term
from tidegrid.v1.grid_pb2 import Lineage

Records = dict[Place, bytes]


def place(partition: int, position: int) -> Place:
    return Place(PartitionId(partition), Position(position))


def section(name: str, rows: Sequence[tuple[bytes, bytes, int]], *, causes: Sequence[int] = (), op: int = PUT,
            schema: int = 0, sent: bool = False) -> bytes:  # fmt: skip
    """`rows`: (key, value, version)."""
    keys, values, versions = ([row[at] for row in rows] for at in range(3))
    return encode_section(name, keys, values, bytes([op] * len(rows)), () if sent else versions, causes, schema)  # type: ignore[arg-type]


def data(
    partition: int, maps: Sequence[str], sections: Sequence[bytes], writes: int, outbox: Sequence[bytes] = ()
) -> bytes:
    runs = [RequestRun(b"session", 1, 1)]
    return encode_data(PartitionId(partition), Term(1), Epoch(5), Epoch(3), 5_000, runs, maps, sections, writes, outbox)


def routed(
    partition: int,
    sources: Sequence[tuple[int, int, int]],
    maps: Sequence[str],
    sections: Sequence[bytes],
    delivered: int,
    outbox: Sequence[bytes] = (),
    failures: Sequence[Failure] = (),
) -> bytes:
    named = [SourceId(PartitionId(number), Position(position), entry) for number, position, entry in sources]
    return encode_routed(
        PartitionId(partition),
        Term(1),
        Epoch(7),
        Epoch(5),
        Epoch(3),
        5_000,
        named,
        maps,
        sections,
        delivered,
        outbox,
        failures,
    )


def walk(records: Records, at: Place, name: str, key: bytes, version: int) -> Lineage:
    going = Walk(at, name, key, version)
    while going.wanted is not None:
        going.give(records.get(going.wanted))
    assert set(going.views) <= set(records)
    return going.lineage


def test_a_raw_write_is_its_own_reason() -> None:
    record = data(0, ["t"], [section("t", [(b"a", b"1", 1), (b"b", b"2", 4)], schema=9)], 1)
    found = walk({place(0, 10): record}, place(0, 10), "t", b"b", 4)
    assert (found.row.key, found.row.value, found.row.version, found.row.schema, found.row.op) == (
        b"b",
        b"2",
        4,
        9,
        PUT,
    )
    assert (found.partition, found.position, found.stamp, found.effective, found.time_ms) == (0, 10, 5, 5, 5_000)
    assert not found.steps and not found.delivered and not found.broken


def test_an_output_was_caused_by_a_write_of_any_section_of_its_record() -> None:
    sections = [
        section("raw", [(b"a", b"1", 1), (b"b", b"2", 1)]),
        section("raw", [(b"c", b"3", 1)], schema=2),
        section("out", [(b"a", b"x", 1), (b"a", b"y", 2), (b"c", b"z", 1)], causes=[0, 0, 2]),
    ]
    records = {place(0, 10): data(0, ["raw", "raw", "out"], sections, 2)}
    found = walk(records, place(0, 10), "out", b"c", 1)
    (step,) = found.steps
    assert (step.cause.key, step.cause.value, step.cause.schema, step.cause_number) == (b"c", b"3", 2, 2)
    assert (step.made.key, step.made.value, step.occurrence, step.HasField("entry"), step.delivered) == (
        b"c",
        b"z",
        0,
        False,
        False,
    )
    (second,) = walk(records, place(0, 10), "out", b"a", 2).steps
    assert (second.cause.key, second.occurrence) == (b"a", 1)


def chain() -> Records:
    """raw in partition 0 -> hop in 1 -> end in 2, with others beside them at every point."""
    sent = [
        encode_outbox(PartitionId(3), 1, ["hop"], [section("hop", [(b"h", b"no", 0)], causes=[0], sent=True)]),
        encode_outbox(
            PartitionId(1),
            1,
            ["sum", "hop"],
            [
                section("sum", [(b"s", b"1", 0)], causes=[0], op=MERGE, sent=True),
                section("hop", [(b"g", b"G", 0), (b"h", b"H", 0)], causes=[0, 1], sent=True),
            ],
        ),
    ]
    on = [encode_outbox(PartitionId(2), 2, ["end"], [section("end", [(b"e", b"E", 0)], causes=[4], sent=True)])]
    return {
        place(0, 10): data(0, ["raw"], [section("raw", [(b"a", b"1", 1), (b"b", b"2", 3)])], 1, sent),
        place(1, 20): routed(
            1,
            [(9, 99, 0), (0, 10, 1)],
            ["hop", "sum"],
            [
                section("hop", [(b"h", b"other", 1), (b"h", b"other", 2), (b"g", b"G", 1), (b"h", b"H", 3)], causes=[0, 0, 1, 1]),
                section("sum", [(b"s", b"1", 8)], causes=[1], op=MERGE),
            ],
            2,
            [*on],
            [Failure(row=3, trigger="t", module="m", line=4, message="no luck")],
        ),
        place(2, 30): routed(
            2, [(1, 20, 0)], ["end", "local"],
            [section("end", [(b"e", b"E", 1)], causes=[0]), section("local", [(b"l", b"", 5)], causes=[0], op=DELETE)], 1,
        ),
    }  # fmt: skip


def test_what_was_delivered_is_followed_to_the_row_that_was_sent() -> None:
    found = walk(chain(), place(1, 20), "hop", b"h", 3)
    assert found.delivered and (found.stamp, found.effective) == (7, 5)
    (step,) = found.steps
    assert (step.partition, step.position, step.entry, step.stamp) == (0, 10, 1, 5)
    assert (step.cause.key, step.cause.version, step.made.value, step.delivered) == (b"b", 3, b"H", False)
    assert [failure.message for failure in found.failures] == ["no luck"]
    assert not walk(chain(), place(1, 20), "hop", b"g", 1).failures


def test_several_hops_and_a_chain_within_a_record() -> None:
    found = walk(chain(), place(2, 30), "local", b"l", 5)
    assert [(step.partition, step.cause.map, step.delivered, step.HasField("entry")) for step in found.steps] == [
        (2, "end", True, False), (1, "sum", True, True), (0, "raw", False, True),
    ]  # fmt: skip
    assert found.row.op == DELETE and found.steps[-1].cause.key == b"a" and not found.broken


@pytest.mark.parametrize("gone", [place(2, 30), place(1, 20), place(0, 10)])
def test_a_record_that_is_not_there_ends_the_way(gone: Place) -> None:
    records = chain()
    del records[gone]
    found = walk(records, place(2, 30), "local", b"l", 5)
    assert f"record {gone.position} in the log of partition {gone.partition}" in found.broken
    assert len(found.steps) == 2 - gone.partition


def test_what_does_not_fit_is_said_and_never_raised() -> None:
    records = chain()
    assert "no such row of 'hop'" in walk(records, place(1, 20), "hop", b"h", 4).broken
    records[place(0, 10)] = encode_open(PartitionId(0), Term(1), Epoch(1), NodeId(0), Incarnation(1), 1)
    assert walk(records, place(1, 20), "hop", b"h", 3).broken, "the source has no outbox"
    records[place(0, 10)] = b"\xff\xff"
    assert "does not parse" in walk(records, place(1, 20), "hop", b"h", 3).broken
    other = encode_outbox(PartitionId(1), 1, ["x"], [section("x", [(b"h", b"H", 0)], causes=[0], sent=True)])
    records[place(0, 10)] = data(0, ["raw"], [section("raw", [(b"a", b"1", 1)])], 1, [other, other])
    assert "sends nothing to 'hop'" in walk(records, place(1, 20), "hop", b"h", 3).broken


def test_a_log_that_goes_round_is_not_followed_for_ever() -> None:
    sent = encode_outbox(PartitionId(0), 1, ["hop"], [section("hop", [(b"h", b"H", 0)], causes=[0], sent=True)])
    record = routed(0, [(0, 10, 0)], ["hop"], [section("hop", [(b"h", b"H", 1)], causes=[0])], 1, [sent])
    found = walk({place(0, 10): record}, place(0, 10), "hop", b"h", 1)
    assert len(found.steps) == walks.STEPS_MAX and "steps" in found.broken


def test_rows_are_numbered_through_the_write_sections() -> None:
    view = RecordView(place(1, 20), chain()[place(1, 20)])
    assert [view.number(view.numbered(number)) for number in range(5)] == list(range(5))
    assert view.row(view.numbered(4)).map == "sum"
    with pytest.raises(FormatError):
        view.numbered(5)
