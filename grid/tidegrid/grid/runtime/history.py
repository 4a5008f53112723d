"""One page of a key's history: reads the log where memory no longer holds it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tidegrid.grid.engine.history import READ_BYTES, Cursor, HistoryPage, LogPage, page_from_memory
from tidegrid.grid.engine.reads import HistoryRequest
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, PartitionId, partition_log
from tidegrid.grid.runtime.driver import Driver

Ask = Callable[[Cursor], Awaitable[HistoryRequest]]
"""Has the engine answer from memory above a cursor; the request's `error` is raised here."""


async def history_page(
    driver: Driver, ask: Ask, map_name: str, number: PartitionId, key: bytes, cursor: Cursor, through: Epoch | None
) -> HistoryPage:
    """The versions of `key` after `cursor` with an epoch of at most `through`. Raises what the engine and log raise."""
    while True:
        request = await ask(cursor)
        if request.error is not None:
            raise request.error
        if not request.below:
            return page_from_memory(request.versions, cursor, through)
        last = request.below if through is None else min(through, request.below)
        partition = driver.node.partitions[number]
        page = LogPage(partition, map_name, key, cursor, last)
        name = partition_log(number)
        position = cursor.position
        if position == BEFORE_FIRST:
            position = await driver.log.position_before(name, cursor.epoch)
        while page.wanted:
            page.give(await driver.log.read(name, position, READ_BYTES))
            position = page.cursor.position
        if page.complete and last == through:
            return HistoryPage(page.versions, page.cursor, False)
        if page.complete:
            page.cursor = Cursor(last)
        if page.versions or not page.complete:
            return HistoryPage(page.versions, page.cursor, True)
        cursor = page.cursor
