"""What runs in worker processes: which frames have to, what they are sent as, and what their answers become (making.py).

`begin` looks at what a partition computes next, and takes it off the ordinary way if any of its triggers is isolated. A
batch is of whole requests as a rule, and of one kind of work: writes to maps with isolated triggers as they come in the
queue, one delivery, one parked write, or the part of a commit group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from tidegrid.grid.engine.admission import unhandled_schema
from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.engine.compute import References, stored_versions
from tidegrid.grid.engine.delivery import Delivery, origin_of
from tidegrid.grid.engine.effects import Effect, RunBatch, Try
from tidegrid.grid.engine.frame import Frame
from tidegrid.grid.engine.made import Made
from tidegrid.grid.engine.making import AsOf, BatchDone, Kind, Making, Work
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.redriving import Sees, frame_context, runs_again
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.log.record import DELETE
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.store.table import Table
from tidegrid.triggers.batch import Batch, Section
from tidegrid.triggers.bound import BoundMap
from tidegrid.triggers.context import FrameContext
from tidegrid.triggers.seeded import named_by_key


class Latest(NamedTuple):
    """What the triggers of writes look up: the partition before the batch."""

    tables: Mapping[str, Table]
    base: Frame | None
    references: AsOf

    def get(self, map_name: str, key: bytes, /) -> bytes | None:
        changes = self.base.changes.get(map_name) if self.base is not None else None
        if changes is not None and (found := changes.get(key)) is not None:
            return found[1]
        table = self.tables.get(map_name)
        version = table.latest(key) if table is not None else None
        return version[0] if version is not None else None

    def reference(self, map_name: str, key: bytes, /) -> bytes | None:
        return self.references.get(map_name, key, self.references.through)


class AtEpoch(NamedTuple):
    """What the triggers on a delivery look up: direct maps as of its epoch (rule X6)."""

    tables: Mapping[str, Table]
    epoch: Epoch
    references: AsOf

    def get(self, map_name: str, key: bytes, /) -> bytes | None:
        table = self.tables.get(map_name)
        seen = table.as_of(key, self.epoch) if table is not None else None
        return seen[0] if seen is not None else None

    def reference(self, map_name: str, key: bytes, /) -> bytes | None:
        return self.references.get(map_name, key, self.references.through)


class Isolation:
    def __init__(
        self,
        partitions: Mapping[PartitionId, Partition],
        limits: Limits,
        seed: int,
        emit: Callable[[Effect], None],
        note_overrun: Callable[[str], None],
    ) -> None:
        self._partitions = partitions
        self._limits = limits
        self._seed = seed
        self._emit = emit
        self._note_overrun = note_overrun
        self._number = 0

    # What has to run apart ---------------------------------------------------------------------------------------

    def begin(
        self,
        partition: Partition,
        delivery: Delivery | None,
        redrive: bool,
        catalog: Catalog,
        epoch: Epoch,
        time_ms: int,
        references: References,
    ) -> int:
        """Sends off what is computed next, if it is isolated; returns how many rows that is, or 0."""
        if catalog.runtime is None or not catalog.runtime.isolated:
            return 0
        still = AsOf(references.through, references.changed, references)
        if redrive:
            return self._begin_redrive(partition, catalog, epoch, time_ms, still)
        if delivery is not None:
            return self._begin_delivery(partition, delivery, catalog, epoch, still)
        requests = list(self._at_the_head(partition.queue, catalog))
        if not requests:
            return 0
        return self._begin_writes(partition, requests, Kind.WRITES, requests, catalog, epoch, time_ms, still)

    def begin_loan(
        self,
        partition: Partition,
        attempt: Try,
        requests: Sequence[WriteRequest],
        catalog: Catalog,
        epoch: Epoch,
        time_ms: int,
        references: References,
    ) -> None:
        """The part of a commit group, some of whose writes are isolated: they see the others, which go along with them."""
        still = AsOf(references.through, references.changed, references)
        self._begin_writes(partition, requests, Kind.LOAN, attempt, catalog, epoch, time_ms, still)

    def _at_the_head(self, queue: Iterable[WriteRequest], catalog: Catalog) -> Iterable[WriteRequest]:
        """As many as fit into a frame; the last one may be cut."""
        rows, size = 0, 0
        for request in queue:
            if program_apart(catalog, request.map) is None or (
                request.next_row and unhandled_schema(request, catalog) is not None
            ):
                return
            if rows >= self._limits.frame_writes_max or size >= self._limits.record_bytes_max:
                return
            rows += len(request.keys) - request.next_row
            size += request.size
            yield request

    def _begin_writes(
        self,
        partition: Partition,
        requests: Sequence[WriteRequest],
        kind: Kind,
        of: Work,
        catalog: Catalog,
        epoch: Epoch,
        time_ms: int,
        references: AsOf,
    ) -> int:
        state = Latest(partition.tables, partition.in_flight, references)
        left = self._limits.frame_writes_max if kind is Kind.WRITES else self._limits.group_writes_max
        sections: list[Section] = []
        for request in requests:
            end = min(len(request.keys), request.next_row + left)
            left -= end - request.next_row
            sections.append(_section(partition, request, end, state))
        frame = FrameContext(partition.id, epoch, time_ms, references.changed, self._seed)
        whole = kind is Kind.LOAN
        return self._send(partition, kind, of, catalog, epoch, time_ms, references, state, frame, sections, whole)

    def _begin_delivery(
        self, partition: Partition, delivery: Delivery, catalog: Catalog, epoch: Epoch, references: AsOf
    ) -> int:
        assert catalog.runtime is not None
        programs = [catalog.runtime.program(section.map) for section in delivery.sections]
        if not any(program is not None and program.reach.isolated for program in programs):
            return 0
        origin = origin_of(delivery.source)
        sections = [
            Section(
                rows.map, rows.schema, delivery.depth, rows.keys, rows.values, rows.ops, (), origin,
                [number for _, number in named_by_key(origin, rows.keys)],
            )
            for rows, program in zip(delivery.sections, programs, strict=True)
            if program is not None
        ]  # fmt: skip
        state = AtEpoch(partition.tables, delivery.effective, references)
        frame = FrameContext(partition.id, delivery.effective, delivery.time_ms, references.changed, self._seed)
        of, time_ms = delivery, delivery.time_ms
        return self._send(
            partition, Kind.DELIVERY, of, catalog, epoch, time_ms, references, state, frame, sections, True
        )

    def _begin_redrive(
        self, partition: Partition, catalog: Catalog, epoch: Epoch, time_ms: int, references: AsOf
    ) -> int:
        """The first of the parked writes that it names, where that is to run at all and is isolated."""
        request = partition.redrives.first
        write = partition.parking.get(request.ids[request.next_row])
        if write is None or not runs_again(request, write, partition.tables.get(write.map), catalog):
            return 0
        program = program_apart(catalog, write.map)
        if program is None:
            return 0
        state = Sees(write, partition.tables, references.through, references)
        frame = frame_context(write, partition.id, epoch, references.changed, self._seed)
        version = 0 if write.routed else write.version
        value = b"" if write.op == DELETE else write.value or b""
        origin, number = write.id.write_name
        op = bytes((write.op,))
        sections = [Section(write.map, write.schema, 0, [write.key], [value], op, [version], origin, [number])]
        return self._send(
            partition, Kind.REDRIVE, request, catalog, epoch, time_ms, references, state, frame, sections, True
        )

    def _send(
        self,
        partition: Partition,
        kind: Kind,
        of: Work,
        catalog: Catalog,
        epoch: Epoch,
        time_ms: int,
        references: AsOf,
        state: Latest | AtEpoch | Sees,
        frame: FrameContext,
        sections: Sequence[Section],
        whole: bool,
    ) -> int:
        runtime = catalog.runtime
        assert runtime is not None and partition.making is None
        programs = [runtime.program(section.map) for section in sections]
        budget = max(program.reach.budget for program in programs if program is not None)
        numbered = kind is Kind.WRITES or kind is Kind.LOAN
        batch = Batch(frame[:4], str(frame.seed), numbered, sections, budget, runtime.suspended, whole)
        self._number += 1
        partition.making = Making(self._number, kind, of, catalog, epoch, time_ms, references, state, batch)
        self._emit(RunBatch(self._number, partition.id, runtime.code, batch))
        return batch.rows

    def needed(self, horizon: Epoch) -> Epoch:
        """Up to where copies of reference maps may be reclaimed: batches under way look them up as of when they began."""
        making = (one.making for one in self._partitions.values())
        return min([horizon, *(one.references.through for one in making if one is not None)])

    # What comes of it --------------------------------------------------------------------------------------------

    def making(self, number: int) -> Partition | None:
        """The partition for which this batch runs; None: it was dropped."""
        for partition in self._partitions.values():
            if partition.making is not None and partition.making.number == number:
                return partition
        return None

    def look_up(self, number: int, map_name: str, key: bytes, reference: bool) -> bytes | None:
        """For the triggers of a batch under way. Nothing is found for one that was dropped: nobody waits for it."""
        partition = self.making(number)
        if partition is None or partition.making is None:
            return None
        state = partition.making.state
        return state.reference(map_name, key) if reference else state.get(map_name, key)

    def done(self, done: BatchDone) -> Partition | None:
        """Takes what came of a batch; the partition whose frame can be computed now, if there is one."""
        partition = self.making(done.number)
        if partition is None or partition.making is None or partition.making.decided:
            return None
        making = partition.making
        requests = making.of if making.kind is Kind.WRITES else ()
        assert isinstance(requests, Sequence)
        making.error = done.error
        if done.error is None:
            making.made = Made(partition.id, making.batch, done.parts, self._limits, self._note_overrun, requests)
        return partition


def program_apart(catalog: Catalog, map_name: str) -> BoundMap | None:
    """The triggers of a map, if they run in worker processes."""
    program = catalog.runtime.program(map_name) if catalog.runtime is not None else None
    return program if program is not None and program.reach.isolated else None


def _section(partition: Partition, request: WriteRequest, end: int, state: Latest) -> Section:
    name, begin = request.map, request.next_row
    keys = request.keys[begin:end]
    versions = stored_versions(partition.tables.get(name), keys)
    changes = state.base.changes.get(name, {}) if state.base is not None else {}
    for at, key in enumerate(keys):
        if (known := changes.get(key)) is not None:
            versions[at] = known[0]
    conditions = {
        row - begin: (expected, state.get(name, request.keys[row]) is not None)
        for row, expected in (request.conditions or {}).items()
        if begin <= row < end
    }
    return Section(
        name, request.schema, 0, keys, request.values[begin:end], request.ops[begin:end], versions, request.session,
        list(range(request.first_sequence + begin, request.first_sequence + end)), conditions,
    )  # fmt: skip
