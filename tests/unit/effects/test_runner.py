"""The runner on a grid of dicts and a clock that is stepped: retries, order, giving up, and where it goes on."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
from tidegrid.client import Grid, connect
from tidegrid.effects import Failure, Progress, StateFile, run_effects
from tidegrid.effects import runner as runners
from tidegrid.effects.retry import exhausted, pause_seconds
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
from tidegrid.triggers.declare import declarations_of

from tests.unit.client.fake_grid import FakeGrid, until
from tests.unit.effects.stage import Outside, SteppedClock, grid_of, module_of


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "effects.db"


async def write(fake: FakeGrid, grid: Grid, values: list[Any], map_name: str = "s", key: Any = None) -> int:
    """Closes an epoch that has them, in their order; of one key each, unless they share one."""
    for value in values:
        await grid.map(map_name).put(value if key is None else key, value)
    return fake.tick()


def cursor_of(state: Path, effect: str = "take") -> int:
    file = StateFile(state)
    try:
        return next(cursor.epoch for cursor in file.cursors() if cursor.effect == effect)
    finally:
        file.close()


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


class Doors:
    """An effect that waits in front of a door, by value; `inside` is who is being served."""

    def __init__(self) -> None:
        self.doors: dict[Any, asyncio.Event] = {}
        self.inside: list[Any] = []
        self.left: list[Any] = []

    async def enter(self, event: EffectEvent) -> None:
        self.inside.append(event.value)
        try:
            await self.doors.setdefault(event.value, asyncio.Event()).wait()
            self.left.append(event.value)
        finally:
            self.inside.remove(event.value)

    def open(self, *values: Any) -> None:
        for value in values:
            self.doors.setdefault(value, asyncio.Event()).set()


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
