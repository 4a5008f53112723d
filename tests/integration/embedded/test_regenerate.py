"""A dry run beside a live grid: what it finds, what it refuses, and that it goes on where it was ended."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from tidegrid import embedded
from tidegrid.client import Ack, Grid
from tidegrid.grid.model.errors import (
    ConfigurationError,
    InUseError,
    TooLargeError,
    UnknownMapError,
    WrongKindError,
)
from tidegrid.grid.runtime.replay_crew import ProcessCrew
from tidegrid.v1 import grid_pb2

SOURCE = """
from tidegrid.triggers import Event, Merge, Put, Reject, reference, stream, table, trigger

def add(state, operand):
    return (state or 0) + operand

table("raw", key=("n:int",))
table("out", key=("n:int",))
table("sums", key=("n:int",), fold=add)
stream("said", key=("n:int",))
reference("names", key=("n:int",))

@trigger(on="raw", emits=("out", "sums", "said"))
def make(write, grid):
    if write.value < FROM:
        raise Reject("too small")
    yield Put("out", write.key, {"value": write.value * TIMES, "name": grid.get("names", write.key[0] % 3)})
    yield Merge("sums", write.key[0] % 5, write.value)
    yield Event("said", write.key, 1)
"""
ROWS = 3_000
T = TypeVar("T")


def code(first: int, times: int) -> tuple[str, str]:
    return "module", SOURCE.replace("FROM", str(first)).replace("TIMES", str(times))


async def written(grid: Grid, rows: int = ROWS) -> None:
    await grid.deploy(code(0, 1))
    names = await grid.map("names").put_many([((number,), f"name {number}") for number in range(3)])
    await grid.wait_closed(max(ack.epoch for ack in names))
    await grid.map("raw").put_many([((number,), number) for number in range(rows)])
    await grid.deploy(code(10, 2))
    ack = await grid.map("raw").put((7,), 1_000)
    await grid.wait_closed(ack.epoch)


def check(report: grid_pb2.RegenerationReport, rows: int = ROWS) -> None:
    assert (report.writes, report.rejected, report.failed, report.parked) == (rows, 10, 0, 0)
    assert [one.message.partition(":")[2] for one in report.refused] == [" too small"] * 5
    found = {one.map: one for one in report.maps}
    out = found["out"]
    assert (out.before, out.after, out.added, out.removed) == (rows, rows - 9, 0, 9)  # 7 was written by the new code
    assert out.changed == rows - 10 and dict(out.columns) == {"value": rows - 10} and len(out.examples) == 10
    sums = found["sums"]
    assert (sums.before, sums.after, sums.added, sums.removed, sums.changed) == (5, 5, 0, 0, 5)


@pytest.mark.parametrize("on_disk", [False, True])
async def test_a_dry_run_shows_what_would_differ(tmp_path: Path, on_disk: bool) -> None:
    async with embedded.open(tmp_path / "data" if on_disk else None) as grid:
        await written(grid)
        steps: list[str] = []
        live = await grid.map("out").get((50,))
        report = await grid.regenerate("out", "sums", dry_run=True, workers=2, progress=lambda p: steps.append(p.step))
        check(report)
        assert report.acts_at <= report.as_of and report.hash and steps and steps[-1] == "comparing"
        assert await grid.map("out").get((50,)) == live
        assert [one.map for one in (await grid.regenerate(dry_run=True)).maps] == ["out", "sums"]


async def test_what_it_refuses(tmp_path: Path) -> None:
    async with embedded.open(None) as grid:
        with pytest.raises(ConfigurationError, match="no trigger code"):
            await grid.regenerate(dry_run=True)
        await written(grid, 20)
        with pytest.raises(WrongKindError, match="is a stream"):
            await grid.regenerate("said", dry_run=True)
        with pytest.raises(WrongKindError, match="written by clients"):
            await grid.regenerate("raw", dry_run=True)
        with pytest.raises(UnknownMapError, match="out"):
            await grid.regenerate("outt", dry_run=True)
        with pytest.raises(ConfigurationError, match="share"):
            await grid.regenerate("out", dry_run=True, share=2.0)
        slow = asyncio.create_task(grid.regenerate("out", dry_run=True, rate=5.0))
        with pytest.raises(InUseError, match="one at a time"):
            while not slow.done():
                await asyncio.sleep(0)
                await grid.regenerate("sums", dry_run=True, rate=5.0)
        with pytest.raises(
            InUseError, match=r"regeneration of out is under way, by the usual workers .* 5 writes/s: leave these"
        ):
            await grid.regenerate("out", dry_run=True, rate=9.0)
        joined = asyncio.Event()
        beside = asyncio.create_task(grid.regenerate("out", dry_run=True, progress=lambda _: joined.set()))
        same = asyncio.create_task(grid.regenerate("out", dry_run=True, rate=5.0, progress=lambda _: joined.set()))
        await asyncio.wait_for(joined.wait(), 30.0)
        for task in (slow, beside, same):
            task.cancel()
        await asyncio.gather(slow, beside, same, return_exceptions=True)


RANDOM = """
from tidegrid.triggers import Put, stream, trigger, table
stream("raw", key=("n:int",))
table("out", key=("n:int", "part:int"))

@trigger(on="raw", emits="out")
def draw(write, grid):
    number = grid.random.getrandbits(50)
    for part in range(write.value["parts"]):
        yield Put("out", (write.key[0], part), [number, "x" * write.value["pad"]])
