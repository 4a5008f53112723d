"""A full pass of the collector practically never comes in a node, so what serves one request or frame is in no circle."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tidegrid import embedded
from tidegrid.grid.engine.compute import Computation
from tidegrid.grid.engine.reads import ReadRequest
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.model.errors import RejectedError
from tidegrid.grid.rpc.exchange import ExchangeCall
from tidegrid.triggers.context import Context
from tidegrid.triggers.session import Session
from tidegrid.triggers.write import Write

MODULE = """
from tidegrid.triggers import Put, Reject, table, trigger

table("raw", key=("k",))
table("made", like="raw")


@trigger(on="raw", emits=("made",))
def copy(write, grid):
    if write.value == "bad":
        raise Reject("bad")
    grid.get("raw", write.key)
    yield Put("made", write.key, [write.value, write.previous, write.epoch])
"""


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def alive() -> Counter[str]:
    kinds = (Computation, ReadRequest, WriteRequest, ExchangeCall, Context, Session, Write)
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in kinds)


async def test_requests_and_frames_go_when_they_are_done_with(tmp_path: Path, uncollected: None) -> None:
    (tmp_path / "copies.py").write_text(MODULE)
    before = alive()
    async with embedded.open(triggers=[str(tmp_path / "copies.py")]) as grid:
        raw = grid.map("raw")
        for number in range(40):
            await raw.put(f"k{number}", number)
            await raw.get(f"k{number}")
            outcomes = await raw.put_many([("a", "bad"), ("b", number)])
            assert sum(isinstance(outcome, RejectedError) for outcome in outcomes) == 1
        left = alive() - before
    assert all(count < 5 for count in left.values()), left
