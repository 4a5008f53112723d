"""Trigger code by a factor, what it makes of raw writes, and a grid of three nodes, in memory and in a directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tidegrid import embedded
from tidegrid.client.map import Map
from tidegrid.embedded import EmbeddedGrid

HEAD = """
from tidegrid.triggers import Merge, Put, stream, table, trigger, Event
table("raw", key=("n:int",))
table("doubled", key=("n:int",))
stream("said", key=("n:int",))

def add(state, amount):
    state = state or {"count": 0, "sum": 0}
    return {"count": state["count"] + 1, "sum": state["sum"] + amount}

table("sums", key=("digit:int",), fold=add)
"""
BODY = """
@trigger(on="raw", emits=("doubled", "sums", "said"))
def follow(write):
    yield Put("doubled", write.key, {"value": FACTOR * write.value})
    yield Merge("sums", write.key[0] % 10, FACTOR * write.value)
    yield Event("said", write.key, FACTOR)
"""


def code(factor: int) -> tuple[str, str]:
    return "m", HEAD + BODY.replace("FACTOR", str(factor))


def doubled(raw: dict[int, int], factor: int) -> dict[Any, Any]:
    return {(n,): {"value": factor * value} for n, value in raw.items()}


async def rows(table: Map, epoch: int | None = None) -> dict[Any, Any]:
    return {entry.key: entry.value async for entry in table.scan(as_of=epoch)}


async def check(grid: EmbeddedGrid, written: list[tuple[int, int]], factor: int, epoch: int | None = None) -> None:
    """`written`: all of it, each key perhaps several times."""
    assert await rows(grid.map("doubled"), epoch) == doubled(dict(written), factor)
    sums: dict[Any, Any] = {}
    for n, value in written:
        one = sums.setdefault((n % 10,), {"count": 0, "sum": 0})
        one["count"] += 1
        one["sum"] += factor * value
    assert await rows(grid.map("sums"), epoch) == sums


async def write(grid: EmbeddedGrid, pairs: list[tuple[int, int]]) -> int:
    epoch = max(outcome.epoch for outcome in await grid.map("raw").put_many(pairs))
    await grid.wait_closed(epoch)
    return epoch


@pytest.fixture(params=["memory", "directory"])
async def grid(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EmbeddedGrid]:
    data = tmp_path / "data" if request.param == "directory" else None
    async with embedded.open(data, nodes=3, tick=0.005) as opened:
        yield opened
