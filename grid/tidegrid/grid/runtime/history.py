"""One page of a key's history: reads the log where memory no longer holds it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tidegrid.grid.engine.history import READ_BYTES, Cursor, HistoryPage, LogPage, page_from_memory
from tidegrid.grid.engine.reads import HistoryRequest
from tidegrid.grid.model.errors import EpochTooOldError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, PartitionId, partition_log
from tidegrid.grid.runtime.driver import Driver

Ask = Callable[[Cursor], Awaitable[HistoryRequest]]
"""Has the engine answer from memory above a cursor; the request's `error` is raised here."""


async def history_page(
    driver: Driver, ask: Ask, map_name: str, number: PartitionId, key: bytes, cursor: Cursor, through: Epoch | None
) -> HistoryPage:
    """The versions of `key` after `cursor` with an epoch of at most `through`. Raises what the engine and log raise,
    and EpochTooOldError where a map with a fold has let go of its states."""
    while True:
        request = await ask(cursor)
        if request.error is not None:
            raise request.error
        if not request.below:
            return page_from_memory(request.versions, cursor, through)
        last = request.below if through is None else min(through, request.below)
        partition, control = driver.node.partitions[number], driver.node.control
        spec = control.declared[map_name]
        if spec.merged:
            raise EpochTooOldError.of(cursor.epoch, control.horizon)
        page = LogPage(partition, map_name, key, cursor, last, control.limit_span if spec.derived else 0)
        name = partition_log(number)
        if page.position == BEFORE_FIRST:
            page.position = await driver.log.position_before(name, page.begins_above)
        while page.wanted:
            page.give(await driver.log.read(name, page.position, READ_BYTES))
        page_cursor = Cursor(last) if page.complete else page.cursor
        if page.complete and last == through:
            return HistoryPage(page.versions, page_cursor, False)
        if page.versions or not page.complete:
            return HistoryPage(page.versions, page_cursor, True)
        cursor = page_cursor
