"""Frames are split by count and by size, and what comes out always fits into a record."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegrid.grid.log.record import decode_record, decode_section
from tidegrid.grid.model.errors import TooLargeError
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import KeyField, MapSpec

from tests.unit.engine.stand import NOWHERE, Stand, client_session

MAPPED = """
from tidegrid.triggers import Event, Put, stream, table, trigger
table("raw", key=("k",))
table("copies", like="raw")
stream("said", like="raw")

@trigger(on="raw", emits=("copies", "said"))
def copy(write):
    yield Put("copies", write.key, write.value)
    yield Event("said", write.key, len(write.value))
"""


def test_a_frame_of_many_small_writes_of_many_sessions_fits_into_a_record() -> None:
    stand = Stand(limits=Limits(frame_writes_max=2000))
    for number in range(2100):
        stand.node.submit(
            stand.instant,
            stand.batch({f"{number:06}": "x" * 500}, session=client_session(number), first=1 << 40),
            NOWHERE,
            10.0,
        )
    stand.land_all()
    assert len(stand.answered) == 2100
    assert all(not request.errors for request in stand.answered)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["raw", "t", "s"]), st.lists(st.integers(0, 700), min_size=1, max_size=12)),
        min_size=1,
        max_size=25,
    ),
    st.sampled_from([1500, 2500, 4000]),
)
def test_no_record_is_larger_than_the_limit(batches: list[tuple[str, list[int]]], record_bytes_max: int) -> None:
    limits = Limits(record_bytes_max=record_bytes_max, frame_writes_max=30)
    stand = Stand(source=MAPPED, limits=limits)
    requests = []
    for number, (name, sizes) in enumerate(batches):
        rows = [(f"k{number}-{row}", "x" * size) for row, size in enumerate(sizes)]
        requests.append(stand.batch(rows, map_name=name, session=client_session(number)))
        stand.node.submit(stand.instant, requests[-1], NOWHERE, 10.0)
    stand.turn()
    while stand.frames:
        payload = stand.frames[0].entry.payload
        assert len(payload) <= record_bytes_max
        record = decode_record(payload)
        assert sum(record.counts) == sum(
            len(decode_section(section).keys) for section in record.sections[: record.write_sections]
        )
        stand.land()
    assert all(request in stand.answered for request in requests)
    for request in requests:
        for row, error in request.errors.items():
            assert isinstance(error, TooLargeError), error
            assert len(request.values[row]) > 200, "a small write fits"


def test_outputs_name_the_writes_that_caused_them_whatever_the_order_of_batches() -> None:
    stand = Stand(source=MAPPED)
    batches = [("raw", ["a", "b"]), ("t", ["c"]), ("raw", ["d"]), ("s", ["e"]), ("raw", ["f"])]
    for number, (name, keys) in enumerate(batches):
        batch = stand.batch([(key, key) for key in keys], map_name=name, session=client_session(number))
        stand.node.submit(stand.instant, batch, NOWHERE, 10.0)
    stand.turn()
    record = decode_record(stand.frames[0].entry.payload)
    sections = [decode_section(section) for section in record.sections]
    writes = [key for section in sections[: record.write_sections] for key in section.keys]
    assert len(writes) == 6
    copies, said = sections[record.write_sections :]
    assert [writes[cause] for cause in copies.causes] == list(copies.keys)
    assert [writes[cause] for cause in said.causes] == list(said.keys)


def test_a_batch_longer_than_a_frame_lands_in_several() -> None:
    stand = Stand(limits=Limits(frame_writes_max=3))
    request = stand.put([(f"k{row}", row) for row in range(8)])
    landed = 0
    while stand.frames:
        assert request not in stand.answered
        stand.land()
        landed += 1
    assert landed == 3 and request.versions == [1] * 8 and request in stand.answered


@pytest.mark.parametrize("size", [3_000, 100_000])
def test_a_write_that_fits_no_record_is_refused_alone(size: int) -> None:
    stand = Stand(limits=Limits(record_bytes_max=2_000))
    request = stand.put_now([("a", 1), ("b", "x" * size), ("c", 3)])
    assert list(request.errors) == [1] and isinstance(request.errors[1], TooLargeError)
    assert stand.value("a") == 1 and stand.value("b") is None and stand.value("c") == 3


LONG = "m" * 110
EMITS = f"""
from tidegrid.triggers import Event, stream, table, trigger
table("raw", key=("k",))
NAMES = tuple("{LONG}%d" % number for number in range(12))
for name in NAMES:
    stream(name, like="raw")

@trigger(on="raw", emits=NAMES)
def tell(write):
    for name in NAMES[: write.value]:
        yield Event(name, write.key, 1)
"""


def sizes(stand: Stand) -> list[int]:
    """Of the records, all landed."""
    stand.turn()
    found = []
    while stand.frames:
        found.append(len(stand.frames[0].entry.payload))
        stand.land()
    return found


def test_refused_rows_between_accepted_ones_make_runs_and_runs_weigh() -> None:
    stand = Stand(limits=Limits(record_bytes_max=1500))
    rows = [(f"{row}", 1) for row in range(200)]
    request = stand.put(rows, conditions=dict.fromkeys(range(1, 200, 2), 77), first=1 << 50)
    assert max(sizes(stand)) <= 1500 and len(request.errors) == 100


def test_sections_of_many_maps_weigh() -> None:
    maps = [MapSpec(f"{LONG}{number}", key=(KeyField("k"),)) for number in range(20)]
    stand = Stand(maps=maps, limits=Limits(record_bytes_max=1500))
    for number, spec in enumerate(maps):
        request = stand.batch({"k": 1}, map_name=spec.name, session=client_session(number))
        stand.node.submit(stand.instant, request, NOWHERE, 10.0)
    assert max(sizes(stand)) <= 1500 and not any(request.errors for request in stand.answered)


def test_sections_of_outputs_weigh() -> None:
    stand = Stand(source=EMITS, limits=Limits(record_bytes_max=4000))
    stand.put([(f"{row}", 12) for row in range(20)], map_name="raw")
    assert max(sizes(stand)) <= 4000 and not stand.answered[0].errors
