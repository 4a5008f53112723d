"""The runner on a grid of dicts and a clock that is stepped: what effects are given, when, and how often."""

from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path
from typing import Any

import pytest
from tidegrid.client import connect
from tidegrid.effects import Failure, run_effects
from tidegrid.effects import runner as runners
from tidegrid.effects.retry import exhausted, pause_seconds
from tidegrid.effects.state import State
from tidegrid.effects.state_file import Entry
from tidegrid.grid.model.errors import (
    ConfigurationError,
)
from tidegrid.triggers import EffectEvent
from tidegrid.triggers.declare import declarations_of

from tests.unit.client.fake_grid import until
from tests.unit.effects.stage import Doors, Outside, SteppedClock, cursor_of, grid_of, module_of, write


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "effects.db"


# What an effect is given -----------------------------------------------------------------------------------------


async def test_every_change_once_and_what_it_is_told(state: Path) -> None:
    fake, outside = grid_of(nodes=2), Outside()
    async with connect("node0:1", transport=fake.transport()) as grid:
        await write(fake, grid, ["before"])
        module = module_of((outside.take, {}), (outside.take, {"on": "t", "name": "table"}))
        async with run_effects(grid, module, state=state) as run:
            await grid.map("s").put(("a", 1), {"n": 1})
            first = fake.tick()
            await run.wait(first, deadline=30)
            await grid.map("t").put("b", 2)
            await grid.map("t").delete("b")
            last = fake.tick()
            await run.wait(last, deadline=30)
        event, put, delete = outside.events
        assert (event.map, event.op, event.key, event.value, event.version) == ("s", "event", ("a", 1), {"n": 1}, 0)
        assert (event.epoch, event.attempt, event.time_ms) == (first, 1, 1_000_000 + first)
        assert (put.op, put.value, put.version, put.key) == ("put", 2, 1, ("b",))
        assert (delete.op, delete.value, delete.version) == ("delete", None, 2)
        place = f"{event.partition}-{event.position}-{event.index}"
        assert event.id == f"{fake.grid_id.hex()[:16]}/take/s/{place}"
        assert len({event.id for event in outside.events}) == 3
        assert cursor_of(state) == cursor_of(state, "table") == last


async def test_async_functions_are_awaited_and_plain_ones_called_in_threads(state: Path) -> None:
    fake = grid_of()
    threads: list[threading.Thread] = []

    async def waits(event: EffectEvent) -> None:
        await asyncio.sleep(0)
        threads.append(threading.current_thread())

    def blocks(event: EffectEvent) -> None:
        threads.append(threading.current_thread())

    for function in (waits, blocks):
        async with (
            connect("node0:1", transport=fake.transport()) as grid,
            run_effects(grid, module_of((function, {})), state=state) as run,
        ):
            await run.wait(await write(fake, grid, [1]), deadline=30)
    first, second = threads
    assert first is threading.main_thread() and second is not first


async def test_from_the_beginning_and_from_an_epoch(tmp_path: Path) -> None:
    fake = grid_of()
    async with connect("node0:1", transport=fake.transport()) as grid:
        await write(fake, grid, ["a"])
        second = await write(fake, grid, ["b"])
        last = await write(fake, grid, ["c"])
        for start, expected in (("begin", ["a", "b", "c"]), (second, ["b", "c"]), (second + 1, ["c"]), ("now", [])):
            outside = Outside()
            options: Any = {"state": tmp_path / f"{start}.db", "start": start}
            async with run_effects(grid, module_of((outside.take, {})), **options) as run:
                await run.wait(last, deadline=30)
            assert outside.values == expected
        for wrong in (0, True, "soon"):
            options = {"state": tmp_path / "x.db", "start": wrong}
            with pytest.raises(ConfigurationError, match="begin"):
                async with run_effects(grid, module_of((outside.take, {})), **options):
                    pass


async def test_now_is_the_first_start_and_later_ones_go_on(state: Path) -> None:
    fake, outside = grid_of(), Outside()
    module = module_of((outside.take, {}))
    async with connect("node0:1", transport=fake.transport()) as grid:
        await write(fake, grid, ["never"])
        async with run_effects(grid, module, state=state):
            pass  # not one event, and its place is known
        await write(fake, grid, ["meanwhile"])
        for _ in range(3):
            async with run_effects(grid, module, state=state, start="begin") as run:
                await run.wait(fake.closed, deadline=30)
        assert outside.values == ["meanwhile"]


