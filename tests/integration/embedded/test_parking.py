"""Parked writes as a client sees them: acks, the list, redrives; also of outputs that were routed, and of groups."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest
from tidegrid import embedded
from tidegrid.client import Redriven
from tidegrid.embedded import EmbeddedGrid
from tidegrid.grid.model.errors import CallerError, RejectedError
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.partitioner import partition_of
from tidegrid.grid.runtime.local_grid import GridOptions

BROKEN = """
from tidegrid.triggers import *
table("raw", key=("k",)); table("out", like="raw"); table("far", key=("n:int",)); stream("end", key=("n:int",))

@trigger(on="raw", emits=("out", "far"), on_error="park")
def make(write):
    yield Put("out", write.key, 100 // write.value)
    yield Put("far", write.value, write.key[0])

@trigger(on="far", emits="end")
def go_on(write):
    if write.value == "veto":
        raise Reject("not that")
    if write.value.startswith("bad"):
        raise ValueError(write.value)
    yield Event("end", write.key, write.value)
"""
MENDED = BROKEN.replace("100 // write.value", "0 if not write.value else 100 // write.value").replace(
    '"bad"', '"never"'
)


@pytest.fixture
async def grid() -> AsyncIterator[EmbeddedGrid]:
    async with embedded.open(nodes=3, partitions=6, tick=None) as grid:
        await grid.deploy(("module", BROKEN))
        yield grid
        await grid.tick()  # else what was routed is waited for at the end


def words(outcomes: Sequence[Redriven]) -> list[str]:
    return [outcome.outcome for outcome in outcomes]


async def test_from_the_ack_to_the_redrive(grid: EmbeddedGrid) -> None:
    raw, out, far = grid.map("raw"), grid.map("out"), grid.map("far")
    ack = await raw.put("a", 0)
    assert ack.version == 1 and ack.parked is not None and "ZeroDivisionError" in ack.parked
    assert (await raw.put("b", 5)).parked is None
    outcomes = await raw.put_many([("c", 5), ("d", 0), ("e", "text")])
    assert [isinstance(one, RejectedError) or one.parked is not None for one in outcomes] == [False, True, True]
    assert len(outcomes[:]) == 3 and sum(len(chunk.parked) for chunk in [outcomes] if hasattr(chunk, "parked")) in (
        0,
        2,
    )
    await grid.tick()
    entry = await raw.get("a", as_of=ack.epoch)
    assert entry is not None and entry.value == 0 and await out.get("a") is None
    found = {write.key[0]: write for write in await grid.parked()}
    assert set(found) == {"a", "d", "e"}
    told = found["a"]
    assert (told.map, told.op, told.version, told.epoch, told.trigger) == ("raw", "put", 1, ack.epoch, "make")
    assert told.message == ack.parked and not told.superseded and not told.routed
    assert await grid.parked("far") == []
    statuses = [member.status for member in await grid.status() if member.status is not None]
    counts = [(one.map, one.writes) for status in statuses for part in status.partitions for one in part.parked]
    assert sum(count for name, count in counts if name == "raw") == 3

    assert words(await grid.redrive(told.id)) == ["failed"]
    assert {write.tries for write in await grid.parked() if write.id == told.id} == {1}
    await grid.deploy(("module", MENDED))
    (done,) = await grid.redrive(told.id)
    assert done.outcome == "redriven" and done.epoch > ack.epoch
    await grid.tick()
    entry = await out.get("a", as_of=done.epoch)
    assert entry is not None and (entry.value, entry.epoch) == (0, done.epoch)
    assert await out.get("a", as_of=done.epoch - 1) is None
    entry = await far.get(0, as_of=done.epoch)  # in another partition, at the same epoch
    assert entry is not None and entry.value == "a"
    assert words(await grid.redrive(told.id)) == ["gone"]
    assert sorted(words(await grid.redrive(all=True))) == ["failed", "redriven"]
    (left,) = await grid.parked()
    assert left.tries == 1
    await raw.put("e", 4)
    assert (await grid.parked("raw"))[0].superseded
    assert words(await grid.redrive(map="raw")) == ["superseded"]
    assert words(await grid.redrive(left.id, force=True)) == ["failed"]
    assert words(await grid.redrive(left.id, left.id, drop=True)) == ["dropped"]
    assert await grid.parked() == [] and await grid.redrive(all=True) == []


async def test_a_routed_output_is_parked_whatever_its_trigger_says(grid: EmbeddedGrid) -> None:
    raw, far = grid.map("raw"), grid.map("far")
    names = {"bad1": 7, "bad2": 8, "veto": 11, "good": 10}
    locally = {name for name, number in names.items() if _together(name, number)}
    assert not locally, "the test is about outputs that go to another partition"
    for name, number in names.items():
        assert (await raw.put(name, number)).parked is None
    await grid.tick()
    found = await grid.parked("far")
    assert {write.key[0] for write in found} == {7, 8} and all(write.routed for write in found)
    assert all("go_on" in write.message for write in found)
    assert [(await far.get(number)).value for number in (7, 8, 11, 10)] == ["bad1", "bad2", "veto", "good"]  # type: ignore[union-attr]
    await raw.put("bad3", 8)  # a later version of the output, which fails too
    await grid.tick()
    await grid.deploy(("module", MENDED))
    feed = grid.map("end").subscribe(after=grid.closed)
    outcomes = await grid.redrive(map="far")
    assert sorted(words(outcomes)) == ["redriven", "redriven", "superseded"]
    await grid.tick()
    async with feed:
        seen = [(change.key, change.value) async for batch in _first(feed) for change in batch.changes]
    assert sorted(seen) == [((7,), "bad1"), ((8,), "bad3")]


async def _first(feed: object) -> AsyncIterator[object]:
    async for batch in feed:  # type: ignore[attr-defined]
        yield batch
        if batch.changes:
            return


def _together(name: str, number: int) -> bool:
    return partition_of(encode_key(name), 6, 0) == partition_of(encode_key(number), 6, 0)


async def test_a_write_of_a_group_is_parked_and_the_group_stands(grid: EmbeddedGrid) -> None:
    async with grid.commit_group() as group:
        for name, value in (("a", 5), ("b", 0), ("c", 4), ("d", 0)):
            group.map("raw").put(name, value)
    assert [ack.parked is not None for ack in group.outcome.acks] == [False, True, False, True]
    assert {write.key[0] for write in await grid.parked()} == {"b", "d"}
    assert {write.epoch for write in await grid.parked()} == {group.outcome.epoch}
    await grid.deploy(("module", MENDED))
    assert words(await grid.redrive(all=True)) == ["redriven", "redriven"]


async def test_what_is_asked_for_has_to_be_said(grid: EmbeddedGrid) -> None:
    for ids, how in (((), {}), (("1.2.3",), {"all": True}), ((), {"map": "raw", "all": True})):
        with pytest.raises(CallerError, match="say which"):
            await grid.redrive(*ids, **how)  # type: ignore[arg-type]
    for wrong in ("1.2", "x", "6.1.0", "1.1.99999999999", "-1.2.3"):
        with pytest.raises(CallerError, match="no id of a parked write"):
            await grid.redrive(wrong)
    assert words(await grid.redrive("5.1.0")) == ["gone"]


async def test_routed_failures_without_room_are_counted() -> None:
    options = GridOptions(limits=Limits(parked_max=1))
    async with embedded.open(nodes=1, partitions=6, tick=None, options=options) as grid:
        await grid.deploy(("module", BROKEN))
        names = [name for name in ("bad1", "bad2", "bad3", "bad4", "bad5") if not _together(name, 7)]
        for name in names:
            await grid.map("raw").put(name, 7)
        await grid.tick()
        (member,) = await grid.status()
        assert member.status is not None
        assert len(await grid.parked("far")) == 1
        assert sum(part.unparked for part in member.status.partitions) == len(names) - 1 > 0


async def test_a_page_is_no_limit(monkeypatch: pytest.MonkeyPatch, grid: EmbeddedGrid) -> None:
    monkeypatch.setattr("tidegrid.client.parked.PAGE_ROWS", 3)
    monkeypatch.setattr("tidegrid.client.parked.REDRIVE_ROWS", 4)
    await grid.map("raw").put_many([(f"k{number}", 0) for number in range(60)])
    found = await grid.parked()
    assert len({write.id for write in found}) == 60
    await grid.deploy(("module", MENDED))
    outcomes = await grid.redrive(*(write.id for write in reversed(found)))
    assert [outcome.id for outcome in outcomes] == [write.id for write in reversed(found)]
    assert set(words(outcomes)) == {"redriven"} and await grid.parked() == []


HALF = """
import json
from tidegrid.triggers import *
table("raw", key=("k",)); table("out", like="raw"); table("near", key=("n:int",)); stream("end", key=("n:int",))

@trigger(on="raw", emits=("out", "near"), on_error="park")
def make(write):
    kind, text = json.loads(write.value)
    if kind == "fails":
        raise ValueError(text)
    if kind == "rejects":
        raise Reject(text)
    yield Put("near", 1, write.value)

@trigger(on="near", emits="end")
def go_on(write):
    raise ValueError(json.loads(write.value)[1])
"""


async def test_a_text_that_no_utf8_can_say_harms_nobody() -> None:
    """JSON may hold half of a surrogate pair, and an error may quote it; also in a partition that the row was routed to."""
    async with embedded.open(partitions=4, tick=0.005) as grid:
        await grid.deploy(("module", HALF))
        raw = grid.map("raw")
        assert "\\ud83d" in ((await raw.put("a", '["fails", "\\ud83d"]')).parked or "")
        with pytest.raises(RejectedError, match=r"\\ud83d"):
            await raw.put("b", '["rejects", "\\ud83d"]')
        outcomes = await raw.put_many([(key, '["goes on", "\\ud83d"]') for key in "cdefgh"])
        stored = [
            one for one in outcomes if not isinstance(one, RejectedError)
        ]  # those that are not in one partition with it
        assert stored
        await grid.wait_closed(max(one.epoch for one in stored))
        assert grid.local.failure is None and len(await grid.parked()) == 1 + len(stored)
