"""Waiting for closes when nobody tells of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tidegrid.client import Grid
from tidegrid.grid.model.errors import DeadlineError, UnavailableError
from tidegrid.v1 import grid_pb2

from tests.unit.client.fake_grid import FakeGrid

GONE = UnavailableError("nothing answers at node0:1", address="node0:1", reached=False)


class Asked:
    """Of closes, only those who have time are answered."""

    def __init__(self, grid: Grid, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self._ask = grid._dispatcher.ask
        self._seconds = seconds
        self.begun = asyncio.Event()
        monkeypatch.setattr(grid._dispatcher, "ask", self)

    async def __call__(self, method: str, request: Any, until: float, *more: Any) -> Any:
        if method != "WaitEpoch":
            return await self._ask(method, request, until, *more)
        self.begun.set()
        await asyncio.sleep(0)
        if until - asyncio.get_running_loop().time() < self._seconds:
            raise GONE
        return grid_pb2.WaitEpochReply(closed=request.closed)


async def test_what_is_stored_is_told_of_though_nobody_knows_whether_it_is_closed(
    fake: FakeGrid, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    Asked(grid, monkeypatch, 1e9)
    words = r"is durable.*could not be learned: nothing answers at node0:1"
    with pytest.raises(DeadlineError, match=words) as late:
        await grid.map("m").put(1, 1, ack="closed")
    assert late.value.fields == {"version": 1, "epoch": 5}
    outcomes = await grid.map("m").put_many([(2, 2), (3, 3)], ack="closed")
    assert all(isinstance(one, DeadlineError) and one.fields["version"] == 1 for one in outcomes)
    with pytest.raises(DeadlineError, match=words):
        async with grid.commit_group(ack="closed") as group:
            group.map("m").put(4, 4)
    assert group.outcome.epoch == 5


async def test_who_has_little_time_does_not_fail_others(
    fake: FakeGrid, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Asked(grid, monkeypatch, 5.0)
    hasty = asyncio.create_task(grid.wait_closed(7, deadline=1.0))
    await asked.begun.wait()
    await grid.wait_closed(7, deadline=60.0)
    with pytest.raises(UnavailableError):
        await hasty
