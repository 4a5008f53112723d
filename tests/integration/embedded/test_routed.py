"""Outputs to other partitions and folds, as a user of the embedded grid sees them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tidegrid import embedded
from tidegrid.client.map import Map
from tidegrid.embedded import EmbeddedGrid

SOURCE = """
from tidegrid.triggers import Event, Merge, Put, stream, table, trigger


def add(state, amount):
    state = state or {"count": 0, "sum": 0}
    return {"count": state["count"] + 1, "sum": state["sum"] + amount}


table("sales.raw", key=("id:int",))
table("by_shop", key=("shop", "id:int"))
table("shops", key=("shop",), fold=add)
table("by_item", key=("item:int", "shop"))
stream("large", key=("shop",))


@trigger(on="sales.raw", emits=("by_shop", "shops", "large"))
def translate(write):
    shop, amount = write.value
    yield Put("by_shop", (shop, write.key[0]), amount)
    yield Merge("shops", shop, amount)
    if amount >= 90:
        yield Event("large", shop, amount)


@trigger(on="by_shop", emits=("by_item",))
def turned(write):
    shop, number = write.key
    yield Put("by_item", (number, shop), write.value)
"""
SHOPS = "abcdefg"
SALES = {number: (SHOPS[number % 7], 10 * (number % 10)) for number in range(60)}


@pytest.fixture
def module(tmp_path: Path) -> str:
    (tmp_path / "sales.py").write_text(SOURCE)
    return str(tmp_path / "sales.py")


def totals(sales: Mapping[int, tuple[str, int]]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for shop, amount in sales.values():
        one = made.setdefault((shop,), {"count": 0, "sum": 0})
        one["count"] += 1
        one["sum"] += amount
    return made


async def rows(table: Map, epoch: int) -> dict[Any, Any]:
    return {entry.key: entry.value async for entry in table.scan(as_of=epoch)}


async def check_cut(grid: EmbeddedGrid, sales: Mapping[int, tuple[str, int]], epoch: int) -> None:
    assert await rows(grid.map("shops"), epoch) == totals(sales)
    assert await rows(grid.map("by_shop"), epoch) == {(shop, number): one for number, (shop, one) in sales.items()}
    assert await rows(grid.map("by_item"), epoch) == {(number, shop): one for number, (shop, one) in sales.items()}


async def test_a_closed_epoch_has_writes_with_all_that_follows(module: str) -> None:
    async with embedded.open(nodes=3, tick=None, triggers=[module]) as grid:
        raw = grid.map("sales.raw")
        cuts: dict[int, dict[int, tuple[str, int]]] = {}
        for first in range(0, 60, 20):
            sold = {number: SALES[number] for number in range(first, first + 20)}
            await raw.put_many(list(sold.items()))
            cuts[await grid.tick()] = {number: SALES[number] for number in range(first + 20)}
        for epoch, sales in cuts.items():
            await check_cut(grid, sales, epoch)


async def test_all_of_it_outlives_a_restart(module: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with embedded.open(data, nodes=2, triggers=[module]) as grid:
        outcomes = await grid.map("sales.raw").put_many(list(SALES.items()))
        epoch = max(outcome.epoch for outcome in outcomes)
    async with embedded.open(data, nodes=3) as grid:
        await grid.wait_closed(epoch)
        await check_cut(grid, SALES, epoch)
        (more,) = await grid.map("sales.raw").put_many([(99, ("a", 5))])
        await grid.wait_closed(more.epoch)
        await check_cut(grid, {**SALES, 99: ("a", 5)}, more.epoch)


async def test_a_group_lets_its_consequences_in_with_it(module: str) -> None:
    async with embedded.open(nodes=3, triggers=[module]) as grid:
        async with grid.commit_group() as group:
            for number in range(7):
                group.map("sales.raw").put(number, SALES[number])
        await grid.wait_closed(group.outcome.epoch)
        await check_cut(grid, {number: SALES[number] for number in range(7)}, group.outcome.epoch)


async def test_followers_are_told_states_not_operands(module: str) -> None:
    async with embedded.open(nodes=3, triggers=[module]) as grid:
        told: dict[Any, list[Any]] = {}
        async with grid.map("shops").subscribe(after=1, marks=True) as feed:
            outcomes = await grid.map("sales.raw").put_many(list(SALES.items()))
            epoch = max(outcome.epoch for outcome in outcomes)
            async for batch in feed:
                for change in batch.changes:
                    told.setdefault(change.key, []).append(change.value)
                if batch.epoch >= epoch:
                    break
        assert {key: states[-1] for key, states in told.items()} == totals(SALES)
        assert all([state["count"] for state in states] == [*range(1, len(states) + 1)] for states in told.values())


async def test_the_latest_follows_and_can_be_waited_for(module: str) -> None:
    async with embedded.open(nodes=3, triggers=[module]) as grid:
        for number, (shop, amount) in list(SALES.items())[:10]:
            ack = await grid.map("sales.raw").put(number, (shop, amount))
            entry = await grid.map("by_item").get((number, shop), at_least=ack.epoch)
            assert entry is not None and entry.value == amount and entry.epoch == ack.epoch


async def test_the_history_of_what_came_late_is_in_the_order_of_epochs(module: str) -> None:
    async with embedded.open(nodes=3, triggers=[module]) as grid:
        raw = grid.map("sales.raw")
        for amount in range(12):
            await raw.put(1, ("a", amount), ack="closed")
        history = [version async for version in grid.map("by_shop").history(("a", 1))]
        assert [version.value for version in history] == list(range(12))
        epochs = [version.epoch for version in history]
        assert epochs == sorted(epochs)


OVERTAKING = """
from tidegrid.triggers import Put, table, trigger

