from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from tidegrid.client import Ack, Grid, NamedSession, connect
from tidegrid.grid.model.errors import (
    BusyError,
    DeadlineError,
    InvalidKeyError,
    InvalidValueError,
    RejectedError,
    TooLargeError,
)
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import decode_value

from tests.unit.client.fake_grid import FakeGrid, until


async def test_one_outcome_per_row_in_order(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    outcomes = await m.put_many((index, {"n": index}) for index in range(5_000))
    assert outcomes == [Ack(1, 5, False)] * 5_000
    assert len(fake.requests) == 3
    assert await m.put_many({"a": 1, "b": 2}) == [Ack(1, 5, False)] * 2
    assert await m.put_many([]) == []


async def test_no_row_is_hidden(fake: FakeGrid, grid: Grid) -> None:
    def refuse(batch: object, index: int) -> RejectedError | None:
        return RejectedError("no", trigger="t", line=1) if batch.keys[index] == encode_key(7) else None  # type: ignore[attr-defined]

    fake.refuse_writes = refuse
    rows = [(1, 1), (float("nan"), 1), (2, object()), (7, 1), (3, 3), "x", ("x" * 5_000, 1)]
    outcomes = await grid.map("m").put_many(rows)
    kinds = [type(outcome) for outcome in outcomes]
    assert kinds == [Ack, InvalidKeyError, InvalidValueError, RejectedError, Ack, InvalidValueError, TooLargeError]


async def test_lost_answers_double_nothing(fake: FakeGrid, grid: Grid) -> None:
    fake.lose_answers = 4
    outcomes = await grid.map("m").put_many((index, index) for index in range(20_000))
    assert all(isinstance(outcome, Ack) and outcome.version == 1 for outcome in outcomes)
    assert any(outcome.repeated for outcome in outcomes if isinstance(outcome, Ack))
    assert len(set(fake.applied)) == len(fake.applied) == 20_000


async def test_writes_to_one_key_keep_their_order(fake: FakeGrid, grid: Grid) -> None:
    turn = iter(range(10**9))
    fake.refuse_writes = lambda batch, index: BusyError.of("queue", 1) if index == 0 and next(turn) % 3 == 0 else None
    fake.limits = Limits(batch_writes_max=10)
    await grid.refresh()
    fake.refuse_writes = None
    refusals = iter([BusyError.of("the queue", 1), None, BusyError.of("the queue", 1), None, None] * 1000)

    async def shuffle(request: object) -> None:
        refusal = next(refusals)
        if refusal is not None:
            fake.refuse.append(refusal)

    fake.before_answer = shuffle
    outcomes = await grid.map("m").put_many((index % 7, index) for index in range(2_000))
    assert all(isinstance(outcome, Ack) for outcome in outcomes)
    for key in range(7):
        values = [decode_value(value or b"") for *_, value in fake.chains["m", encode_key(key)]]
        assert values == sorted(values)


async def test_memory_is_bounded(fake: FakeGrid, grid: Grid) -> None:
    taken = 0

    def rows() -> Iterator[tuple[int, int]]:
        nonlocal taken
        for index in range(1_000_000):
            taken += 1
            yield index, index

    done = 0
    async for outcomes in grid.map("m").put_stream(rows()):
        assert outcomes.first == done
        done += len(outcomes)
        assert taken - done <= 5 * 2_000
        if done >= 30_000:
            break


async def test_rows_of_a_slow_source_go_out_as_they_come(fake: FakeGrid, grid: Grid) -> None:
    sent = asyncio.Event()

    async def rows() -> AsyncIterator[tuple[int, int]]:
        yield 1, 1
        await until(lambda: fake.applied)
        sent.set()
        for index in range(2, 10_000):
            yield index, index

    outcomes = await grid.map("m").put_many(rows())
    assert len(outcomes) == 9_999 and sent.is_set()


async def test_an_async_source_that_fails(fake: FakeGrid, grid: Grid) -> None:
    async def rows() -> AsyncIterator[tuple[int, int]]:
        yield 1, 1
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        await grid.map("m").put_many(rows())


async def test_a_named_load_repeated_changes_nothing(fake: FakeGrid) -> None:
    rows = [(index % 900, {"n": index}) for index in range(3_000)]
    rows.insert(100, (float("nan"), {}))
    rows.insert(200, ("big", "x" * 2_000))

    async def load(limits: Limits, rows: list[tuple[object, object]]) -> list[object]:
        fake.limits = limits
        async with connect("node0:1", transport=fake.transport()) as grid:
            outcomes: list[object] = []
            async for part in grid.map("m").put_stream(rows, session=NamedSession(b"file")):
                outcomes.extend(part)
            return outcomes

    await load(Limits(), rows[:1_000])
    assert len(fake.applied) == 999
    outcomes = await load(Limits(value_bytes_max=1_000, batch_writes_max=64), rows)  # what is refused keeps its number
    assert [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, Ack)] == [100, 200]
    assert [outcome.repeated for outcome in outcomes if isinstance(outcome, Ack)] == [True] * 998 + [False] * 2_002
    await load(Limits(), rows)
    assert len(set(fake.applied)) == len(fake.applied) == 3_001
    assert all(
        batch.lowest_unanswered == 0 and batch.session[0] == 2 for request in fake.requests for batch in request.writes
    )


async def test_a_named_session_names_other_writes_in_another_map(fake: FakeGrid, grid: Grid) -> None:
    fake.add_map("other", key=())
    session = NamedSession(b"file")
    for name in ("m", "other", "m"):
        async for part in grid.map(name).put_stream([(1, 1), (2, 2)], session=session):
            assert all(isinstance(outcome, Ack) for outcome in part)
    sessions = [batch.session for request in fake.requests for batch in request.writes]
    assert len(set(sessions)) == 2 and all(one[0] == 2 for one in sessions)


async def test_a_chunk_that_is_not_answered(fake: FakeGrid, grid: Grid) -> None:
    fake.swallow_answers = 1
    outcomes = await grid.map("m").put_many(((index, 1) for index in range(3_000)), deadline=2)
    assert sum(isinstance(outcome, DeadlineError) for outcome in outcomes) == 2_000
    assert sum(isinstance(outcome, Ack) for outcome in outcomes) == 1_000


async def test_puts_go_on_beside_a_load(fake: FakeGrid, grid: Grid) -> None:
    m = grid.map("m")
    load = asyncio.ensure_future(m.put_many((index, index) for index in range(40_000)))
    acks = [await m.put(("p", index), index) for index in range(5)]
    assert not load.done() and len(acks) == 5
    assert len(await load) == 40_000
    assert len(set(fake.applied)) == len(fake.applied) == 40_005
