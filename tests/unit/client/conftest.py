from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tidegrid.client import Grid, connect

from tests.unit.client.fake_grid import FakeGrid


@pytest.fixture
async def fake() -> AsyncIterator[FakeGrid]:
    made = FakeGrid()
    made.add_map("m")
    yield made
    # Nothing of the client is left behind: no task, no stream.
    await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith("tidegrid")]
    assert not left
    assert not made.feeds
    for task in list(made.tasks):
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


@pytest.fixture
async def grid(fake: FakeGrid) -> AsyncIterator[Grid]:
    async with connect("node0:1", deadline=5, transport=fake.transport()) as opened:
        yield opened
