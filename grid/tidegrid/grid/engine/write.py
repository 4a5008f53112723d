"""One batch of writes on its way through the engine: to one map and one partition, from one session.

Lifecycle: admitted (some rows may be answered from request memory at once), queued, computed into one or more
frames, answered row by row as those land, complete when no row is unanswered. A retry that overlaps a batch still
on its way joins it: it gets the same answers when they are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.v1 import grid_pb2

PER_WRITE_BYTES = 32  # what a row weighs beside its key and value, in queues and records


def section_bytes(name: str) -> int:
    """What one more section weighs at most beside its rows. Its map is named in the record too."""
    return 2 * len(name.encode()) + 48


class WriteRequest:
    """Rows are columns of equal length. `conditions` maps a row to the version it expects (0: absent).

    `reply_to` is the shell's own and opaque here. After completion `versions`, `epochs` and `errors` hold the answers;
    `parked` says, by row, why what was stored has no outputs (None: nothing is parked).
    """

    __slots__ = (
        "conditions", "epochs", "errors", "first_sequence", "joiners", "keys", "lowest_unanswered", "map", "next_row",
        "ops", "parked", "partition", "repeated", "reply_to", "schema", "session", "size", "unanswered", "values", "versions",
    )  # fmt: skip

    def __init__(
        self,
        partition: PartitionId,
        session: bytes,
        first_sequence: int,
        lowest_unanswered: int,
        map_name: str,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        ops: bytes,
        schema: int = 0,
        conditions: Mapping[int, int] | None = None,
        reply_to: Any = None,
    ) -> None:
        self.partition = partition
        self.session = session
        self.first_sequence = first_sequence
        self.lowest_unanswered = lowest_unanswered
        self.map = map_name
        self.keys = keys
        self.values = values
        self.ops = ops
        self.schema = schema
        self.conditions = conditions
        self.reply_to = reply_to
        count = len(keys)
        self.size = sum(map(len, keys)) + sum(map(len, values)) + PER_WRITE_BYTES * count
        self.next_row = 0
        self.unanswered = count
        self.versions: list[int] = [0] * count
        self.epochs: list[int] = [0] * count
        self.errors: dict[int, GridError] = {}
        self.repeated: list[int] = []
        self.parked: dict[int, str] | None = None
        self.joiners: list[tuple[WriteRequest, int, int, bool]] = []  # (who, its row, my row, as a repeat)

    def part(self, begin: int, end: int) -> WriteRequest:
        """Rows begin..end as a request of its own, whose answers come back to this one."""
        conditions = None
        if self.conditions:
            conditions = {row - begin: version for row, version in self.conditions.items() if begin <= row < end}
        made = WriteRequest(
            self.partition, self.session, self.first_sequence + begin, self.lowest_unanswered, self.map,
            self.keys[begin:end], self.values[begin:end], self.ops[begin:end], self.schema, conditions,
        )  # fmt: skip
        made.joiners = [(self, begin + row, row, False) for row in range(end - begin)]
        return made

    def answer_row(self, row: int, version: int, epoch: Epoch, error: GridError | None, repeated: bool) -> None:
        self.versions[row], self.epochs[row] = version, epoch
        if error is not None:
            self.errors[row] = error
        elif repeated:
            self.repeated.append(row)
        self.unanswered -= 1

    def answer_rows(self, begin: int, versions: Sequence[int], epoch: Epoch, errors: Mapping[int, GridError]) -> None:
        """Answers for rows begin.. in one go; `errors` by row."""
        end = begin + len(versions)
        self.versions[begin:end] = versions
        self.epochs[begin:end] = [epoch] * (end - begin)
        if errors:
            self.errors.update(errors)
            for row in errors:
                self.epochs[row] = 0
        self.unanswered -= end - begin

    def refuse_rest(self, error: GridError) -> None:
        """All that is in no frame yet ends with this error, and is not computed when a frame with the rows before it has
        to be computed again."""
        begin, rows = self.next_row, range(self.next_row, len(self.keys))
        self.answer_rows(begin, [0] * len(rows), Epoch(0), dict.fromkeys(rows, error))
        self.keys, self.values, self.ops = self.keys[:begin], self.values[:begin], self.ops[:begin]

    def note_parked(self, parked: Mapping[int, str]) -> None:
        self.parked = {**(self.parked or {}), **parked}

    def pass_on(self) -> list[WriteRequest]:
        """Gives the answers to those who joined; returns the requests that this completes."""
        done = []
        for other, row, mine, repeat in self.joiners:
            other.answer_row(
                row,
                self.versions[mine],
                Epoch(self.epochs[mine]),
                self.errors.get(mine),
                repeat or mine in self.repeated,
            )
            if self.parked is not None and mine in self.parked:
                other.note_parked({row: self.parked[mine]})
            if not other.unanswered:
                done.append(other)
        self.joiners = []
        return done


def write_request(batch: grid_pb2.WriteBatch, reply_to: Any = None) -> WriteRequest:
    """A batch as it came over a wire, from a client or from the coordinator of a commit group."""
    keys, values = list(batch.keys), list(batch.values)
    if not values and batch.ops:
        values = [b""] * len(keys)  # deletes only
    conditions = {condition.index: condition.version for condition in batch.conditions} or None
    return WriteRequest(
        PartitionId(batch.partition), batch.session, batch.first_sequence, batch.lowest_unanswered,
        batch.map, keys, values, batch.ops, batch.schema, conditions, reply_to,
    )  # fmt: skip
