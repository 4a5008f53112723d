"""Writes on their way to one map and one partition: columns that fill, batches that are named and sent.

    Column (open: puts append to it) --seal--> Batch (has sequences) --send--> settled | refused and sent again | expired

A column collects for one (map, partition, schema, deadline) while its owner is busy; one future per put, no task, no
message. Sealing it takes consecutive sequences, and from then on the batch keeps them, whatever happens: a retry
sends the same names. Who waits for the answers is behind `Receiver`: futures of puts, or a chunk of a bulk load.

Invariants: a settled batch is never sent; an outcome is delivered once, and the first answer counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, Protocol

from tidegrid.client.entry import Ack, Outcome
from tidegrid.client.errors import NOT_STORED, RETRYABLE, error_of
from tidegrid.client.session import Sequences, is_client_session
from tidegrid.grid.model.errors import DeadlineError, FormatError, GridError, OutcomeUnknownError
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.v1 import grid_pb2

PUT: Final = b"\x01"
DELETE: Final = 2
PER_WRITE_BYTES: Final = 16  # what a row weighs in a message beside its key and value

_new_ack: Any = tuple.__new__


class Receiver(Protocol):
    def accepted(self, versions: Sequence[int], epoch: Epoch) -> None:
        """All writes were accepted in one epoch."""
        ...

    def deliver(self, index: int, outcome: Outcome) -> None: ...

    def fail(self, error: GridError) -> None:
        """The outcome of every write that has none yet."""
        ...

    def part(self, begin: int, end: int) -> Receiver:
        """The receiver of these writes alone, as a batch of their own."""
        ...


class Futures:
    """A Receiver: one future per put. A cancelled one is passed over."""

    __slots__ = ("futures",)

    def __init__(self, futures: list[asyncio.Future[Ack]]) -> None:
        self.futures = futures

    def accepted(self, versions: Sequence[int], epoch: Epoch) -> None:
        for future, version in zip(self.futures, versions, strict=True):
            if not future.done():
                future.set_result(_new_ack(Ack, (version, epoch, False, None)))

    def deliver(self, index: int, outcome: Outcome) -> None:
        future = self.futures[index]
        if not future.done():
            if isinstance(outcome, GridError):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def fail(self, error: GridError) -> None:
        for future in self.futures:
            if not future.done():
                future.set_exception(type(error)(error.message, **error.fields))

    def part(self, begin: int, end: int) -> Futures:
        return Futures(self.futures[begin:end])


class Batch:
    """`lost`: an attempt went out and its answer did not come, so that only memory at the owner knows the outcome."""

    __slots__ = (
        "conditions", "expires", "first", "keys", "lost", "map", "ops", "partition", "problem", "receiver", "renamed", "schema",
        "sequences", "settled", "tries", "values",
    )  # fmt: skip

    def __init__(
        self,
        map_name: str,
        partition: PartitionId,
        schema: int,
        keys: list[bytes],
        values: list[bytes],
        ops: bytes,
        conditions: dict[int, int] | None,
        receiver: Receiver,
        sequences: Sequences,
        first: int,
        expires: float,
    ) -> None:
        self.map = map_name
        self.partition = partition
        self.schema = schema
        self.keys = keys
        self.values = values
        self.ops = ops
        self.conditions = conditions
        self.receiver = receiver
        self.sequences = sequences
        self.first = first
        self.expires = expires
        self.tries = 0
        self.lost = False
        self.renamed = False
        self.settled = False
        self.problem: GridError | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self.keys)) + sum(map(len, self.values)) + PER_WRITE_BYTES * len(self.keys)

    def add_to(self, message: grid_pb2.ExchangeRequest) -> None:
        made = message.writes.add(
            partition=self.partition,
            session=self.sequences.session,
            first_sequence=self.first,
            lowest_unanswered=self.sequences.lowest_unanswered,
            map=self.map,
            keys=self.keys,
            values=self.values,
            ops=self.ops,
            schema=self.schema,
        )
        if self.conditions:
            for index, version in self.conditions.items():
                made.conditions.add(index=index, version=version)

    def part(self, begin: int, end: int) -> Batch:
        """Writes begin..end as a batch that keeps their sequences. The caller splits the sequences too."""
        conditions = None
        if self.conditions:
            conditions = {index - begin: version for index, version in self.conditions.items() if begin <= index < end}
        made = Batch(
            self.map, self.partition, self.schema, self.keys[begin:end], self.values[begin:end], self.ops[begin:end], conditions,
            self.receiver.part(begin, end), self.sequences, self.first + begin, self.expires,
        )  # fmt: skip
        made.tries, made.lost, made.renamed, made.problem = self.tries, self.lost, self.renamed, self.problem
        return made

    def settle(self, answer: grid_pb2.WriteAnswer) -> list[Batch]:
        """Delivers what was answered; returns what the node refused for now, to be sent again."""
        if self.settled:
            return []
        versions = answer.versions
        if len(versions) != len(self.keys) or sum(answer.epoch_counts) > len(versions):
            self.fail(
                FormatError(
                    f"the node answered {len(versions)} of {len(self.keys)} writes; are client and node of compatible versions? {_UNKNOWN}"
                )
            )
            return []
        self.settled = True
        if (
            not answer.errors
            and not answer.repeated_at
            and not answer.parked
            and list(answer.epoch_counts) == [len(versions)]
        ):
            self.sequences.answered(self.first)
            self.receiver.accepted(versions, Epoch(answer.epochs[0]))
            return []
        return self._settle_rows(answer)

    def _settle_rows(self, answer: grid_pb2.WriteAnswer) -> list[Batch]:
        errors = {row.index: error_of(row.error) for row in answer.errors}
        if any(isinstance(error, OutcomeUnknownError) for error in errors.values()) and self._may_rename(len(errors)):
            self.settled = False
            self.problem = next(iter(errors.values()))
            return [self]
        repeated = set(answer.repeated_at)
        parked = {row.index: row.text for row in answer.parked}
        epochs = [epoch for epoch, count in zip(answer.epochs, answer.epoch_counts, strict=True) for _ in range(count)]
        epochs += [0] * (len(answer.versions) - len(epochs))
        refused: list[int] = []
        for index, (version, epoch) in enumerate(zip(answer.versions, epochs, strict=True)):
            error = errors.get(index)
            if error is None:
                self.receiver.deliver(index, Ack(version, Epoch(epoch), index in repeated, parked.get(index)))
            elif isinstance(error, RETRYABLE):
                refused.append(index)
            else:
                self.receiver.deliver(index, error)
        again = [self.part(begin, end) for begin, end in _runs(refused)]
        for batch in again:
            batch.problem = errors[batch.first - self.first]
        self.sequences.split(self.first, [(batch.first, len(batch.keys)) for batch in again])
        return again

    def _may_rename(self, refused: int) -> bool:
        """Whether an expired session is no loss: nothing was applied under these names, nor ever will be.

        That is so when this was the only attempt that reached the node. It happens to a client that was idle for long.
        """
        return (
            not self.lost
            and not self.renamed
            and refused == len(self.keys)
            and is_client_session(self.sequences.session)
        )

    def rename(self, sequences: Sequences) -> None:
        """Goes on under another session."""
        self.sequences.answered(self.first)
        self.sequences, self.first = sequences, sequences.take(len(self.keys))
        self.renamed = True
        self.problem = None

    def fail(self, error: GridError) -> None:
        if not self.settled:
            self.settled = True
            self.sequences.answered(self.first)
            self.receiver.fail(error)

    def expire(self, in_flight: bool) -> None:
        """The deadline has passed: says what is known, and never uses the sequences again."""
        if in_flight or self.lost:
            self.fail(
                DeadlineError(f"no answer within the deadline, so the outcome of the write is unknown. {_UNKNOWN}")
            )
        elif self.problem is not None and isinstance(self.problem, NOT_STORED):
            self.fail(self.problem)
        else:
            self.fail(not_sent(self.problem, "the write was not stored"))


_UNKNOWN: Final = "To find out, read the key with `get`: it was applied if its value and version say so. Or write again with `if_version` (or `if_absent`), which cannot double it"


def not_sent(problem: GridError | None, consequence: str) -> GridError:
    """The error of a request whose deadline passed before a node had it."""
    if problem is None:
        return DeadlineError(
            f"the deadline passed before a node took the request: {consequence}; allow more time, or send less at once"
        )
    return type(problem)(f"{problem.message} ({consequence})", **problem.fields)


def _runs(indexes: list[int]) -> list[tuple[int, int]]:
    """Consecutive indexes as (begin, end)."""
    runs: list[tuple[int, int]] = []
    for index in indexes:
        if runs and runs[-1][1] == index:
            runs[-1] = (runs[-1][0], index + 1)
        else:
            runs.append((index, index + 1))
    return runs


class Column:
    """Puts and deletes that wait to be sent together. Callers append to `keys`, `values` and `futures` themselves."""

    __slots__ = (
        "born",
        "conditions",
        "deletes",
        "futures",
        "keys",
        "limit",
        "map",
        "open",
        "partition",
        "schema",
        "values",
    )

    def __init__(self, map_name: str, partition: PartitionId, schema: int, limit: float, born: float) -> None:
        self.map = map_name
        self.partition = partition
        self.schema = schema
        self.limit = limit  # seconds that its writes may take
        self.born = born
        self.keys: list[bytes] = []
        self.values: list[bytes] = []
        self.futures: list[asyncio.Future[Ack]] = []
        self.conditions: dict[int, int] | None = None
        self.deletes: list[int] | None = None
        self.open = True

    def drop_cancelled(self) -> None:
        """A put that was cancelled before it was sent is not sent."""
        if not any(future.done() for future in self.futures):
            return
        keep = [index for index, future in enumerate(self.futures) if not future.done()]
        moved = {old: new for new, old in enumerate(keep)}
        self.keys = [self.keys[index] for index in keep]
        self.values = [self.values[index] for index in keep]
        self.futures = [self.futures[index] for index in keep]
        if self.conditions is not None:
            self.conditions = {moved[old]: version for old, version in self.conditions.items() if old in moved}
        if self.deletes is not None:
            self.deletes = [moved[old] for old in self.deletes if old in moved]

    def seal(self, sequences: Sequences, writes_max: int, bytes_max: int) -> list[Batch]:
        """Closes it; returns its writes as batches within the limits of one message."""
        self.open = False
        self.drop_cancelled()
        count = len(self.keys)
        if not count:
            return []
        ops = b""
        if self.deletes:
            column = bytearray(PUT * count)
            for index in self.deletes:
                column[index] = DELETE
            ops = bytes(column)
        first = sequences.take(count)
        whole = Batch(
            self.map, self.partition, self.schema, self.keys, self.values, ops, self.conditions,
            Futures(self.futures), sequences, first, self.born + self.limit,
        )  # fmt: skip
        return split(whole, writes_max, bytes_max)


def split(whole: Batch, writes_max: int, bytes_max: int) -> list[Batch]:
    """The same writes in batches of at most so many writes and about so many bytes."""
    count = len(whole.keys)
    if count <= writes_max and whole.size <= bytes_max:
        return [whole]
    parts, begin, weight = [], 0, 0
    for index in range(count):
        size = len(whole.keys[index]) + len(whole.values[index]) + PER_WRITE_BYTES
        if index > begin and (index - begin >= writes_max or weight + size > bytes_max):
            parts.append(whole.part(begin, index))
            begin, weight = index, 0
        weight += size
    parts.append(whole.part(begin, count))
    whole.sequences.split(whole.first, [(part.first, len(part.keys)) for part in parts])
    return parts