async def test_the_cursor_of_a_quiet_map_is_written_now_and_then(state: Path) -> None:
    fake, clock = grid_of(), SteppedClock()
    async with (
        connect("node0:1", transport=fake.transport()) as grid,
        run_effects(grid, module_of((Outside().take, {})), state=state, clock=clock) as run,
    ):
        begun = cursor_of(state)
        await run.wait(fake.tick(9), deadline=30)
        assert cursor_of(state) == begun
        clock.step(runners.LOOK_SECONDS)
        await until(lambda: cursor_of(state) > begun)
        assert cursor_of(state) == fake.closed


# Trying again ----------------------------------------------------------------------------------------------------


def test_pauses_are_doubled_up_to_a_maximum_with_jitter() -> None:
    (declared,) = declarations_of(
        module_of((Outside().take, {"backoff_seconds": 2, "backoff_seconds_max": 30, "retries": 3})).__dict__
    ).effects
    assert [pause_seconds(declared, failures, 1.0) for failures in (1, 2, 3, 4, 5, 6_000)] == [2, 4, 8, 16, 30, 30]
    assert [pause_seconds(declared, failures, 0.0) for failures in (1, 2, 6_000)] == [1, 2, 15]
    assert [exhausted(declared, failures) for failures in (1, 3, 4)] == [False, False, True]
    (tireless,) = declarations_of(module_of((Outside().take, {"retries": None})).__dict__).effects
    assert not exhausted(tireless, 1_000_000)


async def test_it_is_tried_again_after_longer_and_longer_pauses(state: Path) -> None:
    fake, clock, outside = grid_of(), SteppedClock(), Outside({"b": 3})
    failures: list[Failure] = []
    module = module_of((outside.take, {"backoff_seconds": 10, "retries": 3}))
    async with connect("node0:1", transport=fake.transport()) as grid:
        options: Any = {"clock": clock, "chance": random.Random(5), "failure": failures.append}
        async with run_effects(grid, module, state=state, **options) as run:
            epoch = await write(fake, grid, ["a"])
            epoch = await write(fake, grid, ["b", "c"], key="k")
            for tries in (1, 2, 3):
                await until(lambda tries=tries: len(clock.pauses) == tries)
                assert outside.values == ["a"] + ["b"] * tries
                clock.step(clock.pauses[-1] - 0.01)
                await asyncio.sleep(0)
                assert len(outside.events) == tries + 1
                clock.step(0.02)
            await run.wait(epoch, deadline=30)
    assert outside.values == ["a", "b", "b", "b", "b", "c"]
    assert [event.attempt for event in outside.events[1:5]] == [1, 2, 3, 4]
    assert len({event.id for event in outside.events[1:5]}) == 1
    chance = random.Random(5)
    assert clock.pauses == [pytest.approx(10 * 2**n * (0.5 + chance.random() / 2)) for n in range(3)]
    assert [(failure.tries, failure.pause_seconds) for failure in failures] == [
        *zip((1, 2, 3), clock.pauses, strict=True)
    ]
    assert all("ConnectionError: no line for b" in failure.error for failure in failures)
    assert cursor_of(state) == epoch


async def test_whatever_is_raised_is_a_failure(state: Path) -> None:
    fake, clock = grid_of(), SteppedClock()
    raised: list[BaseException] = [
        SystemExit(3),
        StopIteration(),
        asyncio.CancelledError(),
        GeneratorExit(),
        KeyError("\ud800"),
    ]
    errors: list[str] = []

    def plain(event: EffectEvent) -> None:
        raise raised[event.attempt - 1]

    async def waiting(event: EffectEvent) -> None:
        raise raised[event.attempt - 1] if event.attempt in (1, 3) else ValueError(event.attempt)

    options: dict[str, Any] = {"retries": 4, "backoff_seconds": 0, "on_give_up": "park"}
    async with connect("node0:1", transport=fake.transport()) as grid:
        run: Any = run_effects(
            grid, module_of((plain, options), (waiting, options)), state=state, clock=clock,
            failure=lambda failure: errors.append(f"{failure.effect} {failure.error}"),
        )  # fmt: skip
        async with run:
            epoch = await write(fake, grid, [1])
            arriving = asyncio.ensure_future(run.wait(epoch, deadline=30))
            while not arriving.done():
                clock.step(0.001)
                await asyncio.sleep(0)
            await arriving
            assert [parked.effect for parked in await run.parked()] in (["plain", "waiting"], ["waiting", "plain"])
    of_plain = [error for error in errors if error.startswith("plain")]
    assert [error.split(": ")[-1] for error in of_plain[:1]] == ["3"] and "SystemExit" in of_plain[0]
    assert "StopIteration" in of_plain[1] and "CancelledError" in of_plain[2] and "KeyError" in of_plain[4]
    assert len(of_plain) == 5 and len(errors) == 10


