"""One map of the grid: puts, deletes, reads, scans, bulk writes and feeds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal
from zlib import crc32

from tidegrid.client.batch import Column
from tidegrid.client.bulk import CHUNK_WRITES, BulkWriter, Outcomes
from tidegrid.client.closes import Closes, in_one_generation, moment_at
from tidegrid.client.dispatcher import Dispatcher, closed_error
from tidegrid.client.entry import Ack, Entry, Outcome
from tidegrid.client.feed import BUFFER_BYTES, PATIENCE_SECONDS, Feed
from tidegrid.client.history import Version, history
from tidegrid.client.map_key import key_encoder, scan_range
from tidegrid.client.moment import LATEST, Consistency, Moment, check_number
from tidegrid.client.rows import AsyncRows, IterableRows, Rows
from tidegrid.client.scan import scan
from tidegrid.client.session import NamedSession
from tidegrid.client.why import ROWS, Why, why
from tidegrid.grid.model.errors import CallerError, UnavailableError, UnknownMapError
from tidegrid.grid.model.ids import PartitionId
from tidegrid.grid.model.keys import encode_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapSpec
from tidegrid.grid.model.partitioner import Partitioner
from tidegrid.grid.model.values import encode_value

_SEALED: Final = Column("", PartitionId(0), 0, 0.0, 0.0)
_SEALED.open = False

AckWhen = Literal["durable", "closed"]
WritePairs = Iterable[tuple[Any, Any]] | AsyncIterable[tuple[Any, Any]] | Mapping[Any, Any]


class Map:
    """Made by `Grid.map`. A key is a scalar or a tuple of scalars; a value anything that JSON has, and bytes.

    Every method raises UnknownMapError, UnavailableError, DeadlineError, and BusyError, ClosingLagError or
    StorageFullError when the grid stays overloaded until the deadline (then nothing was stored).
    """

    def __init__(
        self, dispatcher: Dispatcher, closes: Closes, name: str, deadline: float, pinned: Moment = LATEST
    ) -> None:
        """`pinned`: which generation is read."""
        self.name = name
        self._pinned = pinned
        self._dispatcher = dispatcher
        self._closes = closes
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._limits = Limits()
        self._key_bytes_max = self._limits.key_bytes_max
        self._key: Callable[[object], bytes] = encode_key  # checks, too, once the map's spec is known
        self._partitions = 0  # 0: the map's spec is not known yet
        self._affinity = 0
        self._schema = 0
        self._partition_of: Callable[[bytes], PartitionId] = Partitioner(1).of
        self._columns: list[Column] = []  # by partition: where plain puts collect
        self._special: dict[tuple[PartitionId, int, float], Column] = {}
        self._spec: MapSpec | None = None

    async def spec(self) -> MapSpec:
        """What the map was declared as."""
        if self._spec is None:
            await self._resolve()
        assert self._spec is not None
        return self._spec

    async def _resolve(self) -> None:
        dispatcher = self._dispatcher
        if dispatcher.closing:
            raise closed_error()
        assert dispatcher.routing is not None
        if not dispatcher.partitions:
            raise UnavailableError("the grid is starting, its partitions have no owner yet; wait a moment", address="")
        if self.name not in dispatcher.routing.maps:
            await dispatcher.refresh()
        routing = dispatcher.routing
        spec = routing.maps.get(self.name)
        if spec is None:
            raise UnknownMapError.of(self.name, routing.maps)
        self._limits = routing.limits
        self._key_bytes_max = routing.limits.key_bytes_max
        self._key = key_encoder(spec, routing.limits.key_bytes_max)
        self._affinity, self._schema = spec.affinity, spec.schema
        self._partition_of = Partitioner(len(routing.owners), spec.affinity).of
        self._columns = [_SEALED] * len(routing.owners)
        self._partitions = len(routing.owners)
        self._spec = spec

    # Writes -------------------------------------------------------------------------------------------------------

    async def put(
        self,
        key: object,
        value: object,
        *,
        if_version: int | None = None,
        if_absent: bool = False,
        schema: int | None = None,
        ack: AckWhen = "durable",
        deadline: float | None = None,
    ) -> Ack:
        """Stores `value` under `key`, durably.

        `if_version` n: only if the key is at version n; `if_absent`: only if it has no value (a deleted key has none).
        `ack="closed"`: returns once the epoch of the write is closed, so that the write is in every cut from then on.
        Raises ConflictError (field `current`), RejectedError (a trigger's veto), DerivedMapError, InvalidKeyError,
        InvalidValueError, TooLargeError. After DeadlineError or OutcomeUnknownError the write may have been applied;
        one that is stored and not closed in time says so in its fields, `version` and `epoch`.
        """
        if ack != "durable":
            until = self._expires(deadline)
            again = self.put(key, value, if_version=if_version, if_absent=if_absent, schema=schema, deadline=deadline)
            return await self._closed(ack, again, until)
        if not self._partitions:
            await self._resolve()
        encoded = encode_key(key, self._key_bytes_max)
        raw = encode_value(value, self._limits)
        if schema is None and deadline is None and if_version is None and not if_absent and not self._affinity:
            partition = crc32(encoded) % self._partitions
            column = self._columns[partition]
            if not column.open:
                column = self._open_column(partition)
            future: asyncio.Future[Ack] = self._loop.create_future()
            column.keys.append(encoded)
            column.values.append(raw)
            column.futures.append(future)
            return await future
        return await self._write(encoded, raw, if_version, if_absent, schema, deadline, delete=False)

    async def _closed(self, ack: str, writing: Coroutine[Any, Any, Ack], until: float) -> Ack:
        if ack != "closed":
            writing.close()
            raise _unknown_ack(ack)
        return await self._closes.covering(await writing, until)

    async def delete(
        self,
        key: object,
        *,
        if_version: int | None = None,
        schema: int | None = None,
        ack: AckWhen = "durable",
        deadline: float | None = None,
    ) -> Ack:
        """Removes the value of `key`; that is a version too, also of a key that has none. `ack`, errors: as `put`."""
        if ack != "durable":
            until = self._expires(deadline)
            again = self.delete(key, if_version=if_version, schema=schema, deadline=deadline)
            return await self._closed(ack, again, until)
        if not self._partitions:
            await self._resolve()
        return await self._write(self._key(key), b"", if_version, False, schema, deadline, delete=True)

    async def _write(
        self,
        key: bytes,
        value: bytes,
        if_version: int | None,
        if_absent: bool,
        schema: int | None,
        deadline: float | None,
        delete: bool,
    ) -> Ack:
        if if_absent and if_version:
            raise CallerError("give either if_version or if_absent")
        check_number("if_version", if_version, 0, 1 << 64)
        check_number("schema", schema, 0, 1 << 32)
        column = self._column(self._partition_of(key), schema, deadline)
        index = len(column.keys)
        if if_absent or if_version is not None:
            if column.conditions is None:
                column.conditions = {}
            column.conditions[index] = if_version or 0
        if delete:
            if column.deletes is None:
                column.deletes = []
            column.deletes.append(index)
        future: asyncio.Future[Ack] = self._loop.create_future()
        column.keys.append(key)
        column.values.append(value)
        column.futures.append(future)
        return await future

    def _column(self, partition: PartitionId, schema: int | None, deadline: float | None) -> Column:
        if schema is None and deadline is None:
            column = self._columns[partition]
            return column if column.open else self._open_column(partition)
        self._check_open()
        name = (partition, self._schema if schema is None else schema, self._deadline if deadline is None else deadline)
        found = self._special.get(name)
        if found is None or not found.open:
            self._special = {kept: column for kept, column in self._special.items() if column.open}
            found = self._special[name] = self._dispatcher.open_column(self.name, *name)
        return found

    def _open_column(self, partition: int) -> Column:
        self._check_open()
        column = self._dispatcher.open_column(self.name, PartitionId(partition), self._schema, self._deadline)
        self._columns[partition] = column
        return column

    def _check_open(self) -> None:
        if self._dispatcher.closing:
            raise closed_error()

    async def put_many(
        self,
        rows: WritePairs,
        *,
        schema: int | None = None,
        ack: AckWhen = "durable",
        deadline: float | None = None,
    ) -> list[Outcome]:
        """Writes many (key, value) pairs; one outcome per row, in their order: an Ack or the GridError of that row.

        `rows` may be an iterable, an async iterable or a mapping. `deadline` is for each chunk of some thousand rows.
        `ack="closed"` waits at the end, for another `deadline`, until all epochs are closed; rows that are stored and
        were not closed in time have a DeadlineError that says so. For loads of any length use `put_stream`, which
        keeps nothing.
        """
        if ack not in ("durable", "closed"):
            raise _unknown_ack(ack)
        outcomes: list[Outcome] = []
        async for part in self.put_stream(rows, schema=schema, deadline=deadline):
            outcomes.extend(part)
        if ack == "closed":
            return await self._closes.covering_all(outcomes, self._expires(deadline))
        return outcomes

    async def put_stream(
        self,
        rows: WritePairs,
        *,
        schema: int | None = None,
        deadline: float | None = None,
        session: NamedSession | None = None,
    ) -> AsyncIterator[Outcomes]:
        """As `put_many`, handing out the outcomes of consecutive rows as they come; memory stays bounded.

        With `session`, the same rows in the same order, loaded again, are the same writes and change nothing.
        """
        if not self._partitions:
            await self._resolve()
        self._check_open()
        check_number("schema", schema, 0, 1 << 32)
        writer = BulkWriter(
            self._dispatcher,
            self.name,
            self._schema if schema is None else schema,
            self._partition_of,
            self._limits,
            self._deadline if deadline is None else deadline,
            session,
        )
        source: Rows
        if isinstance(rows, AsyncIterable):
            source = AsyncRows(rows, 2 * CHUNK_WRITES)
        else:
            source = IterableRows(rows.items() if isinstance(rows, Mapping) else rows)
        async for outcomes in writer.run(source):
            yield outcomes

    # Reads --------------------------------------------------------------------------------------------------------

    async def get(
        self,
        key: object,
        *,
        as_of: int | datetime | None = None,
        at_least: int | None = None,
        wait: bool = True,
        max_staleness: float | None = None,
        consistency: Consistency = "causal",
        deadline: float | None = None,
    ) -> Entry | None:
        """The version of `key` that is current, or None. It includes all that this client has read or written.

        `as_of`: as of the end of a closed epoch, repeatable; an epoch, or a time with a time zone, which means the
        epoch closed at that time or last before it. `at_least` e: the latest, once epoch e is closed.
        `max_staleness`: the latest, once the node's last close is no older than so many seconds. What is not closed
        yet is waited for until the deadline; with `wait=False` that is a NotClosedError at once.
        `consistency="linearizable"`: also all that anybody was acknowledged before this call (docs/time.md).
        Raises InvalidKeyError for what is no key of the map, EpochTooOldError, EpochTooNewError, and WrongKindError on a
        stream.
        """
        if not self._partitions:
            await self._resolve()
        expires = self._expires(deadline)
        moment = await self._moment(as_of, at_least, wait, max_staleness, consistency, expires=expires)
        return await self._request(self._key(key), moment, expires)

    async def get_many(
        self,
        keys: Iterable[object],
        *,
        as_of: int | datetime | None = None,
        at_least: int | None = None,
        wait: bool = True,
        max_staleness: float | None = None,
        consistency: Consistency = "causal",
        deadline: float | None = None,
    ) -> list[Entry | None]:
        """As `get`, for many keys, in their order. Without `as_of` they are read at different moments."""
        if not self._partitions:
            await self._resolve()
        expires = self._expires(deadline)
        moment = await self._one_cut(
            await self._moment(as_of, at_least, wait, max_staleness, consistency, expires=expires), expires
        )
        encoded = list(map(self._key, keys))
        futures = [self._request(key, moment, expires) for key in encoded]
        try:
            return await asyncio.gather(*futures)
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    async def _moment(self, *options: Any, expires: float) -> Moment:
        """`options`: as_of, at_least, wait, max_staleness, consistency."""
        return await moment_at(self._closes, self._pinned, *options, expires=expires)

    async def _one_cut(self, moment: Moment, expires: float) -> Moment:
        return moment if not (await self.spec()).derived else await in_one_generation(self._closes, moment, expires)

    def _request(self, key: bytes, moment: Moment, expires: float) -> asyncio.Future[Entry | None]:
        self._check_open()
        partition = self._partition_of(key)
        future: asyncio.Future[Entry | None] = self._loop.create_future()
        batch = self._dispatcher.lane(partition).read_batch(self.name, moment, expires)
        batch.add(key, partition, future)
        self._dispatcher.arm()
        return future

    def _expires(self, deadline: float | None) -> float:
        return self._loop.time() + (self._deadline if deadline is None else deadline)

    async def scan(
        self,
        prefix: object = None,
        *,
        begin: object = None,
        end: object = None,
        as_of: int | datetime | None = None,
        at_least: int | None = None,
        wait: bool = True,
        max_staleness: float | None = None,
        consistency: Consistency = "causal",
        limit: int | None = None,
        reverse: bool = False,
        deadline: float | None = None,
    ) -> AsyncIterator[Entry]:
        """Entries in key order: those whose key begins with the elements of `prefix`, or in [begin, end), or all.

        Raises InvalidKeyError for elements that no key of the map has there. `deadline` is for each page. With `as_of` the whole scan is one consistent cut; without, each page is of its
        moment, and so are `at_least`, `max_staleness` and `consistency`, which are as of `get`.
        """
        if not self._partitions:
            await self._resolve()
        self._check_open()
        low, high = scan_range(await self.spec(), prefix, begin, end, self._key_bytes_max)
        seconds = self._deadline if deadline is None else deadline
        expires = self._expires(deadline)
        moment = await self._one_cut(
            await self._moment(as_of, at_least, wait, max_staleness, consistency, expires=expires), expires
        )
        found = scan(
            self._dispatcher, self.name, low, high, moment=moment, limit=limit, reverse=reverse, deadline=seconds
        )
        async for entry in found:
            yield entry

    async def history(
        self, key: object, *, after: int = 0, through: int | None = None, deadline: float | None = None
    ) -> AsyncIterator[Version]:
        """The versions that `key` has had, oldest first, deletions included: what readers as of their epochs see.

        Those after epoch `after` (exclusive), up to `through` (inclusive). All durable ones, also where no close covers
        them yet, and of any age: what memory no longer holds is looked for in the log of the key's partition, which
        takes a while for a long one. Of a map with a fold, those above the horizon only: from before it an
        EpochTooOldError. `deadline` is for each page. Raises WrongKindError on a stream.
        """
        if not self._partitions:
            await self._resolve()
        self._check_open()
        check_number("after", after, 0, 1 << 64)
        check_number("through", through, 1, 1 << 64)
        encoded = self._key(key)
        seconds = self._deadline if deadline is None else deadline
        found = history(self._dispatcher, self.name, self._partition_of(encoded), encoded, after, through or 0, seconds)
        async for version in found:
            yield version

    async def why(
        self, key: object, *, as_of: int | datetime | None = None, rows: int = ROWS, deadline: float | None = None
    ) -> Why | None:
        """How `key` came to be what it is, or was as of an epoch: the raw writes, and the triggers and steps since then.

        Of the generation that readers see, or of the map's own. Also of a deleted key; None if it has had no version.
        `rows`: so many operands, or earlier versions. Raises EpochTooOldError, EpochTooNewError, and WrongKindError on a
        stream.
        """
        if not self._partitions:
            await self._resolve()
        expires, encoded = self._expires(deadline), self._key(key)
        moment = await self._moment(as_of, None, True, None, "causal", expires=expires)
        return await why(self._dispatcher, self.name, self._partition_of(encoded), encoded, moment, rows, expires)

    def subscribe(
        self,
        after: int | None = None,
        *,
        snapshot: bool = False,
        marks: bool = False,
        buffer_bytes: int = BUFFER_BYTES,
        patience: float = PATIENCE_SECONDS,
    ) -> Feed:
        """A feed of the map's changes: `async with map.subscribe(...) as feed: async for batch in feed: ...`

        After epoch `after` (exclusive; any age: what memory no longer holds comes from the log; 0 is everything; of maps with
        a fold, and across the switch of a regenerated one, as far as memory reaches, else EpochTooOldError), or from now on. `snapshot`: first the map's state as of an epoch, then the changes after it. `marks`: also empty
        batches, which say that nothing happened up to their epoch. `patience`: seconds without an owner before the
        feed ends with UnavailableError.
        """
        if snapshot and after is not None:
            raise CallerError("a snapshot chooses its own epoch: give either `snapshot` or `after`")
        check_number("after", after, 0, 1 << 64)
        self._check_open()
        return Feed(self._dispatcher, self.name, after, snapshot, buffer_bytes, marks, patience)


def _unknown_ack(ack: str) -> CallerError:
    return CallerError(f"ack is 'durable' or 'closed', not {ack!r}")
