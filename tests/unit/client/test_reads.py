from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tidegrid.client import Grid, connect
from tidegrid.client import scan as scan_module
from tidegrid.grid.model.errors import CallerError, DeadlineError, MapExistsError, TooLargeError, UnavailableError
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.maps import MapKind

from tests.unit.client.fake_grid import FakeGrid


async def test_as_of_is_repeatable(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    first = await m.put("a", 1)
    fake.tick()
    second = await m.put("a", 2)
    fake.tick()
    for epoch, value in ((first.epoch, 1), (second.epoch, 2)):
        entry = await m.get("a", as_of=epoch)
        assert entry is not None and entry.value == value
    assert await m.get("a", as_of=1) is None


async def test_reads_that_wait_hold_nobody_up(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    waiting = [asyncio.ensure_future(m.get("a", at_least=fake.epoch + index % 2)) for index in range(10)]
    await m.put("a", 1)
    entry = await m.get("a")
    assert entry is not None and not any(read.done() for read in waiting)
    fake.tick(2)
    assert [entry and entry.value for entry in await asyncio.gather(*waiting)] == [1] * 10


async def test_an_epoch_that_does_not_close(fake: FakeGrid, grid: Grid) -> None:
    with pytest.raises(DeadlineError):
        await grid.map("m").get("a", as_of=fake.epoch, deadline=0.1)
    with pytest.raises(DeadlineError):
        await grid.wait_closed(fake.epoch, deadline=0.1)


async def test_concurrent_gets_share_messages(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    await m.put_many((index, index) for index in range(500))
    fake.requests.clear()
    entries = await asyncio.gather(*(m.get(index) for index in range(500)))
    assert [entry and entry.value for entry in entries] == list(range(500))
    assert len(fake.requests) == 1


async def test_a_lost_read_is_asked_again(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    await m.put("a", 1)
    fake.lose_answers = 2
    entry = await m.get("a")
    assert entry is not None and entry.value == 1


async def test_an_answer_too_large_for_a_message_is_asked_in_parts(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    await m.put_many((index, index) for index in range(100))
    read = fake.read

    async def narrow(batch: object, deadline_ms: int) -> object:
        answer = await read(batch, deadline_ms)  # type: ignore[arg-type]
        if len(batch.keys) > 20:  # type: ignore[attr-defined]
            from tests.unit.client.fake_grid import error_message

            answer.Clear()
            answer.error.CopyFrom(error_message(TooLargeError.of("message", 5, 4)))
        return answer

    fake.read = narrow  # type: ignore[method-assign,assignment]
    assert [entry and entry.value for entry in await m.get_many(range(100))] == list(range(100))


KEYS = st.one_of(
    st.integers(0, 50), st.tuples(st.sampled_from("ab"), st.integers(0, 9)), st.sampled_from(["a", "a\0", "ab"])
)


@settings(max_examples=60)
@given(
    st.lists(KEYS, max_size=60),
    st.booleans(),
    st.one_of(st.none(), st.integers(0, 20)),
    st.one_of(st.none(), KEYS),
    st.integers(1, 7),
)
async def test_scan_is_the_sorted_model(
    keys: list[object], reverse: bool, limit: int | None, begin: object, page: int
) -> None:
    fake = FakeGrid(partitions=3, nodes=2)
    fake.add_map("m")
    original, scan_module.PAGE_ROWS = scan_module.PAGE_ROWS, page  # type: ignore[misc]
    try:
        async with connect("node0:1", transport=fake.transport()) as grid:
            m = grid.map("m")
            await m.put_many((key, index) for index, key in enumerate(keys))
            model = {encode_key(key): index for index, key in enumerate(keys)}
            expected = sorted((key, value) for key, value in model.items() if begin is None or key >= encode_key(begin))
            expected = sorted(expected, reverse=reverse)[:limit]
            found = [(entry.raw_key, entry.value) async for entry in m.scan(begin=begin, limit=limit, reverse=reverse)]
            assert found == expected
            under_a = [entry.key async for entry in m.scan(prefix=("a",), reverse=reverse)]
            assert all(key[0] == "a" and len(key) == 2 for key in under_a)
            assert len(under_a) == len({key for key in keys if isinstance(key, tuple) and key[0] == "a"})
    finally:
        scan_module.PAGE_ROWS = original  # type: ignore[misc]


async def test_a_scan_left_early_leaves_nothing(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    await m.put_many((index, index) for index in range(10_000))
    scan = m.scan()
    async for entry in scan:
        assert entry.value == 0
        break
    await scan.aclose()  # type: ignore[attr-defined]
    with pytest.raises(CallerError):
        async for _ in m.scan(prefix=("a",), begin=1):
            pass


async def test_a_scan_goes_on_at_the_new_owner() -> None:
    fake = FakeGrid(partitions=2, nodes=2)
    fake.add_map("m")
    async with connect("node0:1", transport=fake.transport()) as grid:
        m = grid.map("m")
        await m.put_many((index, index) for index in range(5_000))
        seen = []
        async for entry in m.scan():
            seen.append(entry.value)
            if len(seen) == 1_500:
                fake.move(0, 1)
        assert seen == list(range(5_000))


async def test_create_map_and_status(fake: FakeGrid, grid: Grid) -> None:
    asyncio.get_running_loop().call_later(0.01, fake.tick)
    made = await grid.create_map("planes", kind=MapKind.REFERENCE, key=("tailnum",))
    assert (await made.spec()).kind is MapKind.REFERENCE
    with pytest.raises(MapExistsError):
        await grid.create_map("planes")
    (status,) = await grid.status()
    assert status.status is not None and status.status.closed == fake.closed
    fake.kill(0)
    (status,) = await grid.status()
    assert isinstance(status.error, UnavailableError)


async def test_affinity_puts_related_keys_together() -> None:
    fake = FakeGrid(partitions=8)
    fake.add_map("m", affinity=1)
    async with connect("node0:1", transport=fake.transport()) as grid:
        m = grid.map("m")
        await asyncio.gather(*(m.put(("k", index), index) for index in range(50)))
        assert {batch.partition for request in fake.requests for batch in request.writes} == {
            fake.partition_of("m", encode_key(("k", 1)))
        }
        entry = await m.get(("k", 3))
        assert entry is not None and entry.value == 3
