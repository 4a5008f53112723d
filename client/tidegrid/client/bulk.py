"""Many writes: chunks of rows, encoded in bulk, a few in flight per owner, one outcome per row and no future per row.

Rows are taken from their source only when there is room in flight, so memory is bounded however long it is. Two
writes to one key keep their order: a chunk that touches a key of a chunk still in flight waits for that one.

With a `NamedSession` the sequence of a row is its ordinal within its partition, counted over the rows whose key can
be encoded, sent or not: the same rows loaded again bear the same names, whatever the limits of the day.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final, overload

from tidegrid.client.batch import Batch
from tidegrid.client.dispatcher import Dispatcher
from tidegrid.client.entry import Ack, Outcome
from tidegrid.client.lane import BULK_WINDOW, MESSAGE_SHARE
from tidegrid.client.rows import Rows
from tidegrid.client.session import NamedSession, Sequences
from tidegrid.grid.model.errors import GridError, InvalidValueError
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import encode_value

CHUNK_WRITES: Final = 2_000  # per owner: the largest frame


class Outcomes(Sequence[Outcome]):
    """What became of consecutive rows, from row number `first` on: as a sequence of Ack or GridError, or in columns."""

    __slots__ = ("epochs", "errors", "first", "parked", "repeated", "versions")

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        self.versions = [0] * count
        self.epochs = [Epoch(0)] * count
        self.errors: dict[int, GridError] = {}
        self.repeated: set[int] = set()
        self.parked: dict[int, str] = {}

    @property
    def accepted(self) -> int:
        return len(self.versions) - len(self.errors)

    @property
    def epoch(self) -> Epoch:
        """The highest epoch of any of them: read at it, and all are included."""
        return max(self.epochs, default=Epoch(0))

    def __len__(self) -> int:
        return len(self.versions)

    @overload
    def __getitem__(self, index: int) -> Outcome: ...
    @overload
    def __getitem__(self, index: slice) -> list[Outcome]: ...
    def __getitem__(self, index: int | slice) -> Outcome | list[Outcome]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self.versions)
        error = self.errors.get(index)
        if error is not None:
            return error
        return Ack(self.versions[index], self.epochs[index], index in self.repeated, self.parked.get(index))

    def __iter__(self) -> Iterator[Outcome]:
        if self.errors or self.repeated or self.parked:
            return map(self.__getitem__, range(len(self.versions)))
        return map(Ack, self.versions, self.epochs)


class _Chunk:
    """Rows on their way. `done` is set when each has its outcome."""

    __slots__ = ("done", "keys", "missing", "outcomes")

    def __init__(self, first: int, count: int, done: asyncio.Future[None]) -> None:
        self.outcomes = Outcomes(first, count)
        self.missing = 0
        self.keys: set[bytes] = set()
        self.done = done

    def answered(self, count: int) -> None:
        self.missing -= count
        if self.missing == 0 and not self.done.done():
            self.done.set_result(None)


class _Part:
    """A Receiver: the rows of a chunk that are in one batch."""

    __slots__ = ("_chunk", "_left", "rows")

    def __init__(self, chunk: _Chunk, rows: list[int]) -> None:
        self._chunk = chunk
        self.rows = rows
        self._left: set[int] | None = None  # indexes without an outcome, once some have one

    def accepted(self, versions: Sequence[int], epoch: Epoch) -> None:
        outcomes = self._chunk.outcomes
        into, epochs = outcomes.versions, outcomes.epochs
        for row, version in zip(self.rows, versions, strict=True):
            into[row] = version
            epochs[row] = epoch
        self._chunk.answered(len(self.rows))

    def deliver(self, index: int, outcome: Outcome) -> None:
        if self._left is None:
            self._left = set(range(len(self.rows)))
        self._left.discard(index)
        outcomes, row = self._chunk.outcomes, self.rows[index]
        if isinstance(outcome, GridError):
            outcomes.errors[row] = outcome
        else:
            outcomes.versions[row], outcomes.epochs[row] = outcome.version, outcome.epoch
            if outcome.repeated:
                outcomes.repeated.add(row)
            if outcome.parked is not None:
                outcomes.parked[row] = outcome.parked
        self._chunk.answered(1)

    def fail(self, error: GridError) -> None:
        for index in range(len(self.rows)) if self._left is None else sorted(self._left):
            self.deliver(index, error)

    def part(self, begin: int, end: int) -> _Part:
        return _Part(self._chunk, self.rows[begin:end])


class BulkWriter:
    """One bulk load into one map."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        map_name: str,
        schema: int,
        partition_of: Callable[[bytes], PartitionId],
        limits: Limits,
        deadline: float,
        session: NamedSession | None,
    ) -> None:
        self._dispatcher = dispatcher
        self._map = map_name
        self._schema = schema
        self._partition_of = partition_of
        self._limits = limits
        self._deadline = deadline
        self._session = session.id_in(map_name) if session is not None else None
        self._named: dict[PartitionId, Sequences] = {}
        self._loop = asyncio.get_running_loop()

    async def run(self, rows: Rows) -> AsyncIterator[Outcomes]:
        """Outcomes of consecutive rows, in their order. Leaving it early leaves what is in flight to its fate."""
        flights: deque[_Chunk] = deque()
        waiting: Sequence[Any] = ()
        count = 0
        size = min(CHUNK_WRITES * max(1, self._dispatcher.owners), self._limits.batch_writes_max)
        try:
            while True:
                while len(flights) < BULK_WINDOW and (waiting or not rows.ended):
                    waiting = waiting or await rows.take(size, flights[0].done if flights else None)
                    if not waiting:
                        break
                    chunk, batches = self._build(count, waiting)
                    waiting = waiting[len(chunk.outcomes) :]
                    count += len(chunk.outcomes)
                    await self._send(chunk, batches, flights)
                    await asyncio.sleep(0)  # lets the lane send it, and everybody else run
                if flights:
                    await asyncio.shield(flights[0].done)
                    yield flights.popleft().outcomes
                elif rows.ended:
                    return
        finally:
            await rows.close()

    async def _send(self, chunk: _Chunk, batches: list[Batch], flights: deque[_Chunk]) -> None:
        for earlier in flights:
            if not earlier.done.done() and not earlier.keys.isdisjoint(chunk.keys):
                await asyncio.shield(earlier.done)
        flights.append(chunk)
        expires = self._loop.time() + self._deadline
        for batch in batches:
            batch.expires = expires
        if self._dispatcher.closing:
            for batch in batches:
                batch.expire(False)
        elif batches:
            self._dispatcher.submit(batches)

    def _build(self, first: int, rows: Sequence[Any]) -> tuple[_Chunk, list[Batch]]:
        """A chunk of the first rows, as many as one message holds."""
        limits, partition_of = self._limits, self._partition_of
        room = int(limits.message_bytes_max * MESSAGE_SHARE)
        columns: dict[PartitionId, tuple[list[bytes], list[bytes], list[int]]] = {}
        errors: dict[int, GridError] = {}
        holes: dict[PartitionId, list[int]] = {}
        taken = 0
        for row, pair in enumerate(rows):
            try:
                plain_key, plain_value = pair
                key = encode_key(plain_key, limits.key_bytes_max)
                value = encode_value(plain_value, limits)
            except (GridError, TypeError, ValueError) as error:
                errors[row] = (
                    error
                    if isinstance(error, GridError)
                    else InvalidValueError(f"row {first + row} is no (key, value) pair")
                )
                self._note_hole(holes, columns, pair)
                taken = row + 1
                continue
            room -= len(key) + len(value) + 16
            if room < 0 and row:
                break
            partition = partition_of(key)
            column = columns.get(partition)
            if column is None:
                column = columns[partition] = ([], [], [])
            column[0].append(key)
            column[1].append(value)
            column[2].append(row)
            taken = row + 1
        chunk = _Chunk(first, taken, self._loop.create_future())
        chunk.outcomes.errors = errors
        chunk.missing = taken - len(errors)
        chunk.answered(0)
        batches: list[Batch] = []
        for partition in {**columns, **holes}:
            keys, values, numbers = columns.get(partition, ([], [], []))
            chunk.keys.update(keys)
            batches += self._batches(chunk, partition, keys, values, numbers, holes.get(partition, []))
        return chunk, batches

    def _note_hole(
        self,
        holes: dict[PartitionId, list[int]],
        columns: dict[PartitionId, tuple[list[bytes], list[bytes], list[int]]],
        pair: Any,
    ) -> None:
        """A row with a key that is not sent (too large, or a bad value) keeps its place in the numbering."""
        try:
            key, _ = pair
            partition = self._partition_of(encode_key(key, 1 << 30))
        except (GridError, TypeError, ValueError):
            return
        holes.setdefault(partition, []).append(len(columns[partition][0]) if partition in columns else 0)

    def _batches(
        self,
        chunk: _Chunk,
        partition: PartitionId,
        keys: list[bytes],
        values: list[bytes],
        rows: list[int],
        holes: list[int],
    ) -> list[Batch]:
        """The writes of one partition, cut at the holes so that sequences within a batch are consecutive."""
        sequences = self._sequences(partition)
        batches: list[Batch] = []
        begin = 0
        for number, end in enumerate([*holes, len(keys)]):
            if end > begin:
                cut = slice(begin, end)
                first = sequences.take(end - begin)
                receiver = _Part(chunk, rows[cut])
                batches.append(
                    Batch(
                        self._map,
                        partition,
                        self._schema,
                        keys[cut],
                        values[cut],
                        b"",
                        None,
                        receiver,
                        sequences,
                        first,
                        0.0,
                    )
                )
                begin = end
            if number < len(holes):
                sequences.skip()
        return batches

    def _sequences(self, partition: PartitionId) -> Sequences:
        if self._session is None:
            return self._dispatcher.sessions.of(partition, Epoch(self._dispatcher.causality.epoch))
        known = self._named.get(partition)
        if known is None:
            known = self._named[partition] = Sequences(self._session, watermark=False)
        return known
