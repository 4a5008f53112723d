"""Why a row is so: three nodes in this process, outputs that are routed, chained, folded, and whose triggers fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tidegrid import embedded
from tidegrid.client import Lineage, LineageStep, Why
from tidegrid.embedded import EmbeddedGrid
from tidegrid.grid.model.errors import (
    CallerError,
    EpochTooNewError,
    EpochTooOldError,
    RejectedError,
    UnknownMapError,
    WrongKindError,
)
from tidegrid.grid.model.ids import PartitionId
from tidegrid.grid.runtime import lineage as reader
from tidegrid.grid.runtime.opening import append_control, fold_control
from tidegrid.v1 import grid_pb2
from tidegrid.v1.control_pb2 import ControlRecord, Horizon

SOURCE = """
from tidegrid.triggers import *

table("raw", key=("n:int",), schema=3)
table("plain", key=("n:int",))
table("typed", like="raw")           # in the same partition
table("copy", like="raw")            # set off by typed, in the same record
table("by_tag", key=("tag", "n:int"))
table("back", key=("n:int",))        # set off by by_tag, routed once more
table("sums", key=("tag",), fold=lambda state, operand: (state or 0) + operand)
stream("log", key=("tag",))

@trigger(on="raw", emits=("typed", "by_tag"))
def translate(write):
    row = write.value
    if row is None:
        yield Delete("typed", write.key)
        return
    yield Put("typed", write.key, {"x": row["x"]})
    yield Put("by_tag", (row["tag"], write.key[0]), row["x"])

@trigger(on="raw", emits=("sums", "log"))
def count(write):
    before = write.previous                # at the owner of the raw write alone
    if before is not None:
        yield Merge("sums", before["tag"], -before["x"])
    if write.value is not None and write.value["x"] == 0:
        yield Put("sums", write.value["tag"], 1000)
    elif write.value is not None:
        yield Merge("sums", write.value["tag"], write.value["x"])
        yield Event("log", write.value["tag"], write.value["x"])

@trigger(on="typed", emits="copy")
def copied(write):
    if write.value is not None:
        yield Put("copy", write.key, write.value)

@trigger(on="by_tag", emits="back")
def on_tag(write):
    if write.value == 13:
        raise ValueError("unlucky")
    yield Put("back", write.key[1], [write.key[0], write.value])
