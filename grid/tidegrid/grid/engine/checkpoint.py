"""Checkpoints of one partition: its state through a position, as chunks written in bounded slices, and back.

Chunks are msgpack arrays that begin with their kind:

    ["head", format, partition, term, position, stamp, references_changed, [[open position, term], ...]]
    ["rows" or "one", map, ...]                                                    see table_chunks.py
    ["sessions", [[session, lowest, highest, runs] ...]]
    ["routes", sources taken, consignments]                                        see Routes.rows
    ["parked", routed failures without room, [[...] ...]]                          see Parking
    ["generations", [[map, number] ...]]             of maps that have several, all that are complete: see tables.py
    ["operands", map, [[key, epoch, position, time_ms, number, op, payload] ...]]  not settled, see merged.py
    ["reclaimed", horizon]                                                         the last

A generation of a map after the first has its number behind the map's name: see tables.py. Writes go on between slices:
a slice holds the versions up to the checkpoint's position, and those of closed epochs, the log holds the rest.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import Any, Final

import msgspec
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.table_chunks import TableLoader, reclaimed_chunk, table_chunks
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.log.record import DATA, EVENT, FILL, OPEN, ROUTED, RequestRun, decode_record, decode_section
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, Position, Term
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.store.merged import MergedTable, Operand

FORMAT: Final = 1
ROWS_PER_SLICE: Final = 4_000
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def checkpoint_chunks(partition: Partition) -> Generator[bytes]:
    """State as of the partition's tail now. Between chunks the partition may go on; close it, for it keeps history."""
    with ExitStack() as pins:
        for _, table in partition.tables.every():
            if isinstance(table, MergedTable):
                pins.enter_context(table.pinned())
        yield from _chunks(partition)


def _chunks(partition: Partition) -> Iterator[bytes]:
    position, closed = partition.tail, partition.memory.closed
    opened = [[at, term] for at, term in partition.opened]
    head = [
        "head",
        FORMAT,
        partition.id,
        partition.term,
        position,
        partition.last_stamp,
        partition.references_changed,
        opened,
    ]
    # Taken before the first chunk is out: none of it has positions by which to leave out what comes later.
    sessions = [[session, lowest, highest, runs] for session, lowest, highest, runs in partition.memory.rows()]
    routes = partition.routes.rows()
    parked = partition.parking.slices()
    operands = {
        name: [[key, *one.stamp, one.number, one.op, one.payload] for key, one in table.operands()]
        for name, table in partition.tables.every()
        if isinstance(table, MergedTable)
    }
    every, shelved = list(partition.tables.every()), partition.tables.shelved()
    yield _encode(head)
    yield _encode(["generations", shelved])
    yield _encode(["routes", *routes])
    for part in parked:
        yield _encode(["parked", *part])
    for name, unsettled in operands.items():
        yield _encode(["operands", name, unsettled])
    while sessions:
        part, sessions = sessions[:500], sessions[500:]
        yield _encode(["sessions", part])
    for name, table in every:
        for rows in table.slices(position, ROWS_PER_SLICE, closed):
            yield from table_chunks(name, rows)
    yield reclaimed_chunk(max((table.horizon for _, table in every), default=Epoch(0)))


class Recovery:
    """Rebuilds a partition: the chunks of a checkpoint, then the records after it, in order.

    Validity (protocol, section 1): an OPEN counts if its term is higher than the current one, any other record if its
    term is the current one.
    """

    def __init__(self, partition: Partition, reference_maps: frozenset[str]) -> None:
        self.partition = partition
        self._reference_maps = reference_maps
        self.position: Position = BEFORE_FIRST
        self._loader = TableLoader()

    @property
    def entries(self) -> int:
        return self._loader.entries

    def chunk(self, payload: bytes) -> None:
        """Raises FormatError."""
        try:
            self._chunk(_decode(payload))
        except (msgspec.DecodeError, ValueError, TypeError, IndexError, KeyError) as error:
            raise FormatError(f"a checkpoint of partition {self.partition.id} does not parse: {error}") from error

    def _chunk(self, content: list[Any]) -> None:
        partition = self.partition
        kind = content[0]
        if kind == "head":
            _, version, number, term, position, stamp, references_changed, opened = content
            if version != FORMAT or number != partition.id:
                raise FormatError(
                    f"a checkpoint of format {version} and partition {number} was found for partition {partition.id}"
                )
            partition.term, partition.tail, partition.last_stamp = Term(term), Position(position), Epoch(stamp)
            partition.references_changed = Epoch(references_changed)
            partition.opened = [(Position(at), Term(opened_term)) for at, opened_term in opened]
            self.position = Position(position)
        elif kind == "sessions":
            for session, lowest, highest, runs in content[1]:
                partition.memory.load(session, lowest, highest, runs)
        elif kind == "generations":
            partition.tables.restore((name, number) for name, number in content[1])
        elif kind == "routes":
            partition.routes.load(content[1:])
        elif kind == "parked":
            partition.parking.load(*content[1:])
        elif kind == "operands":
            table = partition.tables.named(content[1])
            if isinstance(table, MergedTable):
                table.recall(
                    (key, Operand(self._loader.shared(epoch, position, time_ms), number, op, payload))
                    for key, epoch, position, time_ms, number, op, payload in content[2]
                )
        elif kind == "reclaimed":
            for _, table in partition.tables.every():
                table.horizon = max(table.horizon, Epoch(content[1]))
        elif kind in ("one", "rows"):
            self._loader.load(content, partition.tables.named)

    def records(self, records: Iterable[LogRecord]) -> None:
        """Raises FormatError."""
        for item in records:
            self._record(item)
            self.position = self.partition.tail = item.position

    def _record(self, item: LogRecord) -> None:
        partition = self.partition
        record = decode_record(item.payload)
        if record.kind == OPEN:
            if record.term > partition.term:
                partition.term = Term(record.term)
                partition.opened.append((item.position, partition.term))
                partition.last_stamp = max(partition.last_stamp, Epoch(record.stamp))
            return
        if record.term != partition.term or record.kind not in (DATA, ROUTED, FILL):
            return
        partition.last_stamp = Epoch(record.stamp)
        stamp: Stamp = (Epoch(record.effective), item.position, record.time_ms)
        versions: list[int] = []
        for index, payload in enumerate(record.sections):
            section = decode_section(payload)
            numbers = list(section.versions)
            if index < record.write_sections:
                versions.extend(numbers)
            self._loader.entries += len(numbers)
            if section.ops and section.ops[0] != EVENT:
                if section.map not in partition.tables:
                    partition.tables.named(section.map)
                keys, values = list(section.keys), list(section.values)
                partition.tables.apply(section.map, keys, values, section.ops, numbers, stamp)
            if section.map in self._reference_maps:
                partition.references_changed = Epoch(record.stamp)
        if record.sources or record.outbox:
            partition.routes.replayed(item.position, record)
        if record.failures or record.redriven:
            partition.parking.landed(item.position, Epoch(record.effective), record)
        self._remember(record.sessions, record.first_sequences, record.counts, versions, Epoch(record.stamp))

    def _remember(
        self, sessions: Iterable[bytes], firsts: Iterable[int], counts: Iterable[int], versions: list[int], epoch: Epoch
    ) -> None:
        remaining = iter(versions)
        for session, first, count in zip(sessions, firsts, counts, strict=True):
            run = RequestRun(session, first, count)
            self.partition.memory.accepted(run.session, run.first_sequence, tuple(islice(remaining, run.length)), epoch)
