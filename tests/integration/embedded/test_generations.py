"""Derived tables regenerated while writers go on: readers, followers and a restart see the new generation from one epoch."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tidegrid import embedded
from tidegrid.embedded import EmbeddedGrid
from tidegrid.grid.model.errors import (
    CallerError,
    ConfigurationError,
    CorruptionError,
    DeployNotAllowedError,
    EpochTooOldError,
    UnknownGenerationError,
    UnknownMapError,
    WrongKindError,
)
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.rpc.regenerating import Regenerating
from tidegrid.grid.runtime.deployments import DeployPolicy, DeployRules
from tidegrid.grid.runtime.driver import Driver
from tidegrid.grid.runtime.local_grid import GridOptions
from tidegrid.grid.runtime.replay_plan import plan_of
from tidegrid.v1 import grid_pb2

from tests.integration.embedded.regenerated import check, code, doubled, grid, rows, write

__all__ = ["grid"]

OLD = [(n, n % 7) for n in range(200)] + [(n, 5) for n in range(0, 200, 3)]
NEW = [(n, 9) for n in range(150, 260)]


async def test_readers_see_it_from_one_epoch_on_and_in_the_past(grid: EmbeddedGrid) -> None:
    await grid.deploy(code(1))
    past = await write(grid, OLD)
    await grid.deploy(code(3))
    assert (await write(grid, NEW)) > past
    dry = await grid.regenerate("doubled", "sums", dry_run=True)
    assert not dry.generations and {one.map: one.changed > 0 for one in dry.maps} == {"doubled": True, "sums": True}
    assert (await rows(grid.map("doubled"), past)) == doubled(dict(OLD), 1)
    done = await grid.regenerate("doubled", "sums")
    assert dict(done.generations) == {"doubled": 2, "sums": 2} and done.seen_from > past
    await check(grid, OLD + NEW, 3)
    await check(grid, OLD, 3, past)
    assert await rows(grid.map("doubled", generation=1), past) == doubled(dict(OLD), 1)
    assert await rows(grid.map("doubled", generation=2), past) == doubled(dict(OLD), 3)
    entry = await grid.map("doubled", generation=1).get(1, as_of=past)
    assert entry is not None and entry.value == {"value": 1}
    with pytest.raises(UnknownGenerationError, match="has no generation 3 to read; there is 1 and 2"):
        await grid.map("doubled", generation=3).get(1)
    await write(grid, [(1, 100)])
    await check(grid, [*OLD, *NEW, (1, 100)], 3)
    await grid.show_generations({"doubled": 1, "sums": 1})
    assert (await rows(grid.map("doubled"), past)) == doubled(dict(OLD), 1)
    listed = [(one.map, one.number, one.seen, one.complete) for one in await grid.generations()]
    assert listed == [("doubled", 1, True, True), ("doubled", 2, False, True), ("sums", 1, True, True), ("sums", 2, False, True)]  # fmt: skip
    with pytest.raises(ConfigurationError, match="is the one that readers see"):
        await grid.drop_generations({"sums": 1})
    await grid.drop_generations({"doubled": 2, "sums": 2})
    assert [one.number for one in await grid.generations()] == [1, 1]
    with pytest.raises(ConfigurationError, match="has no generation 2; there is 1"):
        await grid.show_generations({"sums": 2})


async def test_from_an_epoch_on_and_what_is_earlier_stays_as_it_was_seen(grid: EmbeddedGrid) -> None:
    async def made(written: list[tuple[int, int, int]], epoch: int | None = None) -> None:
        """(key, value, factor of the code that it came through)"""
        assert await rows(grid.map("doubled"), epoch) == {(n,): {"value": value * by} for n, value, by in written}
        sums: dict[Any, Any] = {}
        for n, value, by in written:
            count, total = sums.get((n % 10,), (0, 0))
            sums[n % 10,] = (count + 1, total + value * by)
        found = await rows(grid.map("sums"), epoch)
        assert found == {key: {"count": count, "sum": total} for key, (count, total) in sums.items()}

    def by(pairs: list[tuple[int, int]], factor: int) -> list[tuple[int, int, int]]:
        return [(n, value, factor) for n, value in pairs]

    middle = [(n, 4) for n in range(0, 230, 2)]
    await grid.deploy(code(1))
    first = await write(grid, OLD)
    second = await write(grid, middle)
    deployed = await grid.deploy(code(3))
    await write(grid, NEW)
    for start, said in ((deployed.epoch, "nothing to run again"), (0, "whole number from 1")):
        with pytest.raises(CallerError, match=said):
            await grid.regenerate("doubled", start=start)
    done = await grid.regenerate("doubled", "sums", start=first + 1)
    assert done.start == first + 1 and done.writes == len(middle)
    await made(by(OLD, 1), first)
    await made(by(OLD, 1) + by(middle, 3), second)
    await made(by(OLD, 1) + by(middle, 3) + by(NEW, 3))
    await grid.deploy(code(5))
    last = await write(grid, [(7, 7)])
    again = await grid.regenerate("sums", "doubled", start=second + 1, dry_run=True)
    assert {one.map: one.changed for one in again.maps} == {"doubled": len(NEW), "sums": 10}, "beside what is seen"
    assert dict((await grid.regenerate("sums", "doubled", start=second + 1)).generations) == {"doubled": 3, "sums": 3}
    await made(by(OLD, 1), first)
    await made(by(OLD, 1) + by(middle, 3), second)
    await made([*by(OLD, 1), *by(middle, 3), *by(NEW, 5), (7, 7, 5)], last)
    all_anew = await grid.regenerate("doubled", "sums", dry_run=True)
    other = [n for n, value in dict(OLD + middle).items() if value and n not in {7, *dict(NEW)}]
    assert {one.map: one.changed for one in all_anew.maps} == {"doubled": len(other), "sums": 10}


async def test_what_takes_several_answers_stays_in_one_generation() -> None:
    async with embedded.open(None, partitions=1) as grid:
        await _in_one_generation(grid)


async def _in_one_generation(grid: EmbeddedGrid) -> None:
    await grid.deploy(code(1))
    many = [(n, 1) for n in range(6_000)]
    past = await write(grid, many)
    await grid.deploy(code(3))
    await grid.regenerate("doubled")
    await grid.show_generations({"doubled": 1})
    found = grid.map("doubled").scan(as_of=past)
    scanned = [await anext(found)]
    await grid.show_generations({"doubled": 2})
    scanned += [entry async for entry in found]
    assert len(scanned) == len(many) and {(one.generation, one.value["value"]) for one in scanned} == {(1, 1)}
    fresh = await grid.map("doubled").get_many([1, 2, 3], as_of=past)
    assert [(one.generation, one.value["value"]) for one in fresh if one] == [(2, 3)] * 3
    latest = await grid.map("doubled").get(1)
    assert latest is not None and (latest.generation, latest.value) == (2, {"value": 3})
    async with grid.snapshot(as_of=past) as snapshot:
        entry = await snapshot.map("doubled").get(1)
        assert entry is not None and (entry.generation, entry.value) == (2, {"value": 3}), "the past, as it is seen now"


async def test_a_snapshot_stays_as_it_was(grid: EmbeddedGrid) -> None:
    await grid.deploy(code(1))
    await write(grid, OLD)
    await grid.deploy(code(3))
    async with grid.snapshot() as snapshot:
        before = {entry.key: entry.value async for entry in snapshot.map("doubled").scan()}
        await grid.regenerate()
        after = {entry.key: entry.value async for entry in snapshot.map("doubled").scan()}
    assert before == after == doubled(dict(OLD), 1) != await rows(grid.map("doubled"))


async def test_a_follower_gets_the_difference_at_one_epoch(grid: EmbeddedGrid) -> None:
    await grid.deploy(code(1))
    await write(grid, OLD)
    await grid.deploy(code(3))
    state: dict[str, dict[Any, Any]] = {"doubled": {}, "sums": {}}
    at: dict[str, set[int]] = {"doubled": set(), "sums": set()}
    reached = dict.fromkeys(state, 0)
    moved = asyncio.Event()

    async def follow(name: str) -> None:
        async with grid.map(name).subscribe(after=0, marks=True) as feed:
            async for batch in feed:
                for change in batch.changes:
                    state[name][change.key] = change.value
                    at[name].add(batch.epoch)
                reached[name] = batch.epoch
                moved.set()

    followers = [asyncio.create_task(follow(name)) for name in state]
    await write(grid, NEW)
    report = await grid.regenerate()
    last = await write(grid, [(1, 100)])
    while min(reached.values()) < last:
        moved.clear()
        await moved.wait()
    for follower in followers:
        follower.cancel()
    assert state["doubled"] == doubled(dict([*OLD, *NEW, (1, 100)]), 3)
    assert state["sums"] == await rows(grid.map("sums"))
    assert all(report.seen_from in epochs for epochs in at.values())
    late: dict[Any, Any] = {}
    async with grid.map("doubled").subscribe(after=0, marks=True) as feed:
        async for batch in feed:
            late.update((change.key, change.value) for change in batch.changes)
            if batch.epoch >= last:
                break
    assert late == state["doubled"], "who comes later gets the same"


async def test_writers_go_on_meanwhile(grid: EmbeddedGrid) -> None:
    await grid.deploy(code(1))
    await write(grid, OLD)
    await grid.deploy(code(2))
    written = list(OLD)
    stop = asyncio.Event()

    async def go_on() -> None:
        number = 0
        while not stop.is_set():
            pairs = [((number * 7 + at) % 300, number) for at in range(5)]
            await grid.map("raw").put_many(pairs)
            written.extend(pairs)
            number += 1

    writer = asyncio.create_task(go_on())
    await grid.regenerate()
    stop.set()
    await writer
    await write(grid, [(0, 0)])
    await check(grid, [*written, (0, 0)], 2)


async def test_it_outlives_a_restart_with_and_without_its_base(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with embedded.open(data, nodes=2, tick=0.005) as grid:
        await grid.deploy(code(1))
        past = await write(grid, OLD)
        await grid.deploy(code(3))
        await grid.regenerate()
    for nodes in (3, 1):
        async with embedded.open(data, nodes=nodes, tick=0.005) as grid:
            await check(grid, OLD, 3)
            await check(grid, OLD, 3, past)
    for checkpoint in data.glob("*.ckp*"):
        checkpoint.unlink()
    async with embedded.open(data, nodes=2, tick=0.005) as grid:
        await check(grid, OLD, 3)
        await grid.show_generations({"doubled": 1, "sums": 1})
        await check(grid, OLD, 1)


async def test_what_has_no_generations(grid: EmbeddedGrid) -> None:
    await grid.deploy(code(1))
    for name, error in (("raw", WrongKindError), ("said", WrongKindError), ("nowhere", UnknownMapError)):
        with pytest.raises(error):
            await grid.regenerate(name)


async def test_who_may_not_deploy_may_not_switch() -> None:
    async with embedded.open(options=GridOptions(deploy=DeployRules(DeployPolicy.OFF))) as grid:
        with pytest.raises(DeployNotAllowedError):
            await grid.regenerate()
        with pytest.raises(DeployNotAllowedError):
            await grid.show_generations({"doubled": 1})
        assert await grid.generations() == []


async def test_what_a_regenerated_map_was_long_ago_is_no_ground_to_go_on_from() -> None:
    """Its base has what readers at the horizon see: of what was before, `--from` has nothing to keep."""
    options = GridOptions(history_seconds=0.0)
    async with embedded.open(None, partitions=1, tick=0.005, options=options) as grid:
        await grid.deploy(code(1))
        await write(grid, [(1, 10)])
        second = await write(grid, [(1, 20)])
        await grid.deploy(code(2))
        control = grid.local.drivers[0].node.control
        while control.horizon < second:
            await write(grid, [(2, 1)])
        done = await grid.regenerate("doubled", "sums")
        kept = control.generations.generation("sums", 2)
        assert kept is not None and second <= kept.horizon < done.seen_from
        await grid.deploy(code(3))
        last = await write(grid, [(1, 30)])
        for start in (second, kept.horizon):
            with pytest.raises(EpochTooOldError, match=r"is known as of epoch .* and later: run again") as refused:
                await grid.regenerate("doubled", "sums", start=start)
            assert refused.value.fields["earliest"] == kept.horizon + 1
        await grid.regenerate("doubled", "sums", start=kept.horizon + 1)
        assert (await rows(grid.map("doubled")))[1,] == {"value": 90} and kept.horizon < last


async def test_what_is_kept_of_regenerations() -> None:
    """In memory the bases of generations that are kept, as on a disk; and other limits make another regeneration."""
    async with embedded.open(partitions=2, tick=0.005) as grid:
        await grid.deploy(code(1))
        await write(grid, OLD)
        for factor in (2, 3):
            await grid.deploy(code(factor))
            await grid.regenerate("doubled")
            await write(grid, NEW)
        await grid.show_generations({"doubled": 3})
        await grid.drop_generations({"doubled": 2})
        await grid.deploy(code(4))
        await grid.regenerate("doubled")
        driver = grid.local.drivers[0]
        kept = {one.base for one in driver.node.control.generations.regenerated()}
        assert len(kept) == 2 and {base for base, _, _ in driver.bases._in_memory} == kept
        names = [plan_of(driver.node.control, limits, ["doubled"]).name for limits in (Limits(), Limits(outputs_max=7))]
        assert names[0] != names[1]


def lose(directory: Path, pattern: str) -> None:
    lost = list(directory.glob(pattern))
    assert lost
    for path in lost:
        path.unlink()


async def test_a_base_that_is_damaged_is_told_of_where_it_matters(tmp_path: Path) -> None:
    async with embedded.open(tmp_path, partitions=2, tick=0.005) as grid:
        await grid.deploy(code(1))
        await write(grid, OLD)
        await grid.deploy(code(2))
        await grid.regenerate("doubled", "sums")
    lose(tmp_path, "partition-*.checkpoint")  # as if the machine had gone down before there was one
    lose(tmp_path, "regeneration/*/p00001.base")
    with pytest.raises(CorruptionError, match=r"the base .* in partition 1 cannot be read: .* restore that file"):
        async with embedded.open(tmp_path, tick=0.005):
            pass


async def test_what_was_newly_routed_is_there_after_a_restart_from_checkpoints(tmp_path: Path) -> None:
    """Such rows have the positions of the records that they come from, in the logs of other partitions."""
    before = """