"""


def line(text: str) -> int:
    return next(number for number, found in enumerate(SOURCE.splitlines(), 1) if text in found)


@pytest.fixture
async def grid() -> AsyncIterator[EmbeddedGrid]:
    async with embedded.open(nodes=3, tick=None) as opened:
        await opened.deploy(("m", SOURCE))
        yield opened


async def put(grid: EmbeddedGrid, rows: dict[int, tuple[str, int] | None]) -> int:
    """Returns an epoch that is closed and has all of them."""
    raw, epoch = grid.map("raw"), 0
    for number, row in rows.items():
        ack = await (raw.delete(number) if row is None else raw.put(number, {"tag": row[0], "x": row[1]}))
        epoch = max(epoch, ack.epoch)
    while grid.closed < epoch:
        await grid.tick()
    return epoch


async def told(grid: EmbeddedGrid, name: str, key: Any, **options: Any) -> Why:
    found = await grid.map(name).why(key, **options)
    assert found is not None and found.map == name
    for lineage in found.lineages:
        assert not lineage.broken and all(bool(step.triggers) != bool(step.untold) for step in lineage.steps)
    return found


def triggers(lineage: Lineage) -> list[list[str]]:
    return [[run.name for run in step.triggers] for step in lineage.steps]


def owner(grid: EmbeddedGrid, partition: int) -> int:
    return grid.local.drivers[0].node.control.view.owners[PartitionId(partition)].node


async def move_horizon(grid: EmbeddedGrid, epoch: int) -> None:
    log = grid.local.log
    await append_control(log, await fold_control(log), lambda _: ControlRecord(horizon=Horizon(epoch=epoch)))
    await grid.tick()


async def test_a_raw_write(grid: EmbeddedGrid) -> None:
    await put(grid, {1: ("a", 5)})
    epoch = await put(grid, {1: ("b", 6)})
    found = await told(grid, "raw", 1)
    (lineage,) = found.lineages
    assert (found.value, found.version.version, found.version.epoch) == ({"tag": "b", "x": 6}, 2, epoch)
    assert not lineage.steps and lineage.raw == lineage.row and lineage.row.schema == 3
    assert (lineage.position, lineage.partition) == (found.position, found.partition)
    assert [version.value for version in found.earlier] == [{"tag": "a", "x": 5}] and found.before == 0
    first = await told(grid, "raw", 1, as_of=found.earlier[0].epoch)
    assert first.value == {"tag": "a", "x": 5} and not first.earlier and first.lineages[0].row.version == 1


async def test_an_output_in_the_same_record_and_what_it_set_off_there(grid: EmbeddedGrid) -> None:
    await put(grid, {1: ("a", 5)})
    for name, ran in (("typed", ["translate"]), ("copy", ["translate", "copied"])):
        found = await told(grid, name, 1)
        (lineage,) = found.lineages
        (step,) = lineage.steps
        assert triggers(lineage) == [ran] and step.entry is None and not lineage.delivered
        assert (step.cause.map, step.cause.key, step.cause.value) == ("raw", (1,), {"tag": "a", "x": 5})
        assert lineage.raw == step.cause and step.cause.schema == 3 and step.position == lineage.position
        run = step.triggers[0]
        assert (run.module, run.yielded_line, run.output.map) == ("m", line('yield Put("typed"'), "typed")
    (active,) = [entry for entry in await grid.deployments() if entry.state == "active"]
    assert (step.deployment, step.acts_at) == (active.hash, active.epoch)


async def test_what_was_routed_once_and_twice(grid: EmbeddedGrid) -> None:
    epoch = await put(grid, {number: ("abc"[number % 3], number) for number in range(12)})
    crossed = 0
    for number in range(12):
        tag = "abc"[number % 3]
        found = await told(grid, "back", number, as_of=epoch)
        (lineage,) = found.lineages
        causes = [(step.cause.map, step.cause.value) for step in lineage.steps]
        assert causes == [("by_tag", number), ("raw", {"tag": tag, "x": number})]
        assert triggers(lineage) == [["on_tag"], ["translate"]]
        assert lineage.row.value == [tag, number] and lineage.raw is not None and lineage.raw.key == (number,)
        for step, after in zip(lineage.steps, [lineage.partition, lineage.steps[0].partition], strict=True):
            assert (step.entry is not None) == (step.partition != after)
            crossed += step.entry is not None
            assert step.epoch == lineage.epoch <= lineage.stamp
        assert lineage.delivered == (lineage.steps[0].entry is not None)
        assert lineage.steps[0].delivered == (lineage.steps[1].entry is not None)
    assert crossed > 12


async def test_the_operands_of_a_fold_newest_first(grid: EmbeddedGrid) -> None:
    for number in range(12):
        await put(grid, {number: ("a", 10 + number)})
    epoch = await put(grid, {3: ("b", 1)})
    found = await told(grid, "sums", "a", rows=4)
    assert found.merged and found.value == sum(range(10, 22)) - 13 and found.before == 9 and not found.earlier
    assert [lineage.row.value for lineage in found.lineages] == [-13, 21, 20, 19]
    assert [lineage.row.op for lineage in found.lineages] == ["merge"] * 4
    assert found.version.epoch == epoch
    raws = [lineage.raw for lineage in found.lineages]
    assert [raw and (raw.key, raw.value) for raw in raws] == [
        ((3,), {"tag": "b", "x": 1}), ((11,), {"tag": "a", "x": 21}), ((10,), {"tag": "a", "x": 20}),
        ((9,), {"tag": "a", "x": 19}),
    ]  # fmt: skip
    everything = await told(grid, "sums", "a", rows=50)
    assert len(everything.lineages) == 13 and everything.before == 0
    assert all(triggers(lineage) == [["count"]] for lineage in everything.lineages)
    yielded = [lineage.steps[0].triggers[0].yielded_line for lineage in everything.lineages]
    assert yielded == [line("-before"), *[line('Merge("sums", write')] * 12]
    before = await told(grid, "sums", "a", as_of=epoch - 1, rows=2)
    assert [lineage.row.value for lineage in before.lineages] == [21, 20] and before.before == 10


async def test_what_came_before_a_put_to_a_fold_does_not_count(grid: EmbeddedGrid) -> None:
    for number, x in enumerate((10, 0, 7)):
        await put(grid, {number: ("a", x)})
    found = await told(grid, "sums", "a")
    assert found.value == 1007 and found.before == 0
    assert [(lineage.row.op, lineage.row.value) for lineage in found.lineages] == [("merge", 7), ("put", 1000)]


async def test_triggers_that_look_up_tables_of_another_node_are_told_by_it(
    grid: EmbeddedGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(grid, {number: ("a", 1 + number) for number in range(12)})
    asked: list[int] = []
    name = reader.LineageReader.name

    async def noted(self: reader.LineageReader, step: grid_pb2.LineageStep) -> grid_pb2.LineageStep:
        asked.append(step.partition)
        assert step.elsewhere and [run.name for run in step.candidates] == ["count"]
        return await name(self, step)

    monkeypatch.setattr(reader.LineageReader, "name", noted)
    found = await told(grid, "sums", "a", rows=12)
    steps: list[LineageStep] = [step for lineage in found.lineages for step in lineage.steps]
    assert triggers(found.lineages[0]) == [["count"]] and all(step.triggers for step in steps)
    here = owner(grid, found.partition)
    assert sorted(asked) == sorted(step.partition for step in steps if owner(grid, step.partition) != here) != []


async def test_a_deleted_key(grid: EmbeddedGrid) -> None:
    await put(grid, {1: ("a", 5), 2: ("a", 6)})
    await put(grid, {1: None})
    found = await told(grid, "typed", 1)
    assert found.version.deleted and found.value is None
    (lineage,) = found.lineages
    assert lineage.row.op == "delete" and lineage.raw is not None and lineage.raw.op == "delete"
    assert lineage.row.value is None and lineage.raw.value is None
    assert triggers(lineage) == [["translate"]] and [version.value for version in found.earlier] == [{"x": 5}]


async def test_a_delivered_row_whose_own_triggers_failed(grid: EmbeddedGrid) -> None:
    failed = 0
    for number in range(20):
        try:
            await put(grid, {number: ("t", 13)})
        except RejectedError:  # the row is in the partition of the write, so its triggers run with it, and can refuse
            continue
        found = await told(grid, "by_tag", ("t", number))
        (lineage,) = found.lineages
        (failure,) = lineage.failures
        assert lineage.delivered and (failure.trigger, failure.line) == ("on_tag", line("raise ValueError"))
        assert "unlucky" in failure.message
        assert await grid.map("back").why(number) is None
        failed += 1
    assert failed


async def test_the_code_of_the_day_counts(grid: EmbeddedGrid) -> None:
    first = await put(grid, {1: ("a", 5)})
    changed = SOURCE.replace('{"x": row["x"]}', '{"y": row["x"]}').replace("def translate", "\n\ndef renamed")
    done = await grid.deploy(("m", changed))
    await put(grid, {1: ("a", 6)})
    new, old = await told(grid, "typed", 1), await told(grid, "typed", 1, as_of=first)
    assert (old.value, new.value) == ({"x": 5}, {"y": 6})
    steps = [found.lineages[0].steps[0] for found in (old, new)]
    assert [step.triggers[0].name for step in steps] == ["translate", "renamed"]
    assert steps[1].deployment == done.plan.hash != steps[0].deployment
    assert steps[0].acts_at < steps[1].acts_at == done.epoch


async def test_what_memory_no_longer_holds_is_looked_for_in_the_log(grid: EmbeddedGrid) -> None:
    for number in range(1, 9):
        await put(grid, {1: ("a", number)})
    old = grid.closed
    await put(grid, {1: ("a", 100)})
    await forget(grid)
    found = await told(grid, "typed", 1, rows=3)
    assert [version.value for version in found.earlier] == [{"x": 8}, {"x": 7}, {"x": 6}] and found.before == 5
    assert triggers(found.lineages[0]) == [["translate"]]
    sums = await told(grid, "sums", "a", rows=5)
    assert [lineage.row.value for lineage in sums.lineages] == [100, -8, 8, -7, 7] and sums.before == 12
    (step,) = sums.lineages[2].steps
    assert "past the history" in step.untold and [run.name for run in step.candidates] == ["count"]
    with pytest.raises(EpochTooOldError):
        await grid.map("typed").why(1, as_of=old)


async def forget(grid: EmbeddedGrid) -> None:
    """Memory lets go of all that is superseded."""
    await move_horizon(grid, grid.closed)
    tables = [t for d in grid.local.drivers for p in d.node.partitions.values() for t in p.tables.values()]
    while any(table.version_count > table.entry_count for table in tables):
        await grid.tick()


async def test_late_rows_are_found_in_the_log_by_their_epoch(grid: EmbeddedGrid) -> None:
    for x in range(1, 4):
        for number in range(6):
            await grid.map("raw").put(number, {"tag": "a", "x": x})
    await put(grid, dict.fromkeys(range(6), ("a", 4)))
    await forget(grid)
    late = 0
    for number in range(6):
        found = await told(grid, "by_tag", ("a", number))
        late += found.lineages[0].stamp > found.lineages[0].epoch
        assert [version.value for version in found.earlier] == [3, 2, 1] and found.before == 0
        assert found.earlier[0].epoch == found.version.epoch
    assert late


async def test_what_cannot_be_asked(grid: EmbeddedGrid) -> None:
    assert await grid.map("typed").why(77) is None
    await put(grid, {77: ("a", 1)})
    assert await grid.map("typed").why(77, as_of=1) is None
    with pytest.raises(UnknownMapError):
        await grid.map("tpyed").why(1)
    with pytest.raises(WrongKindError):
        await grid.map("log").why("a")
    with pytest.raises(EpochTooNewError):
        await grid.map("typed").why(1, as_of=1_000_000)
    with pytest.raises(CallerError):
        await grid.map("typed").why(1, rows=0)


async def test_a_step_that_nobody_was_told(grid: EmbeddedGrid) -> None:
    await put(grid, {1: ("a", 1)})
    found = await told(grid, "typed", 1)
    for position, number, says in ((found.position + 1, 0, "no record"), (found.position, 500, "no row 500")):
        step = grid_pb2.LineageStep(partition=found.partition, position=position, cause_number=number)
        with pytest.raises(CallerError) as caught:
            await grid._dispatcher.ask(
                "Why", grid_pb2.WhyRequest(step=step), grid._loop.time() + 10, PartitionId(found.partition)
            )
        assert says in caught.value.message
