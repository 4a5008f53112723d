"""Effects on a real grid in this process: what triggers emit, of any age, across restarts of grid and runner."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tidegrid import embedded
from tidegrid.effects import StateFile, run_effects
from tidegrid.embedded import EmbeddedGrid
from tidegrid.grid.model.errors import EpochTooNewError
from tidegrid.triggers import EffectEvent

MODULE = """
from tidegrid.triggers import EffectEvent, Event, Put, effect, stream, table, trigger

table("raw", key=("group", "item:int"))
table("latest", like="raw")
stream("late")

@trigger(on="raw", emits=("latest", "late"))
def translate(write):
    yield Put("latest", write.key, write.value)
    yield Event("late", write.key, {"minutes": write.value})
    yield Event("late", write.key, {"minutes": -write.value})

@effect(on="late", concurrency=4)
def mail(event: EffectEvent):
    import outside
    outside.mails.append(event)

@effect(on="latest")
async def index(event: EffectEvent):
    import outside
    outside.rows.append(event)
"""


class Outside(ModuleType):
    def __init__(self) -> None:
        super().__init__("outside")
        self.mails: list[EffectEvent] = []
        self.rows: list[EffectEvent] = []


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> Outside:
    made = Outside()
    monkeypatch.setitem(sys.modules, "outside", made)
    return made


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "flights.py"
    path.write_text(MODULE)
    return path


async def written(grid: EmbeddedGrid, first: int, count: int) -> int:
    for number in range(first, first + count):
        await grid.map("raw").put((f"g{number % 5}", number % 3), number)
    return await grid.tick()


async def test_what_triggers_emit_across_restarts(tmp_path: Path, module: Path, outside: Outside) -> None:
    options: dict[str, Any] = {"nodes": 3, "tick": None}
    state = tmp_path / "effects.db"
    async with embedded.open(tmp_path / "data", triggers=[module], **options) as grid:
        await written(grid, 1, 20)  # before anybody follows
        async with run_effects(grid, module, state=state, start="begin") as run:
            last = await written(grid, 21, 20)
            await run.wait(last, deadline=60)
        await written(grid, 41, 20)  # while nobody does
    async with embedded.open(tmp_path / "data", **options) as grid:  # from its log
        last = await written(grid, 61, 20)
        async with run_effects(grid, module, state=state, start="begin") as run:
            await run.wait(last, deadline=60)
            assert [(progress.done, progress.epoch >= last) for progress in run.progress] == [(160, True), (80, True)]
    assert sorted(event.value for event in outside.rows) == list(range(1, 81))
    assert sorted(event.value["minutes"] for event in outside.mails) == [*range(-80, 0), *range(1, 81)]
    for key in {event.key for event in outside.mails}:
        minutes = [event.value["minutes"] for event in outside.mails if event.key == key]
        assert [abs(number) for number in minutes] == sorted(abs(number) for number in minutes)
        assert all(even == -odd for even, odd in zip(minutes[::2], minutes[1::2], strict=True)), "as emitted"
        rows = [event.value for event in outside.rows if event.key == key]
        assert rows == sorted(rows)
    assert len({event.id for event in [*outside.mails, *outside.rows]}) == 240
    assert all(event.time_ms > 0 and event.op in ("event", "put") for event in [*outside.mails, *outside.rows])


async def test_the_place_of_an_event_is_what_a_feed_says(tmp_path: Path, module: Path, outside: Outside) -> None:
    async with embedded.open(nodes=2, triggers=[module]) as grid:
        async with run_effects(grid, module, state=tmp_path / "effects.db", only=["mail"]) as run:
            ack = await grid.map("raw").put(("a", 1), 7)
            await run.wait(ack.epoch, deadline=60)
        async with grid.map("late").subscribe(ack.epoch - 1) as feed:
            batch = await anext(feed)
    fields = ("partition", "position", "index", "epoch", "time_ms", "op", "key", "value", "version")
    told = [tuple(getattr(event, name) for name in fields) for event in outside.mails]
    assert told == [tuple(getattr(change, name) for name in fields) for change in batch.changes] and len(told) == 2


async def test_a_commit_group_has_each_of_its_effects(tmp_path: Path, module: Path, outside: Outside) -> None:
    state = tmp_path / "effects.db"
    async with embedded.open(nodes=3, triggers=[module]) as grid, run_effects(grid, module, state=state) as run:
        async with grid.commit_group() as group:
            for number in range(1, 9):
                group.map("raw").put(("g", number), number)
        await run.wait(group.outcome.epoch, deadline=60)
    assert {event.epoch for event in [*outside.mails, *outside.rows]} == {group.outcome.epoch}
    assert len(outside.mails) == 16 and len(outside.rows) == 8


async def test_a_grid_made_anew_is_another_one(tmp_path: Path, module: Path, outside: Outside) -> None:
    """Its positions are counted from the start, so ids must not meet those of the first."""
    for number in range(2):
        options: dict[str, Any] = {"state": tmp_path / f"{number}.db", "start": "begin", "only": ["index"]}
        async with embedded.open(triggers=[module]) as grid, run_effects(grid, module, **options) as run:
            ack = await grid.map("raw").put(("a", 1), 7)
            await run.wait(ack.epoch, deadline=60)
    first, second = outside.rows
    assert first.id != second.id


async def test_an_epoch_that_nobody_has_come_to_is_refused(tmp_path: Path, module: Path, outside: Outside) -> None:
    async with embedded.open(triggers=[module]) as grid:
        ack = await grid.map("raw").put(("a", 1), 7)
        with pytest.raises(EpochTooNewError):
            async with run_effects(grid, module, state=tmp_path / "new.db", start=ack.epoch + 1_000_000):
                pass
        async with run_effects(
            grid, module, state=tmp_path / "own.db", start=ack.epoch
        ) as run:  # perhaps not closed yet
            await run.wait(ack.epoch, deadline=60)
    assert len(outside.rows) == 1 and len(outside.mails) == 2


async def test_the_state_is_there_while_it_runs(tmp_path: Path, module: Path, outside: Outside) -> None:
    """Each end is on disk when `wait` returns: a kill right then would lose nothing."""
    state = tmp_path / "effects.db"
    async with embedded.open(triggers=[module]) as grid, run_effects(grid, module, state=state) as run:
        for number in range(1, 6):
            ack = await grid.map("raw").put(("a", number), number)
            await run.wait(ack.epoch, deadline=60)
            file = StateFile(state)
            cursors = {cursor.effect: cursor for cursor in file.cursors()}
            file.close()
            assert (cursors["mail"].done, cursors["index"].done) == (2 * number, number)
            assert cursors["mail"].epoch >= ack.epoch


async def test_what_a_switch_of_generations_changes_has_no_effects(tmp_path: Path, outside: Outside) -> None:
    other = MODULE.replace('Put("latest", write.key, write.value)', 'Put("latest", write.key, 10 * write.value)')
    effects = tmp_path / "effects.py"
    effects.write_text(MODULE)
    async with embedded.open(tick=0.005) as grid:

        async def write(value: int) -> int:
            ack = await grid.map("raw").put(("g", value), value)
            await grid.wait_closed(ack.epoch)
            return ack.epoch

        await grid.deploy(("flights", MODULE))
        for value in range(5):
            await write(value)
        async with run_effects(grid, effects, state=tmp_path / "effects.db", start="now") as run:
            await run.wait(await write(5), deadline=60)
            await grid.deploy(("flights", other))
            await grid.regenerate("latest")
            await run.wait(await write(6), deadline=60)
            await grid.show_generations({"latest": 1})
            await run.wait(await write(7), deadline=60)
    assert [event.value for event in outside.rows] == [5, 60, 70]


def test_the_page_about_effects_says_what_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "effects.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for name, block in zip(("shop.py", "mails.py"), blocks, strict=False):
        assert block.startswith(f"# {name}\n")
        Path(name).write_text(block)  # as a reader copies it: the lines it tells of are these
    exec(compile(blocks[2], "effects.md", "exec"), {})
    said = capsys.readouterr().out
    assert said and said in page
