"""The runner on a grid of dicts and a clock that is stepped: giving up, driving again, ends of all kinds, and where it goes on."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tidegrid.client import connect
from tidegrid.effects import Progress, StateFile, run_effects
from tidegrid.effects import runner as runners
from tidegrid.grid.model.errors import (
    CallerError,
    ConfigurationError,
    DeadlineError,
    EffectFailedError,
    InUseError,
    StorageFullError,
    TriggerModuleError,
    UnknownMapError,
    WrongGridError,
)
from tidegrid.triggers import EffectEvent, GiveUp

from tests.unit.client.fake_grid import until
from tests.unit.effects.stage import Doors, Outside, SteppedClock, cursor_of, grid_of, module_of, write


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "effects.db"


# Giving up -------------------------------------------------------------------------------------------------------


async def test_stop_ends_all_and_the_next_start_goes_on_there(state: Path) -> None:
    fake, outside, other = grid_of(), Outside({"b": 1}), Doors()
    module = module_of((outside.take, {"retries": 0}), (other.enter, {"name": "other"}))
    async with connect("node0:1", transport=fake.transport()) as grid:
        with pytest.raises(
            EffectFailedError, match=r"'take' has given up on \('b',\).*after 1 try: .*no line for b"
        ) as caught:
            async with run_effects(grid, module, state=state) as run:
                await write(fake, grid, ["a"])
                epoch = await write(fake, grid, ["b"])
                await until(lambda: other.inside == ["a"])
                await until(lambda: all(runner._stopping.is_set() for runner in run._runners))
                assert len(outside.events) == 2
                other.open("a")
                await run.wait(epoch, deadline=30)
        assert caught.value.fields["tries"] == 1 and caught.value.fields["id"] == outside.events[-1].id
        assert other.left == ["a"] and cursor_of(state) == cursor_of(state, "other") == epoch - 1
        other.open("b")
        async with run_effects(grid, module, state=state) as run:
            await run.wait(epoch, deadline=30)
    assert outside.values == ["a", "b", "b"] and other.left == ["a", "b"]


async def test_skip_goes_on_without_it(state: Path) -> None:
    fake, clock, outside = grid_of(), SteppedClock(), Outside({"b": 9})
    progress: list[Progress] = []
    module = module_of((outside.take, {"retries": 1, "on_give_up": "skip", "backoff_seconds": 5}))
    async with (
        connect("node0:1", transport=fake.transport()) as grid,
        run_effects(grid, module, state=state, clock=clock, progress=progress.append) as run,
    ):
        epoch = await write(fake, grid, ["a", "b", "c"], key="k")
        await until(lambda: clock.pauses)
        clock.step(60)
        await run.wait(epoch, deadline=30)
        assert await run.parked() == []
    assert outside.values == ["a", "b", "b", "c"]
    assert (progress[-1].done, progress[-1].skipped, progress[-1].failed, progress[-1].parked) == (2, 1, 2, 0)
    assert cursor_of(state) == epoch


async def test_parked_changes_are_kept_and_driven_again(state: Path) -> None:
    fake, outside = grid_of(), Outside({"b": 2})
    module = module_of((outside.take, {"retries": 0, "on_give_up": "park"}))
    async with (
        connect("node0:1", transport=fake.transport()) as grid,
        run_effects(grid, module, state=state) as run,
    ):
        epoch = await write(fake, grid, ["a", "b", "c"], key="k")
        await run.wait(epoch, deadline=30)
        (parked,) = await run.parked()
        assert (parked.effect, parked.event.map, parked.again, parked.waiting.tried) == ("take", "s", False, 1)
        assert "no line for b" in parked.error and parked.event == outside.events[1]
        assert await run.drive_again([parked.number, 77]) == [parked.number]
        await run.wait(epoch, deadline=30)
        (still,) = await run.parked()
        assert (still.number, still.waiting.tried, still.again) == (parked.number, 2, False)
        assert run.progress[0].parked == 1
        assert await run.drive_again() == [parked.number]
        await run.wait(epoch, deadline=30)
        assert await run.parked() == [] and run.progress[0].parked == 0
    assert outside.values == ["a", "b", "c", "b", "b"]
    tries = [event for event in outside.events if event.value == "b"]
    assert [event.attempt for event in tries] == [1, 2, 3] and len({event.id for event in tries}) == 1
    async with (
        connect("node0:1", transport=fake.transport()) as grid,
        run_effects(grid, module, state=state) as run,
    ):
        assert (run.progress[0].done, run.progress[0].skipped) == (3, 0)


async def test_what_somebody_else_marks_is_found(state: Path) -> None:
    """While the runner works, and while it does not."""
    fake, clock, outside = grid_of(), SteppedClock(), Outside({"b": 2})
    module = module_of((outside.take, {"retries": 0, "on_give_up": "park"}))

    def mark() -> None:
        file = StateFile(state)
        assert file.drive_again() != []
        file.close()

    async with connect("node0:1", transport=fake.transport()) as grid:
        async with run_effects(grid, module, state=state, clock=clock) as run:
            epoch = await write(fake, grid, ["a", "b"], key="k")
            await run.wait(epoch, deadline=30)
            mark()
            await until(lambda: clock.slept)
            clock.step(runners.LOOK_SECONDS)
            await until(lambda: outside.values == ["a", "b", "b"])
            await run.wait(epoch, deadline=30)
        mark()
        async with run_effects(grid, module, state=state, clock=clock) as run:
            await run.wait(epoch, deadline=30)
            assert outside.values == ["a", "b", "b", "b"] and await run.parked() == []


async def test_give_up_says_that_trying_again_is_of_no_use(state: Path) -> None:
    fake = grid_of()
    calls: list[int] = []

    def hopeless(event: EffectEvent) -> None:
        calls.append(event.attempt)
        raise GiveUp("there is no such address")

    async with connect("node0:1", transport=fake.transport()) as grid:
        module = module_of((hopeless, {"retries": None, "on_give_up": "park"}))
        async with run_effects(grid, module, state=state) as run:
            await run.wait(await write(fake, grid, [1]), deadline=30)
            assert [parked.error.split(": ")[-1] for parked in await run.parked()] == ["there is no such address"]
    assert calls == [1]


# Ends ------------------------------------------------------------------------------------------------------------


async def test_the_end_drains_calls_and_waits_for_no_pause(state: Path) -> None:
    fake, clock, outside, doors = grid_of(), SteppedClock(), Outside({"a": 9}), Doors()
    module = module_of((outside.take, {}), (doors.enter, {"name": "slow", "concurrency": 2, "order": "any"}))
    async with connect("node0:1", transport=fake.transport()) as grid:
        run = run_effects(grid, module, state=state, clock=clock)
        async with run:
            epoch = await write(fake, grid, ["a", "b", "c"], key="k")
            await until(lambda: clock.pauses and doors.inside == ["a", "b"])
            run.stop()
            ending = asyncio.ensure_future(run.finished())
            await asyncio.sleep(0)
            assert not ending.done()
            doors.open("a", "b", "c")
            await ending
        assert sorted(doors.left) == ["a", "b"] and outside.values == ["a"]
        assert cursor_of(state) == epoch - 1
        outside.failures.clear()
        async with run_effects(grid, module, state=state, clock=clock) as again:
            await again.wait(epoch, deadline=30)
        assert sorted(doors.left) == ["a", "b", "c"] and sorted(outside.values) == ["a", "a", "b", "c"]


async def test_cancelled_at_random_every_change_at_least_once_in_order(state: Path) -> None:
    """As a kill from inside: whatever is under way is lost, and given again."""
    rng = random.Random(11)
    fake = grid_of(nodes=2)
    taken: dict[str, list[int]] = {}

    async def take(event: EffectEvent) -> None:
        taken.setdefault(event.key[0], []).append(event.value)
        for _ in range(rng.randrange(40)):  # the work is done, and a kill comes before that is known
            await asyncio.sleep(0)

    module = module_of((take, {"concurrency": 3}))
    written: dict[str, list[int]] = {}
    async with connect("node0:1", transport=fake.transport()) as grid:
        number = 0
        for _ in range(25):
            async with run_effects(grid, module, state=state, start="begin") as run:
                for _ in range(rng.randrange(1, 4)):
                    for _ in range(rng.randrange(6)):
                        number += 1
                        key = rng.choice("abcde")
                        written.setdefault(key, []).append(number)
                        await grid.map("s").put(key, number)
                    fake.tick()
                for _ in range(rng.randrange(100)):
                    await asyncio.sleep(0)
                task: Any = run._task
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                run._task = asyncio.ensure_future(asyncio.sleep(0))  # what the block awaits at its end
        async with run_effects(grid, module, state=state) as run:
            await run.wait(fake.closed, deadline=30)
    for key, numbers in written.items():
        assert sorted(set(taken[key])) == numbers
        first = [number for index, number in enumerate(taken[key]) if number not in taken[key][:index]]
        assert first == numbers, "of one key in order, repetitions aside"
    repeated = sum(map(len, taken.values())) - number
    assert 0 < repeated <= 25 * 3


async def test_a_state_file_that_cannot_be_written_ends_it(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, outside = grid_of(), Outside()
    async with connect("node0:1", transport=fake.transport()) as grid:
        with pytest.raises(StorageFullError, match="make room"):
            async with run_effects(grid, module_of((outside.take, {"concurrency": 2})), state=state) as run:
                await run.wait(await write(fake, grid, ["a"]), deadline=30)
                before = cursor_of(state)

                def full(*_: Any) -> None:
                    raise sqlite3.OperationalError("database or disk is full")

                with monkeypatch.context() as patch:
                    patch.setattr(StateFile, "apply", full)
                    epoch = await write(fake, grid, ["b"])
                    await until(lambda: run._task is not None and run._task.done())
                await run.wait(epoch, deadline=30)
        assert cursor_of(state) == before
        async with run_effects(grid, module_of((outside.take, {})), state=state) as run:
            await run.wait(epoch, deadline=30)
    assert outside.values == ["a", "b", "b"]


async def test_what_is_refused(state: Path, tmp_path: Path) -> None:
    fake, outside = grid_of(), Outside()
    good = module_of((outside.take, {}))

    async def enter(module: Any, **options: Any) -> None:
        async with run_effects(grid, module, **{"state": state, **options}):
            pass

    async with connect("node0:1", transport=fake.transport()) as grid:
        with pytest.raises(TriggerModuleError, match="no effect"):
            await enter(module_of())
        with pytest.raises(TriggerModuleError, match="name="):
            await enter(module_of((outside.take, {}), (outside.take, {"on": "t"})))
        with pytest.raises(ConfigurationError, match="it has take"):
            await enter(good, only=["tak"])
        with pytest.raises(UnknownMapError):
            await enter(module_of((outside.take, {"on": "streem"})))
        await enter(good)
        with pytest.raises(ConfigurationError, match="another name"):
            await enter(module_of((outside.take, {"on": "t"})))
        with pytest.raises(ConfigurationError, match="directory"):
            await enter(good, state=tmp_path / "no" / "x.db")
        async with run_effects(grid, good, state=state) as run:
            with pytest.raises(InUseError, match="another runner"):
                await enter(good)
            with pytest.raises(DeadlineError, match="not yet at"):
                await run.wait(fake.epoch, deadline=0.001)
        with pytest.raises(CallerError, match="async with"):
            await run_effects(grid, good, state=state).wait(1)
        fake.grid_id = b"H" * 16
    async with connect("node0:1", transport=fake.transport()) as grid:
        with pytest.raises(WrongGridError, match="another file"):
            await enter(good)


async def test_a_start_that_is_refused_leaves_no_trace(tmp_path: Path, state: Path) -> None:
    fake, outside = grid_of(), Outside()
    good = module_of((outside.take, {}))
    async with connect("node0:1", transport=fake.transport()) as grid:
        for refused, module, options in (
            (UnknownMapError, module_of((outside.take, {"on": "streem"})), {}),
            (UnknownMapError, module_of((outside.take, {}), (outside.take, {"on": "streem", "name": "other"})), {}),
            (ConfigurationError, good, {"start": "then"}),
        ):
            with pytest.raises(refused):
                async with run_effects(grid, module, state=state, **options):
                    pass
            assert not os.listdir(tmp_path)
        async with run_effects(grid, good, state=state, start="begin"):
            pass
        moved = module_of((outside.take, {"name": "new"}), (outside.take, {"on": "t"}))
        with pytest.raises(ConfigurationError, match="another name"):
            async with run_effects(grid, moved, state=state):
                pass
    file = StateFile(state)
    assert [cursor.effect for cursor in file.cursors()] == ["take"]
    file.close()


async def test_a_file_without_a_cursor_is_of_no_grid(state: Path) -> None:
    """As a start leaves it that is killed at its beginning."""
    file = StateFile(state)
    file.lock(b"H" * 16)
    file.close()
    fake, outside = grid_of(), Outside()
    good = module_of((outside.take, {}))
    async with connect("node0:1", transport=fake.transport()) as grid, run_effects(grid, good, state=state):
        pass
    file = StateFile(state)
    with pytest.raises(WrongGridError):
        file.lock(b"H" * 16)
    file.close()


async def test_a_grid_that_goes_away_and_comes_back(state: Path) -> None:
    fake, outside = grid_of(), Outside()
    async with (
        connect("node0:1", transport=fake.transport()) as grid,
        run_effects(grid, module_of((outside.take, {})), state=state) as run,
    ):
        await run.wait(await write(fake, grid, [1]), deadline=30)
        fake.kill(0)
        hellos = fake.hellos
        await until(lambda: fake.hellos > hellos + 2)
        fake.down.clear()
        await run.wait(await write(fake, grid, [2]), deadline=30)
    assert outside.values == [1, 2]