# Order and concurrency -------------------------------------------------------------------------------------------


async def test_one_key_is_in_order_while_others_go_on(state: Path) -> None:
    fake, doors = grid_of(), Doors()
    async with (
        connect("node0:1", transport=fake.transport()) as grid,
        run_effects(grid, module_of((doors.enter, {"concurrency": 3})), state=state) as run,
    ):
        await write(fake, grid, ["a1", "a2"], key="a")
        before = fake.closed
        last = await write(fake, grid, ["b1", "b2"], key="b")
        await until(lambda: sorted(doors.inside) == ["a1", "b1"])
        doors.open("b1", "b2")
        await until(lambda: doors.left == ["b1", "b2"])
        assert doors.inside == ["a1"] and run.progress[0].epoch < before
        doors.open("a1")
        await until(lambda: doors.inside == ["a2"])
        doors.open("a2")
        await run.wait(last, deadline=30)
        assert doors.left == ["b1", "b2", "a1", "a2"]


async def test_any_order_runs_one_key_in_parallel_up_to_the_limit(state: Path) -> None:
    fake, doors = grid_of(), Doors()
    async with connect("node0:1", transport=fake.transport()) as grid:
        options = {"concurrency": 2, "order": "any"}
        async with run_effects(grid, module_of((doors.enter, options)), state=state) as run:
            last = await write(fake, grid, ["1", "2", "3"], key="a")
            await until(lambda: doors.inside == ["1", "2"])
            doors.open("2")
            await until(lambda: doors.inside == ["1", "3"])
            doors.open("1", "3")
            await run.wait(last, deadline=30)


async def test_one_at_a_time_waits_for_what_is_tried_again(state: Path) -> None:
    fake, clock, outside = grid_of(), SteppedClock(), Outside({"a": 1})
    async with (
        connect("node0:1", transport=fake.transport()) as grid,
        run_effects(grid, module_of((outside.take, {})), state=state, clock=clock) as run,
    ):
        await write(fake, grid, ["a"])
        epoch = await write(fake, grid, ["b"])
        await until(lambda: clock.pauses)
        clock.step(60)
        await run.wait(epoch, deadline=30)
    assert outside.values == ["a", "a", "b"]


async def test_reading_ahead_is_bounded(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runners, "AHEAD_CHANGES_MAX", 5)
    fake, doors = grid_of(), Doors()
    async with (
        connect("node0:1", transport=fake.transport()) as grid,
        run_effects(grid, module_of((doors.enter, {"concurrency": 2})), state=state) as run,
    ):
        for number in range(12):
            await write(fake, grid, [number])
        doors.open(*range(1, 12))
        await until(lambda: doors.left == [1, 2, 3, 4])
        assert run.progress[0].waiting == 0 and doors.inside == [0]
        doors.open(0)
        await run.wait(fake.closed, deadline=30)
        assert doors.left == [1, 2, 3, 4, 0, *range(5, 12)]


async def test_nothing_takes_the_slot_before_the_end_is_on_disk(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a crash repeats at most as many changes as there are slots."""
    fake, outside = grid_of(), Outside()
    written, asked = asyncio.Event(), asyncio.Event()
    settle = State.settle

    async def slowly(self: State, entry: Entry) -> None:
        asked.set()
        await written.wait()
        await settle(self, entry)

    async def take(event: EffectEvent) -> None:  # async: another call would begin within a few turns of the loop
        outside.take(event)

    monkeypatch.setattr(State, "settle", slowly)
    async with (
        connect("node0:1", transport=fake.transport()) as grid,
        run_effects(grid, module_of((take, {})), state=state) as run,
    ):
        epoch = await write(fake, grid, ["a", "b"], key="k")
        waiting = asyncio.ensure_future(run.wait(epoch, deadline=30))
        await asked.wait()
        for _ in range(50):
            await asyncio.sleep(0)
        assert outside.values == ["a"] and cursor_of(state) < epoch and not waiting.done()
        written.set()
        await waiting
        assert outside.values == ["a", "b"] and cursor_of(state) == epoch
