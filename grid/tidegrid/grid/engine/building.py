"""Other generations of derived maps on their way to being complete in the partitions of a node (ring/generations.py).

    declared, or missing in what was recovered --> its base is loaded --> the log from `since` on is read --read through
    the partition's tail--> complete: it takes in what lands, like the one that readers see

A partition that opens waits for all of them; one that is open goes on serving meanwhile. A base that cannot be loaded is
tried again, and told of in `problems`.

Invariant: a build has applied exactly the valid records of its partition up to `position`, from `since` on, and is handed
over in the same step in which that reaches the tail: nothing is applied twice, and nothing is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from tidegrid.grid.engine.effects import Effect, LoadBase, ReadOutputs
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.table_chunks import load_base
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.log.record import DATA, ROUTED, decode_record, decode_section
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch, PartitionId, Position, Term
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.generations import Generation
from tidegrid.grid.store.merged import MergedTable

RETRY_SECONDS: Final = 1.0
TRIES: Final = 3

BuildId = tuple[PartitionId, Term, str, int]
"""(partition, the term it is held under, map, generation)."""


class Build:
    """One generation of one map in one partition."""

    def __init__(self, partition: Partition, generation: Generation) -> None:
        self.partition = partition
        self.generation = generation
        self.retry_at: float | None = None
        self.failures = 0
        self._begin()

    def _begin(self) -> None:
        """From the base on: what is here after a failure may not be all."""
        self._position: Position | None = None
        merged = isinstance(self.partition.tables[self.generation.map], MergedTable)
        self.table = self.partition.tables.new(self.generation.map, merged=merged)

    @property
    def id(self) -> BuildId:
        return self.partition.id, self.partition.claim, self.generation.map, self.generation.number

    def load(self) -> LoadBase:
        self._begin()
        return LoadBase(*self.id, self.generation.base)

    def base(self, chunks: Iterable[bytes]) -> Iterator[None]:
        """Takes the chunks in, one per step. Raises FormatError."""
        yield from load_base(self.table, self.generation.base, chunks)

    def read_on(self) -> ReadOutputs:
        """After the base, and after every read that was not the last."""
        return ReadOutputs(*self.id, Epoch(self.generation.since - 1), self._position)

    def read(self, after: Position, records: Sequence[LogRecord]) -> bool:
        """What the log has after `after`; nothing: it ends there. Whether the tail is reached. Raises FormatError."""
        self._position = after
        tail = self.partition.tail
        for item in records:
            if item.position > tail:  # it is on its way to the partition still, which will hand it to the table then
                return True
            self._take(item)
            self._position = item.position
        return not records or self._position >= tail

    def _take(self, item: LogRecord) -> None:
        record, name = decode_record(item.payload), self.generation.map
        if (
            record.kind not in (DATA, ROUTED)
            or record.effective < self.generation.since
            or not self.partition.valid(item.position, Term(record.term))
        ):
            return
        stamp: Stamp = (Epoch(record.effective), item.position, record.time_ms)
        for map_name, payload in zip(record.maps, record.sections, strict=True):
            if map_name == name:
                section = decode_section(payload)
                self.table.apply(list(section.keys), list(section.values), section.ops, list(section.versions), stamp)


class Builds:
    """All of a node. `complete` is told of every partition to which one was added, or where one failed."""

    def __init__(
        self, control: ControlState, emit: Callable[[Effect], None], complete: Callable[[Partition], None]
    ) -> None:
        self._control = control
        self._emit = emit
        self._complete = complete
        self._builds: dict[BuildId, Build] = {}
        self.problems: dict[BuildId, GridError] = {}

    def look(self, partition: Partition) -> bool:
        """Begins what is missing there, and lets go of what was dropped. Whether to wait: for what is being built, unless it
        has failed again and again and nobody sees it."""
        missing = partition.tables.missing(self._control.generations)
        wanted = {(partition.id, partition.claim, one.map, one.number) for one in missing}
        for known in [known for known in self._builds if known[0] == partition.id and known not in wanted]:
            self._end(known)
        for generation in missing:
            build = Build(partition, generation)
            if build.id not in self._builds:
                self._builds[build.id] = build
                self._emit(build.load())
        return any(build.failures < TRIES or self._seen(build) for build in self._of(partition))

    def _of(self, partition: Partition) -> list[Build]:
        return [build for build in self._builds.values() if build.partition is partition]

    def _seen(self, build: Build) -> bool:
        """By readers, now or by a switch that is known."""
        one, control = build.generation, self._control
        return one.number in control.generations.seen_from(one.map, control.closed)

    def forget(self, number: PartitionId) -> None:
        """The partition is another node's."""
        for known in [known for known in self._builds if known[0] == number]:
            self._end(known)

    def _end(self, known: BuildId) -> None:
        del self._builds[known]
        self.problems.pop(known, None)

    def base_loaded(self, load: LoadBase, chunks: Iterable[bytes]) -> Iterator[None]:
        """Raises FormatError."""
        build = self._builds.get(load.build)
        if build is None:
            return
        yield from build.base(chunks)
        if self._builds.get(load.build) is build:
            self._emit(build.read_on())

    def outputs_read(self, read: ReadOutputs, after: Position, records: Sequence[LogRecord]) -> None:
        """Raises FormatError."""
        build = self._builds.get(read.build)
        if build is None:
            return
        if not build.read(after, records):
            self._emit(build.read_on())
            return
        self._end(read.build)
        control, tables = self._control, build.partition.tables
        tables.add(build.generation, build.table)
        tables.settle(control.closed)
        tables.follow(control.generations, control.closed)
        self._complete(build.partition)

    def failed(self, now: float, known: BuildId, error: GridError) -> None:
        """Its base, or the log, could not be read."""
        build = self._builds.get(known)
        if build is not None:
            self.problems[known] = error
            build.retry_at = now + RETRY_SECONDS
            build.failures += 1
            self._complete(build.partition)  # which perhaps need not wait for it

    def time_passed(self, now: float) -> None:
        for build in self._builds.values():
            if build.retry_at is not None and now >= build.retry_at:
                build.retry_at = None
                self._emit(build.load())

    def deadline(self) -> float | None:
        return min((one.retry_at for one in self._builds.values() if one.retry_at is not None), default=None)

    def stuck(self) -> GridError | None:
        """What keeps one that readers see from being built, again and again."""
        for known, build in self._builds.items():
            if build.failures >= TRIES and self._seen(build):
                return self.problems[known]
        return None

    @property
    def pending(self) -> Sequence[BuildId]:
        return tuple(self._builds)