from tidegrid.triggers import Put, table, trigger
table("raw", key=("n:int",))
table("by_value", key=("value:int",))

@trigger(on="raw", emits="by_value")
def follow(write):
"""
    numbers = {n: n * 7_919 for n in range(200)}
    expected: dict[Any, Any] = {(value,): n for n, value in numbers.items()}
    async with embedded.open(tmp_path, nodes=2, tick=0.005) as grid:
        await grid.deploy(("m", before + "    return []\n"))
        await write(grid, list(numbers.items()))
        await grid.deploy(("m", before + '    yield Put("by_value", write.value, write.key[0])\n'))
        assert dict((await grid.regenerate("by_value")).generations) == {"by_value": 2}
        assert await rows(grid.map("by_value")) == expected
    async with embedded.open(tmp_path, nodes=1, tick=0.005) as grid:
        assert await rows(grid.map("by_value")) == expected


async def test_it_is_the_code_that_the_log_says_is_in_force(grid: EmbeddedGrid) -> None:
    """Not what the node that is asked has heard of: it may be behind, and would do the last regeneration again."""
    await grid.deploy(code(1))
    await write(grid, OLD)
    await grid.deploy(code(2))
    assert dict((await grid.regenerate("doubled")).generations) == {"doubled": 2}
    behind = [ControlState.from_bytes(driver.node.control.to_bytes()) for driver in grid.local.drivers]
    await grid.deploy(code(3))
    for driver, control in zip(grid.local.drivers, behind, strict=True):
        rpc = Regenerating(grid.local, _Behind(driver, control))  # type: ignore[arg-type]
        plan = await rpc._begin(grid_pb2.RegenerateRequest(maps=["doubled"], dry_run=True))
        assert plan.plan.before == (await grid.deployments())[-1].epoch
        await grid.local.regenerations.stop()


class _Behind:
    def __init__(self, driver: Driver, control: ControlState) -> None:
        self.node = SimpleNamespace(control=control, limits=driver.node.limits)
