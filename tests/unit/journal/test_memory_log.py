"""What tests ask of the log in memory: appends held in flight, and failures."""

from __future__ import annotations

import asyncio

import pytest
from tidegrid.grid.journal.memory import MemoryLog
from tidegrid.grid.log.entry import Entry
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
