"""What every Log does, whatever it is made of. A new implementation joins by one line in `LOGS`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from itertools import pairwise
from pathlib import Path

import pytest
from tidegrid.grid.journal.local import LocalLog
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.journal.options import LocalLogOptions
from tidegrid.grid.journal.seam import Log
from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.log.memory_state import MemoryLogState
from tidegrid.grid.model.errors import StoppingError, TooLargeError, WrongTailError
from tidegrid.grid.model.ids import BEFORE_FIRST, CONTROL_LOG, Epoch, LogId, Position

A, B = LogId(0), LogId(7)
PLENTY = 1 << 30

Reopen = Callable[[], Awaitable[Log]]


def memory(directory: Path, gap_seed: int) -> Reopen:
    state = MemoryLogState(gap_seed)

    async def reopen() -> Log:
        return MemoryLog(state)

    return reopen


def local(directory: Path, **options: int) -> Reopen:
    async def reopen() -> Log:
        return await LocalLog.open(directory / "log", options=LocalLogOptions(**options))  # type: ignore[arg-type]

    return reopen


LOGS: dict[str, Callable[[Path], Reopen]] = {
    "memory": lambda directory: memory(directory, 1),
    "memory-other-gaps": lambda directory: memory(directory, 99),
    "local": lambda directory: local(directory, segment_bytes=1 << 22),
    "local-thread-only": lambda directory: local(directory, segment_bytes=1 << 22, inline_sync_bytes_max=0),
    "local-small-segments": lambda directory: local(
        directory, segment_bytes=8192, index_cache_bytes_max=1, open_segments_max=1
    ),
    "local-small-batches": lambda directory: local(directory, segment_bytes=16384, batch_bytes_max=1),
}


@pytest.fixture(params=LOGS)
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Reopen:
    return LOGS[request.param](tmp_path)


@pytest.fixture
async def log(reopen: Reopen) -> AsyncIterator[Log]:
    opened = await reopen()
    yield opened
    await opened.close()


def entry(log: LogId, expected: Position, epoch: int, payload: bytes = b"x") -> Entry:
    return Entry(log, expected, Epoch(epoch), payload)


async def fill(log: Log, name: LogId, epochs: Iterable[int], size: int = 100) -> list[Position]:
    positions: list[Position] = []
    tail = await log.tail(name)
    for epoch in epochs:
        (tail,) = await log.append([entry(name, tail, epoch, bytes([epoch % 256]) * size)])
        positions.append(tail)
    return positions


async def read_all(
    log: Log, name: LogId, after: Position = BEFORE_FIRST, bytes_max: int = PLENTY
) -> list[tuple[Position, int, bytes]]:
    found: list[tuple[Position, int, bytes]] = []
    while records := await log.read(name, after, bytes_max):
        assert all(one.position < other.position for one, other in pairwise(records))
        assert records[0].position > after
        after = records[-1].position
        found += [(record.position, record.epoch, record.payload) for record in records]
    return found


async def test_an_empty_log(log: Log) -> None:
    assert await log.tail(A) == BEFORE_FIRST
    assert await log.read(A, BEFORE_FIRST, 100) == []
    assert await log.position_before(A, Epoch(5)) == BEFORE_FIRST
    assert await log.load_checkpoint(A) is None
    assert log.bytes_written == 0


async def test_what_is_appended_is_read_in_order(log: Log) -> None:
    positions = await fill(log, A, range(1, 20))
    assert positions == sorted(set(positions)) and positions[0] > BEFORE_FIRST
    assert await log.tail(A) == positions[-1]
    assert await read_all(log, A) == [
        (at, epoch, bytes([epoch]) * 100) for at, epoch in zip(positions, range(1, 20), strict=True)
    ]
    assert log.bytes_written >= 19 * 100


async def test_a_tail_covers_what_anybody_was_told_of(log: Log) -> None:
    told: list[Position] = []
    tails: list[Position] = []

    async def write() -> None:
        for number in range(1, 20):
            told.extend(await log.append([entry(A, told[-1] if told else BEFORE_FIRST, number)]))

    async def look() -> None:
        while not writing.done():
            before = told[-1] if told else BEFORE_FIRST
            tails.append(await log.tail(A))
            assert before <= tails[-1]
            assert not tails[-1] or tails[-1] in [position for position, _, _ in await read_all(log, A)]
            await asyncio.sleep(0)

    writing = asyncio.ensure_future(write())
    await asyncio.gather(writing, look())
    assert tails == sorted(tails) and await log.tail(A) == told[-1]


async def test_a_closed_log_tells_no_tail(log: Log) -> None:
    await fill(log, A, [1])
    await log.close()
    with pytest.raises(StoppingError):
        await log.tail(A)


async def test_an_append_with_a_wrong_tail_changes_nothing(log: Log) -> None:
    (first,) = await fill(log, A, [1])
    for expected in (BEFORE_FIRST, Position(first - 1), Position(first + 1)):
        with pytest.raises(WrongTailError) as caught:
            await log.append([entry(A, expected, 2)])
        assert (caught.value.log, caught.value.expected, caught.value.actual) == (A, expected, first)
    assert await log.tail(A) == first
    assert len(await read_all(log, A)) == 1


async def test_an_append_over_several_logs_is_all_or_nothing(log: Log) -> None:
    (tail,) = await fill(log, A, [1])
    with pytest.raises(WrongTailError):
        await log.append([entry(CONTROL_LOG, BEFORE_FIRST, 2), entry(A, BEFORE_FIRST, 2), entry(B, BEFORE_FIRST, 2)])
    assert await log.tail(CONTROL_LOG) == await log.tail(B) == BEFORE_FIRST
    assert await read_all(log, B) == []
    found = await log.append(
        [entry(CONTROL_LOG, BEFORE_FIRST, 2, b"c"), entry(A, tail, 2, b"a"), entry(B, BEFORE_FIRST, 2, b"b")]
    )
    assert [await log.tail(name) for name in (CONTROL_LOG, A, B)] == list(found)
    assert await read_all(log, CONTROL_LOG) == [(found[0], 2, b"c")]
    assert await read_all(log, A, tail) == [(found[1], 2, b"a")]
    assert await read_all(log, B) == [(found[2], 2, b"b")]


async def test_positions_are_not_dense(log: Log) -> None:
    positions = await fill(log, A, range(1, 30))
    assert any(after - before > 1 for before, after in pairwise(positions))


async def test_empty_payloads_and_all_bytes_are_kept(log: Log) -> None:
    payloads = [b"", bytes(range(256)), b"TGB1" * 50, bytes(1000)]
    tail = BEFORE_FIRST
    for payload in payloads:
        (tail,) = await log.append([entry(A, tail, 1, payload)])
    assert [payload for _, _, payload in await read_all(log, A)] == payloads


async def test_of_concurrent_appends_at_one_tail_one_wins(log: Log) -> None:
    outcomes = await asyncio.gather(
        *(log.append([entry(A, BEFORE_FIRST, 1, bytes([number]))]) for number in range(10)), return_exceptions=True
    )
    won = [outcome for outcome in outcomes if isinstance(outcome, tuple)]
    assert len(won) == 1
    lost = [outcome for outcome in outcomes if isinstance(outcome, WrongTailError)]
    assert len(lost) == 9
    assert {error.actual for error in lost} == set(won[0]) == {await log.tail(A)}
    assert len(await read_all(log, A)) == 1


async def test_concurrent_appends_to_many_logs_all_land(log: Log) -> None:
    names = [LogId(number) for number in range(-1, 15)]
    landed = await asyncio.gather(*(fill(log, name, range(1, 12)) for name in names))
    for name, positions in zip(names, landed, strict=True):
        assert [at for at, _, _ in await read_all(log, name)] == positions
    everything = [at for positions in landed for at in positions]
    assert len(set(everything)) == len(everything)


async def test_a_cancelled_append_lands_or_not_but_breaks_nothing(log: Log) -> None:
    task = asyncio.ensure_future(log.append([entry(A, BEFORE_FIRST, 1, b"first")]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (after,) = await log.append([entry(B, BEFORE_FIRST, 1)])
    assert await log.tail(B) == after
    assert await log.tail(A) > BEFORE_FIRST
    assert [payload for _, _, payload in await read_all(log, A)] == [b"first"]


@pytest.mark.parametrize("bytes_max", [1, 130, 1000, 5000])
async def test_reads_are_bounded_and_go_on_where_they_ended(log: Log, bytes_max: int) -> None:
    await fill(log, B, range(1, 10))
    positions = await fill(log, A, range(1, 40))
    await fill(log, B, range(10, 20))
    assert [at for at, _, _ in await read_all(log, A, bytes_max=bytes_max)] == positions
    batch = await log.read(A, BEFORE_FIRST, bytes_max)
    assert 1 <= len(batch) <= max(1, bytes_max // 100)


async def test_reads_begin_after_any_position(log: Log) -> None:
    positions = await fill(log, A, range(1, 30))
    for number, position in enumerate(positions):
        assert [at for at, _, _ in await read_all(log, A, position)] == positions[number + 1 :]
        assert [at for at, _, _ in await read_all(log, A, Position(position - 1))] == positions[number:]
    assert await log.read(A, Position(positions[-1] + 1000), PLENTY) == []


async def test_no_read_leaves_out_a_record_between_larger_and_smaller_ones(log: Log) -> None:
    tail, sizes = BEFORE_FIRST, [1200, 15, 900, 1500, 3, 700, 1, 2000, 40] * 6
    for number, size in enumerate(sizes):
        (tail,) = await log.append([entry(A, tail, number, bytes(size))])
    for bytes_max in (1, 500, 1600, 3000, 4100, 9000):
        assert [len(payload) for _, _, payload in await read_all(log, A, bytes_max=bytes_max)] == sizes


async def test_large_reads(log: Log) -> None:
    positions = await fill(log, A, range(1, 9), size=200_000)
    assert [at for at, _, _ in await read_all(log, A, bytes_max=900_000)] == positions


async def test_the_position_before_an_epoch(log: Log) -> None:
    epochs = [2, 2, 5, 5, 5, 9, 10] * 1 + [12] * 40 + [13, 13, 20]
    await fill(log, B, range(3, 25))
    positions = await fill(log, A, epochs)
    for epoch in range(25):
        before = await log.position_before(A, Epoch(epoch))
        at_or_below = [at for at, of in zip(positions, epochs, strict=True) if of <= epoch]
        assert before == (at_or_below[-1] if at_or_below else BEFORE_FIRST)
        above = [at for at, of in zip(positions, epochs, strict=True) if of > epoch]
        assert [at for at, _, _ in await read_all(log, A, before)] == above


async def test_a_log_that_was_quiet_for_long_is_found(log: Log) -> None:
    early = await fill(log, A, [1, 2])
    await fill(log, B, range(1, 150), size=300)
    assert [at for at, _, _ in await read_all(log, A)] == early
    assert await log.position_before(A, Epoch(1)) == early[0]
    assert await log.position_before(A, Epoch(50)) == early[1]
    late = await fill(log, A, [200])
    await fill(log, B, range(150, 200), size=300)
    assert [at for at, _, _ in await read_all(log, A, bytes_max=1)] == early + late
    assert await log.position_before(A, Epoch(150)) == early[1]


async def test_a_follower_is_woken_for_its_log_until_it_ends(log: Log) -> None:
    woken: list[str] = []
    end_a = log.follow(A, lambda: woken.append("a"))
    end_b = log.follow(B, lambda: woken.append("b"))
    await fill(log, A, [1])
    assert woken == ["a"]
    await log.append([entry(A, await log.tail(A), 2), entry(B, BEFORE_FIRST, 2)])
    assert sorted(woken) == ["a", "a", "b"]
    end_a()
    end_a()
    await fill(log, A, [3])
    await fill(log, B, [3])
    assert sorted(woken) == ["a", "a", "b", "b"]
    end_b()


async def test_what_a_follower_is_woken_for_can_be_read(log: Log) -> None:
    seen: list[Position] = []
    woken = asyncio.Event()
    log.follow(A, woken.set)

    async def follow() -> None:
        after = BEFORE_FIRST
        while len(seen) < 30:
            await woken.wait()
            woken.clear()
            while records := await log.read(A, after, 250):
                after = records[-1].position
                seen.extend(record.position for record in records)

    following = asyncio.ensure_future(follow())
    positions = await fill(log, A, range(1, 31))
    await following
    assert seen == positions


async def test_a_record_over_the_limit_is_refused_whole(log: Log) -> None:
    with pytest.raises(TooLargeError):
        await log.append([entry(A, BEFORE_FIRST, 1), entry(B, BEFORE_FIRST, 1, bytes(1 << 20))])
    assert await log.tail(A) == await log.tail(B) == BEFORE_FIRST
    assert len(await fill(log, A, [1], size=1024 * 1024 - 4096)) == 1


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_checkpoints_replace_each_other(log: Log) -> None:
    first, second = await fill(log, A, [1, 2])
    await log.save_checkpoint(A, first, chunks(b"one", b"", b"x" * 100_000))
    await log.save_checkpoint(CONTROL_LOG, BEFORE_FIRST, chunks())
    found = await log.load_checkpoint(A)
    assert found is not None
    assert (found.log, found.position, list(found.chunks)) == (A, first, [b"one", b"", b"x" * 100_000])
    await log.save_checkpoint(A, second, chunks(b"two"))
    found = await log.load_checkpoint(A)
    assert found is not None and (found.position, list(found.chunks)) == (second, [b"two"])
    control = await log.load_checkpoint(CONTROL_LOG)
    assert control is not None and list(control.chunks) == []
    assert await log.load_checkpoint(B) is None


async def test_a_checkpoint_that_breaks_off_changes_nothing(log: Log) -> None:
    (position,) = await fill(log, A, [1])
    await log.save_checkpoint(A, position, chunks(b"old"))

    async def broken() -> AsyncIterator[bytes]:
        yield b"new"
        raise RuntimeError("the owner failed")

    with pytest.raises(RuntimeError, match="the owner failed"):
        await log.save_checkpoint(A, position, broken())
    found = await log.load_checkpoint(A)
    assert found is not None and list(found.chunks) == [b"old"]


async def test_compaction_lets_go_of_nothing_else(reopen: Reopen) -> None:
    log = await reopen()
    positions = {name: await fill(log, name, range(1, 60), size=400) for name in (A, CONTROL_LOG, B)}
    before = {name: await read_all(log, name) for name in positions}
    through = positions[CONTROL_LOG][40]

    def fold(records: Iterable[LogRecord]) -> bytes:
        """The epochs that are folded."""
        found = [record.payload[1:] if record.payload[:1] == b"f" else bytes([record.epoch]) for record in records]
        return b"f" + b"".join(found)

    assert await log.compact(CONTROL_LOG, BEFORE_FIRST, fold) == 0
    saved = await log.compact(CONTROL_LOG, through, fold)
    assert saved >= 0 and await log.compact(CONTROL_LOG, through, fold) == 0
    for _ in range(2):
        assert {name: await log.tail(name) for name in positions} == {name: at[-1] for name, at in positions.items()}
        assert [await read_all(log, name) for name in (A, B)] == [before[name] for name in (A, B)]
        control = await read_all(log, CONTROL_LOG)
        assert [row for row in control if row[0] > through] == before[CONTROL_LOG][41:]
        places = [(at, epoch) for at, epoch, _ in before[CONTROL_LOG]]
        assert all((at, epoch) in places for at, epoch, _ in control)
        epochs = b""
        for _, epoch, payload in control:
            epochs = payload[1:] if payload[:1] == b"f" else epochs + bytes([epoch])
        assert epochs == bytes(range(1, 60)), "a folded record stands for all before it"
        await log.close()
        log = await reopen()
    await log.close()
    with pytest.raises(StoppingError):
        await log.compact(CONTROL_LOG, through, fold)


async def test_all_is_there_after_reopening(reopen: Reopen) -> None:
    log = await reopen()
    positions = {name: await fill(log, name, range(1, 40)) for name in (A, B, CONTROL_LOG)}
    await log.save_checkpoint(A, positions[A][20], chunks(b"state"))
    await log.close()
    for round_number in range(3):
        log = await reopen()
        assert log.bytes_written == 0
        for name, expected in positions.items():
            assert await log.tail(name) == expected[-1]
            assert [at for at, _, _ in await read_all(log, name)] == expected
            assert await log.position_before(name, Epoch(17)) == expected[16]
        found = await log.load_checkpoint(A)
        assert found is not None and (found.position, list(found.chunks)) == (positions[A][20], [b"state"])
        positions[A] += await fill(log, A, [100 + round_number])
        await log.close()


async def test_close_lands_what_is_in_flight_and_refuses_the_rest(reopen: Reopen) -> None:
    log = await reopen()
    appends = [asyncio.ensure_future(log.append([entry(LogId(number), BEFORE_FIRST, 1)])) for number in range(5)]
    await asyncio.sleep(0)
    await asyncio.gather(log.close(), log.close())
    await log.close()
    assert all(append.done() for append in appends)
    tails = [(await append)[0] for append in appends]
    for call in (log.append([entry(B, BEFORE_FIRST, 1)]), log.read(A, BEFORE_FIRST, 1), log.load_checkpoint(A)):
        with pytest.raises(StoppingError):
            await call
    log = await reopen()
    assert [await log.tail(LogId(number)) for number in range(5)] == tails
    await log.close()
