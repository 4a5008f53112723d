"""Nodes that neither answer nor break: whoever owns their partitions now answers in their place, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise

import pytest
from tidegrid.client import Ack, Grid, connect
from tidegrid.client.patience import SILENCE_SECONDS_MAX, UNANSWERED_SECONDS, Silences, first_answer, first_hello
from tidegrid.grid.model.errors import DeadlineError, UnavailableError

from tests.unit.client.fake_grid import FakeGrid, until


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in ("patience", "lane", "dispatcher", "feed"):
        monkeypatch.setattr(f"tidegrid.client.{module}.UNANSWERED_SECONDS", 0.03)
    monkeypatch.setattr("tidegrid.client.patience.HELLO_PATIENCE_SECONDS", 0.02)
    yield


@pytest.fixture
async def fake() -> AsyncIterator[FakeGrid]:
    made = FakeGrid(partitions=2, nodes=2)
    made.add_map("m")
    yield made
    made.hung.clear()
    made.changed()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("tidegrid")]


@pytest.fixture
async def grid(fake: FakeGrid) -> AsyncIterator[Grid]:
    async with connect(["node0:1", "node1:1"], deadline=30, transport=fake.transport()) as opened:
        yield opened


def take_over(fake: FakeGrid) -> None:
    """Node 1 has all that node 0 had."""
    for partition in range(fake.partitions):
        fake.move(partition, 1)


@pytest.mark.parametrize("work_then_hang", [False, True])
async def test_writes_go_to_the_new_owner_and_are_done_once(fake: FakeGrid, grid: Grid, work_then_hang: bool) -> None:
    m = grid.map("m")
    await asyncio.gather(*(m.put(key, 0) for key in range(20)))
    fake.work_then_hang = work_then_hang
    fake.hung.add(0)
    puts = [asyncio.ensure_future(m.put(key, 1)) for key in range(20)]
    hellos = fake.hellos
    await until(lambda: fake.hellos > hellos + 1)  # it asks again and again; nothing has moved
    assert not all(put.done() for put in puts)
    take_over(fake)
    acks = await asyncio.gather(*puts)
    assert [ack.version for ack in acks] == [2] * 20
    assert any(ack.repeated for ack in acks) is work_then_hang
    assert len(set(fake.applied)) == len(fake.applied)
    fake.hung.clear()  # and the late answers of node 0 hurt nobody
    fake.changed()
    assert await m.put(0, 2) == Ack(3, 5)


async def test_reads_go_to_the_new_owner(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    await asyncio.gather(*(m.put(key, key) for key in range(20)))
    fake.tick()
    fake.hung.add(0)
    reads = asyncio.gather(
        m.get_many(range(20)), m.get_many(range(20), as_of=5), m.get_many(range(20), consistency="linearizable")
    )
    take_over(fake)
    for found in await reads:
        assert [entry and entry.value for entry in found] == list(range(20))


async def test_scans_and_questions_go_elsewhere(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    await asyncio.gather(*(m.put(key, key) for key in range(20)))
    fake.hung.add(0)

    async def rows() -> list[object]:
        return [entry.value async for entry in m.scan()]

    scanning = asyncio.ensure_future(rows())
    waiting = asyncio.ensure_future(grid.wait_closed(5))
    await until(lambda: fake.waits)  # node 1 was asked in place of node 0, which owns as much
    fake.tick()
    assert await waiting == 5
    take_over(fake)
    assert await scanning == list(range(20))


async def test_where_nothing_moves_the_deadline_counts(fake: FakeGrid, grid: Grid) -> None:
    keys = range(20)
    await asyncio.gather(*(grid.map("m").put(key, 0) for key in keys))
    fake.hung.add(0)
    done = await asyncio.gather(*(grid.map("m").put(key, 1, deadline=0.2) for key in keys), return_exceptions=True)
    assert {type(outcome) for outcome in done} == {Ack, DeadlineError}


async def test_a_feed_of_a_silent_node_goes_on_with_the_new_owner(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    async with m.subscribe(after=4) as feed:
        await asyncio.gather(*(m.put(key, 0) for key in range(20)))
        fake.tick()
        assert len(await anext(feed)) == 20
        fake.hung.add(0)
        take_over(fake)
        await grid.refresh()
        await asyncio.gather(*(m.put(key, 1) for key in range(20)))
        fake.tick()
        batch = await anext(feed)
        assert [change.version for change in batch.changes] == [2] * 20


async def test_the_first_who_answers_is_heard() -> None:
    asked: list[str] = []

    async def call(name: str) -> str:
        asked.append(name)
        if name == "hangs":
            await asyncio.Event().wait()
        if name == "fails":
            raise UnavailableError("no", address=name)
        return name

    names = iter(["fails", "well", "never"])

    async def another() -> str | None:
        return next(names)

    assert await first_answer(call, "hangs", another) == "well" and asked == ["hangs", "fails", "well"]
    with pytest.raises(UnavailableError):
        await first_answer(call, "fails", another)
    asked.clear()
    nobody = UnavailableError("nobody", address="")
    assert await first_hello(call, ["fails", "hangs", "well"], nobody) == "well"
    assert asked == ["fails", "hangs", "well"]
    with pytest.raises(UnavailableError, match="nobody"):
        await first_hello(call, [], nobody)


def test_a_quiet_stream_is_asked_about_ever_more_seldom() -> None:
    silences, asked, now = Silences(), [], 0.0
    silences.heard(1, now)
    while now < 60:
        now += UNANSWERED_SECONDS / 8
        if silences.due(now, behind=False):
            asked.append(now)
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses == sorted(pauses) and pauses[-1] == pytest.approx(SILENCE_SECONDS_MAX)
    assert silences.due(now + 9, behind=True) == [1]
    assert silences.due(now + 9 + UNANSWERED_SECONDS, behind=True) == [1]
    silences.forget(1)
    assert not silences.due(now + 99, behind=True)