"""


async def test_a_row_without_room_changes_nothing_of_what_the_next_draws(tmp_path: Path) -> None:
    async with embedded.open(tmp_path, partitions=1, tick=0.005) as grid:
        await grid.deploy(("m", RANDOM))
        wide, narrow = {"parts": 4, "pad": 400_000}, {"parts": 1, "pad": 1}
        refused, stored = await grid.map("raw").put_many([(1, wide), (1, narrow)])
        assert isinstance(refused, TooLargeError) and stored.version == 1
        await grid.wait_closed(stored.epoch)
        await grid.deploy(("m", RANDOM + "# the same"))
        (found,) = (await grid.regenerate("out", dry_run=True)).maps
        assert (found.before, found.after, found.changed) == (1, 1, 0)


EVENTS = """
from tidegrid.triggers import Event, Put, stream, table, trigger
stream("raw", key=("n:int",))
stream("hop", key=("text",))
table("out", key=("n:int", "part:int"), affinity=1)
table("end", key=("text", "part:int"), affinity=1)

@trigger(on="raw", emits=("out", "hop"), isolation="ISOLATION")
def draw(write, grid):
    yield Put("out", (write.key[0], write.value), grid.random.getrandbits(60))
    yield Event("hop", "there", write.value)
    yield Event("hop", "anywhere", write.value)

@trigger(on="hop", emits="end", isolation="ISOLATION")
def draw_again(write, grid):
    yield Put("end", (write.key[0], write.value), grid.random.getrandbits(60))
"""


@pytest.mark.parametrize("isolation", ["inline", "process"])
async def test_what_events_of_one_key_draw_in_one_epoch_differs_and_comes_out_again(
    tmp_path: Path, isolation: str
) -> None:
    async with embedded.open(tmp_path, partitions=4, tick=None) as grid:

        async def ticking(done: Awaitable[T]) -> T:
            task = asyncio.ensure_future(done)
            while not task.done():
                await grid.tick()
                await asyncio.sleep(0)
            return task.result()

        await ticking(grid.deploy(("m", EVENTS.replace("ISOLATION", isolation))))
        epochs = set[int]()
        for number in range(0, 15, 3):  # a frame for two, and one for the third
            acks = await grid.map("raw").put_many([(1, number), (1, number + 1)])
            epochs |= {ack.epoch for ack in acks if isinstance(ack, Ack)}
            epochs.add((await grid.map("raw").put(1, number + 2)).epoch)
        assert len(epochs) == 1
        await grid.tick()
        for name, count in (("out", 15), ("end", 30)):
            drawn = [entry.value async for entry in grid.map(name).scan()]
            assert len(drawn) == len({*drawn}) == count
        await ticking(grid.deploy(("m", EVENTS.replace("ISOLATION", isolation) + "# the same")))
        report = await ticking(grid.regenerate("out", "end", dry_run=True))
        assert {one.map: (one.before, one.after, one.changed) for one in report.maps} == {
            "out": (15, 15, 0),
            "end": (30, 30, 0),
        }


def pieces(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("regeneration/*/*.piece"))}


async def test_a_killed_worker_is_replaced_and_the_pieces_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crews: list[ProcessCrew] = []
    made = ProcessCrew.__init__

    def init(self: ProcessCrew, *arguments: Any) -> None:
        made(self, *arguments)
        crews.append(self)

    monkeypatch.setattr(ProcessCrew, "__init__", init)
    async with embedded.open(tmp_path) as grid:
        await written(grid)
        check(await grid.regenerate("out", "sums", dry_run=True, workers=1))
        whole = pieces(tmp_path)
        assert len(whole) > 16
        folder = next((tmp_path / "regeneration").iterdir())
        for name in list(whole)[::2]:
            (folder / name).unlink()
        damaged = folder / list(whole)[1]
        damaged.write_bytes(damaged.read_bytes()[:-9] + b"damaged!!")
        killed = 0

        def kill(progress: grid_pb2.RegenerationProgress) -> None:
            nonlocal killed
            if progress.step == "raw writes" and progress.tasks_done and killed < 2:
                for number in crews[-1].process_ids:
                    os.kill(number, signal.SIGKILL)
                    killed += 1

        report = await grid.regenerate("out", "sums", dry_run=True, workers=1, rate=3000.0, progress=kill)
        check(report)
        assert killed and pieces(tmp_path) == whole


async def test_stopped_and_begun_again_it_goes_on(tmp_path: Path) -> None:
    async with embedded.open(tmp_path) as grid:
        await written(grid)
        begun = asyncio.Event()

        def look(progress: grid_pb2.RegenerationProgress) -> None:
            if 2 <= progress.tasks_done < progress.tasks:
                begun.set()

        task = asyncio.create_task(grid.regenerate("out", "sums", dry_run=True, workers=1, rate=2000.0, progress=look))
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        left = pieces(tmp_path)
        assert left
    async with embedded.open(tmp_path) as grid:  # the node has gone as well
        resumed: list[int] = []
        check(await grid.regenerate("out", "sums", dry_run=True, progress=lambda p: resumed.append(p.resumed)))
        assert resumed[-1] >= len(left)
        assert {name: data for name, data in pieces(tmp_path).items() if name in left} == left