table("raw", key=("n:int",))
table("moved", key=("bucket:int", "n:int"))
table("odd", key=("bucket:int", "n:int"))
table("after", key=("n:int",))


@trigger(on="raw", emits=("moved", "odd"))
def move(write):
    (n,) = write.key
    yield Put("moved", (n % 7, n), write.value)
    if write.value % 2:
        yield Put("odd", (n % 7, n), write.value)


@trigger(on="odd", emits=("after",))
def go_on(write):
    yield Put("after", write.key[1], write.value)
"""


async def test_what_sets_off_triggers_is_not_overtaken_by_what_does_not() -> None:
    """A write of a key in an epoch whose outputs wait for its end, and a later one of that key whose outputs need not."""
    async with embedded.open(nodes=2, tick=None) as grid:
        await grid.deploy(("overtaking", OVERTAKING))
        raw = grid.map("raw")
        epochs = {n: ((await raw.put(n, 1)).epoch, (await raw.put(n, 2)).epoch) for n in range(40)}
        assert all(first == second for first, second in epochs.values())
        epoch = await grid.tick()
        assert await rows(grid.map("moved"), epoch) == {(n % 7, n): 2 for n in range(40)}
        assert await rows(grid.map("after"), epoch) == {(n,): 1 for n in range(40)}


CIRCLE = """
from tidegrid.triggers import *
table("raw", key=("n:int",)); table("there", key=("n:int",)); table("back", key=("n:int",))

@trigger(on="raw", emits="there")
def begin(write):
    yield Put("there", write.key[0] + 1, 1)

@trigger(on="there", emits="back")
def go(write):
    yield Put("back", write.key[0] + 1, 1)

@trigger(on="back", emits="there")
def come(write):
    yield Put("there", write.key[0] + 1, 1)
"""


async def test_a_circle_through_several_partitions_ends_and_time_goes_on() -> None:
    async with embedded.open(partitions=16, tick=0.005) as grid:
        await grid.deploy(("module", CIRCLE))
        ack = await grid.map("raw").put(0, 1)
        await grid.wait_closed(ack.epoch)
        (parked,) = await grid.parked()
        assert "do their maps form a circle" in parked.message
        ends = await grid.map("raw").put(100, 1)
        await grid.wait_closed(ends.epoch)
