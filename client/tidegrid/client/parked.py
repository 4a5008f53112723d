"""Parked writes: stored, while a trigger failed on them, so that nothing of what follows from them is there.

    for write in await grid.parked("orders.raw"):
        print(write.id, write.key, write.message)
    outcomes = await grid.redrive(map="orders.raw")       # once the trigger is mended

Each partition is asked by itself, its owner, page by page. A redrive may be asked for again: what has been redriven is
not parked any more, and is told as "gone".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from tidegrid.client.dispatcher import Dispatcher
from tidegrid.grid.model.errors import CallerError
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.model.keys import Key, decode_key
from tidegrid.v1 import grid_pb2

PAGE_ROWS: Final = 500
REDRIVE_ROWS: Final = 200  # of one request

RedriveWord = Literal["redriven", "dropped", "failed", "superseded", "gone"]
_ID: Final = re.compile(r"(\d+)\.(\d+)\.(\d+)")
_OPS: Final = ("", "put", "delete", "event", "merge")


class ParkedWrite(NamedTuple):
    """`id` names it, to the grid and to people. `superseded`: there is a later version of its key. `routed`: an output
    of another partition, on which a trigger of its map failed. `tries`: redrives that failed; `message` is of the last.
    """

    id: str
    map: str
    key: Key
    op: str
    schema: int
    version: int
    epoch: Epoch
    time_ms: int
    trigger: str
    module: str
    line: int
    message: str
    tries: int
    routed: bool
    superseded: bool


class Redriven(NamedTuple):
    """What became of one. `redriven`: its outputs are there, at `epoch`; `dropped`: it is forgotten; `failed`: its trigger
    failed again, as `message` says, and it stays parked; `superseded`: a later version of its key was written, so it stays
    parked, unless forced; `gone`: it is not parked, or not any more.
    """

    id: str
    outcome: RedriveWord
    message: str
    epoch: Epoch


async def parked(dispatcher: Dispatcher, map_name: str | None, until: float) -> list[ParkedWrite]:
    """All of them, the oldest of each partition first."""
    found = await asyncio.gather(*(_of(dispatcher, of, map_name, until) for of in dispatcher.partitions))
    return [write for writes in found for write in writes]


async def _of(dispatcher: Dispatcher, partition: PartitionId, map_name: str | None, until: float) -> list[ParkedWrite]:
    request = grid_pb2.ParkedRequest(partition=partition, map=map_name or "", rows_max=PAGE_ROWS)
    writes: list[ParkedWrite] = []
    while True:
        reply: grid_pb2.ParkedReply = await dispatcher.ask("Parked", request, until, partition)
        writes += map(_write, reply.writes)
        if not reply.more or not reply.writes:
            return writes
        request.after.CopyFrom(reply.writes[-1].id)


def _write(found: grid_pb2.ParkedWrite) -> ParkedWrite:
    return ParkedWrite(
        _text(found.partition, found.id), found.map, decode_key(found.key), _OPS[found.op], found.schema, found.version,
        Epoch(found.epoch), found.time_ms, found.trigger, found.module, found.line, found.message, found.tries,
        found.routed, found.superseded,
    )  # fmt: skip


async def redrive(
    dispatcher: Dispatcher, ids: Iterable[str], *, force: bool, drop: bool, until: float
) -> list[Redriven]:
    """In the order of `ids`; those of one partition one after the other."""
    asked: dict[PartitionId, list[grid_pb2.ParkedId]] = {}
    order: dict[str, None] = {}
    for text in ids:
        partition, of = _parsed(text, len(dispatcher.partitions))
        name = _text(partition, of)
        if name not in order:
            order[name] = None
            asked.setdefault(partition, []).append(of)
    found = await asyncio.gather(
        *(_redrive(dispatcher, partition, rows, force, drop, until) for partition, rows in asked.items())
    )
    outcomes = {outcome.id: outcome for part in found for outcome in part}
    return [outcomes[name] for name in order]


async def _redrive(
    dispatcher: Dispatcher,
    partition: PartitionId,
    ids: Sequence[grid_pb2.ParkedId],
    force: bool,
    drop: bool,
    until: float,
) -> list[Redriven]:
    outcomes: list[Redriven] = []
    while len(outcomes) < len(ids):
        rows = ids[len(outcomes) : len(outcomes) + REDRIVE_ROWS]
        request = grid_pb2.RedriveRequest(partition=partition, ids=rows, force=force, drop=drop)
        reply: grid_pb2.RedriveReply = await dispatcher.ask("Redrive", request, until, partition)
        outcomes += (_outcome(partition, found) for found in reply.outcomes)  # perhaps fewer, when the owner moved
    return outcomes


def _outcome(partition: PartitionId, found: grid_pb2.RedriveOutcome) -> Redriven:
    word: RedriveWord = found.outcome  # type: ignore[assignment]
    return Redriven(_text(partition, found.id), word, found.message, Epoch(found.epoch))


def _text(partition: int, of: grid_pb2.ParkedId) -> str:
    return f"{partition}.{of.position}.{of.row}"


def is_id(text: str) -> bool:
    """Whether it is the form of an id: partition, position and row."""
    return _ID.fullmatch(text) is not None


def _parsed(text: str, partitions: int) -> tuple[PartitionId, grid_pb2.ParkedId]:
    numbers = _ID.fullmatch(text)
    if numbers is None or int(numbers[1]) >= partitions or int(numbers[2]) >= 1 << 64 or int(numbers[3]) >= 1 << 32:
        raise CallerError(
            f"{text!r} is no id of a parked write; they are as `grid.parked()` and `tidegrid parked` say them"
        )
    return PartitionId(int(numbers[1])), grid_pb2.ParkedId(position=int(numbers[2]), row=int(numbers[3]))
