"""Why a row is as it is: the raw writes behind a version of a key, the triggers that ran, and the way between.

    told = await grid.map("flights").why(key)
    told.lineages[0].raw                            the write that made it
    told.lineages[0].steps                          from there, the nearest to the row first

The owner of the key answers from the logs. A step whose triggers looked up tables of another partition is asked of the
owner of that partition afterwards. Pure values from here on; keys and values are decoded anew each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tidegrid.client.dispatcher import Dispatcher
from tidegrid.client.history import Version
from tidegrid.client.moment import Moment, check_number
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.model.keys import Key, decode_key
from tidegrid.grid.model.values import decode_value
from tidegrid.v1 import grid_pb2

ROWS: Final = 10
_DELETE: Final = 2
_OPS: Final = ("", "put", "delete", "event", "merge")


class LineageRow(NamedTuple):
    """A write, an output, or an operand (`op` is "merge"). `version` 0: it was sent on and got its number there. `op` "": an
    operand that a regeneration made and that cannot be told; `value` is what it led to."""

    map: str
    raw_key: bytes
    op: str
    raw_value: bytes | None
    version: int
    schema: int

    @property
    def key(self) -> Key:
        return decode_key(self.raw_key)

    @property
    def value(self) -> Any:
        return None if self.raw_value is None else decode_value(self.raw_value)


class TriggerRun(NamedTuple):
    """A trigger that ran. `line` is its own, `yielded_line` where it put `output` out, 0 where that is not known."""

    name: str
    module: str
    line: int
    yielded_line: int
    output: LineageRow


class TriggerFailure(NamedTuple):
    trigger: str
    module: str
    line: int
    message: str


class LineageStep(NamedTuple):
    """In the record at `position` of `partition`, `cause` set off `triggers`, the last of which put out `made`.

    `delivered`: the cause came from another partition itself. `entry`: of the outbox, where `made` left for another
    partition. Where `triggers` is empty, `untold` says why, and `candidates` which it may have been. `deployment` is its
    hash; it acts from epoch `acts_at` on.
    """

    partition: PartitionId
    position: Position
    epoch: Epoch
    stamp: Epoch
    time_ms: int
    cause: LineageRow
    delivered: bool
    made: LineageRow
    entry: int | None
    triggers: tuple[TriggerRun, ...]
    untold: str
    candidates: tuple[TriggerRun, ...]
    deployment: bytes
    acts_at: Epoch


class Regenerated(NamedTuple):
    """A row was made by a regeneration, with the code of `deployment` (a hash), which acts from epoch `acts_at` on, and not
    by what was in force when its raw write came: `deployment_then`, from `acts_at_then` on (empty and 0: no code).

    `possible`: where the steps cannot be told, raw writes of which it may come; `possible_count`: how many there are.
    """

    deployment: bytes
    acts_at: Epoch
    deployment_then: bytes
    acts_at_then: Epoch
    possible: tuple[LineageRow, ...]
    possible_count: int


class Lineage(NamedTuple):
    """Of one row. `epoch`: readers see it as of then; `stamp`: it was in the log then. `failures`: of the triggers on this
    row itself, whose outputs are missing. `broken`: why the way back ends before a raw write. `regenerated`: the row is
    in no log; place and epoch are those of what it follows from."""

    row: LineageRow
    partition: PartitionId
    position: Position
    epoch: Epoch
    stamp: Epoch
    time_ms: int
    delivered: bool
    failures: tuple[TriggerFailure, ...]
    steps: tuple[LineageStep, ...]
    broken: str
    regenerated: Regenerated | None = None

    @property
    def raw(self) -> LineageRow | None:
        """The write of a client that it comes from: the row itself, if no trigger made it. None: see `broken`."""
        if self.broken:
            return None
        return self.steps[-1].cause if self.steps else self.row


class Why(NamedTuple):
    """`version` of `key` in `map`, what led to it, and what was before it.

    `lineages` has one; of a map with a fold (`merged`) one for each operand, the newest first. `before`: so many operands,
    or versions, lie before those told here; `earlier` are versions, the newest first. `generation`: of the map, that this is
    told of (0: it has but one); below epoch `since` a regeneration has made it (0: nothing of it). `uncounted`: more than `before` may be before
    these, of which neither memory nor a log knows.
    """

    map: str
    raw_key: bytes
    version: Version
    partition: PartitionId
    position: Position
    merged: bool
    lineages: tuple[Lineage, ...]
    earlier: tuple[Version, ...]
    before: int
    generation: int = 0
    since: Epoch = Epoch(0)
    uncounted: bool = False

    @property
    def key(self) -> Key:
        return decode_key(self.raw_key)

    @property
    def value(self) -> Any:
        return self.version.value


async def why(
    dispatcher: Dispatcher, map_name: str, partition: PartitionId, key: bytes, moment: Moment, rows: int, until: float
) -> Why | None:
    check_number("rows", rows, 1, 1 << 16)
    request = grid_pb2.WhyRequest(
        map=map_name, partition=partition, key=key, as_of=moment.as_of, rows_max=rows, generation=moment.generation
    )
    reply: grid_pb2.WhyReply = await dispatcher.ask("Why", request, until, partition)
    if not reply.found:
        return None
    for lineage in reply.lineages:
        for step in lineage.steps:
            if step.elsewhere:
                await _ask_its_owner(dispatcher, step, until)
    return Why(
        map_name,
        key,
        _version(reply.version, reply.epoch, reply.time_ms, reply.deleted, reply.value),
        partition,
        Position(reply.position),
        reply.merged,
        tuple(map(_lineage, reply.lineages)),
        tuple(_version(v.version, v.epoch, v.time_ms, v.deleted, v.value) for v in reply.earlier),
        reply.before,
        reply.generation,
        Epoch(reply.since),
        reply.uncounted,
    )


async def _ask_its_owner(dispatcher: Dispatcher, step: grid_pb2.LineageStep, until: float) -> None:
    """What cannot be asked stays untold, and the step says so."""
    try:
        reply = await dispatcher.ask("Why", grid_pb2.WhyRequest(step=step), until, PartitionId(step.partition))
    except GridError as problem:
        step.untold += f", and that does not tell: {problem.message}"
    else:
        step.CopyFrom(reply.step)


def _version(number: int, epoch: int, time_ms: int, deleted: bool, value: bytes) -> Version:
    return Version(number, Epoch(epoch), time_ms, None if deleted else value)


def _row(row: grid_pb2.LineageRow) -> LineageRow:
    op = _OPS[row.op] if row.op < len(_OPS) else str(row.op)
    value = None if row.op == _DELETE or not (row.op or row.value) else row.value
    return LineageRow(row.map, row.key, op, value, row.version, row.schema)


def _runs(runs: Sequence[grid_pb2.TriggerRun]) -> tuple[TriggerRun, ...]:
    return tuple(TriggerRun(run.name, run.module, run.line, run.yielded_line, _row(run.output)) for run in runs)


def _step(step: grid_pb2.LineageStep) -> LineageStep:
    return LineageStep(
        PartitionId(step.partition), Position(step.position), Epoch(step.effective), Epoch(step.stamp), step.time_ms,
        _row(step.cause), step.delivered, _row(step.made), step.entry if step.HasField("entry") else None,
        _runs(step.triggers), step.untold, _runs(step.candidates), step.deployment, Epoch(step.acts_at),
    )  # fmt: skip


def _lineage(found: grid_pb2.Lineage) -> Lineage:
    failures = tuple(TriggerFailure(one.trigger, one.module, one.line, one.message) for one in found.failures)
    return Lineage(
        _row(found.row), PartitionId(found.partition), Position(found.position), Epoch(found.effective),
        Epoch(found.stamp), found.time_ms, found.delivered, failures, tuple(map(_step, found.steps)), found.broken,
        _regenerated(found) if found.regenerated else None,
    )  # fmt: skip


def _regenerated(found: grid_pb2.Lineage) -> Regenerated:
    return Regenerated(
        found.deployment, Epoch(found.acts_at), found.deployment_then, Epoch(found.acts_at_then),
        tuple(map(_row, found.possible)), found.possible_count,
    )  # fmt: skip
