"""What tests ask of the log in memory: appends held in flight, and failures."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

import pytest
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.log.entry import Entry, LogRecord
from tidegrid.grid.log.memory_state import MemoryLogState
from tidegrid.grid.model.errors import LogFailedError, StorageFullError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, LogId

A, B = LogId(0), LogId(1)


def entry(log: LogId) -> Entry:
    return Entry(log, BEFORE_FIRST, Epoch(1), b"x")


async def test_a_held_append_is_in_flight_until_released() -> None:
    log = MemoryLog()
    log.hold()
    held = [asyncio.ensure_future(log.append([entry(name)])) for name in (A, B)]
    await asyncio.sleep(0)
    assert log.in_flight == 2
    held[0].cancel()
    assert await log.tail(A) == await log.tail(B) == BEFORE_FIRST
    log.release()
    await held[1]
    assert held[0].cancelled() and log.in_flight == 0
    assert BEFORE_FIRST < await log.tail(A) < await log.tail(B)


async def test_close_lets_go_of_a_hold() -> None:
    log = MemoryLog()
    log.hold()
    held = asyncio.ensure_future(log.append([entry(A)]))
    await asyncio.sleep(0)
    assert log.in_flight == 1
    await asyncio.gather(log.close(), log.close())
    assert held.done() and log.state.tail(A) > BEFORE_FIRST


async def test_failures_and_a_new_handle() -> None:
    state = MemoryLogState()
    log = MemoryLog(state)
    log.fail_next(StorageFullError("full"))
    with pytest.raises(StorageFullError):
        await log.append([entry(A)])
    log.fail_next(LogFailedError("gone"), landed=True)
    for _ in range(2):
        with pytest.raises(LogFailedError):
            await log.append([entry(A)])
    assert log.failed
    await log.close()
    state.reopen()
    again = MemoryLog(state)
    assert await again.tail(A) > BEFORE_FIRST and again.bytes_written == 0


class HeldFold:
    """Holds each fold after its first record, in whatever thread, until `gate` is set."""

    def __init__(self) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()

    def __call__(self, records: Iterable[LogRecord]) -> bytes:
        count = 0
        for _ in records:
            count += 1
            self.begun.set()
            self.gate.wait()
        return b"%d" % count


async def ten(log: MemoryLog) -> None:
    for _ in range(10):
        await log.append([Entry(A, await log.tail(A), Epoch(1), b"some bytes")])


async def test_it_serves_while_it_compacts() -> None:
    log, fold = MemoryLog(), HeldFold()
    await ten(log)
    through = await log.tail(A)
    work = asyncio.ensure_future(log.compact(A, through, fold))
    await asyncio.to_thread(fold.begun.wait)
    await ten(log)
    assert len(await log.read(A, BEFORE_FIRST, 1 << 20)) == 20
    fold.gate.set()
    assert await work == 98
    records = await log.read(A, BEFORE_FIRST, 1 << 20)
    assert (records[0].position, records[0].payload) == (through, b"10") and len(records) == 11


@pytest.mark.parametrize("end", ["close", "cancel"])
async def test_a_compaction_that_nobody_waits_for_changes_nothing(end: str) -> None:
    log, fold = MemoryLog(), HeldFold()
    await ten(log)
    work = asyncio.ensure_future(log.compact(A, await log.tail(A), fold))
    await asyncio.to_thread(fold.begun.wait)
    if end == "close":
        await log.close()
        fold.gate.set()
        assert await work == 0
    else:
        work.cancel()
        await asyncio.wait([work])
        fold.gate.set()
        assert work.cancelled()
    assert len(log.state.read(A, BEFORE_FIRST, 1 << 20)) == 10
