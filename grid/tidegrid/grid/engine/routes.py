"""Routed outputs of one partition (rule X): what its records have sent to others, and what it has taken from them.

    a record with an outbox lands --> a consignment, its parcels said again until answered --all answered--> delivered
    a parcel comes --> queued --its ROUTED record lands--> in the log --what that sends on is delivered too--> answered

*Delivered* is: durable, and all that followed from it (X3). It is a stable fact, and carries the tails of the whole
subtree (X7). Only the DATA at the root holds the floor (X4): `undelivered`. At or below a closed epoch all is
delivered, so nothing is kept; above it all of this is rebuilt from the log (O3).

What a partition sends to another in one epoch is taken there in the order of its log, so of two outputs with one key
the later one wins: each parcel says which one goes before it, unless all of those are answered.

Invariant: a source is queued, or in the log once, or neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tidegrid.grid.log.record import DATA, Record, SourceId, decode_outbox
from tidegrid.grid.model.ids import Epoch, PartitionId, Position

Tails = Mapping[PartitionId, Position]


@dataclass(slots=True, eq=False)
class Parcel:
    """An entry of an outbox on its way. `due`: when to say it again, `tries`: how often it was said. `before`: the one that
    was sent before it to the same partition in the same epoch."""

    source: SourceId
    target: PartitionId
    effective: Epoch
    time_ms: int
    outbox: bytes
    before: Parcel | None = None
    answered: bool = False
    due: float = 0.0
    tries: int = 0

    @property
    def after(self) -> SourceId | None:
        """What has to be taken before it. None: nothing, or it is answered, and so all that was before it is in the log."""
        return self.before.source if self.before is not None and not self.before.answered else None


@dataclass(slots=True, eq=False)
class Consignment:
    """What one record sends. `sources` are what that record itself delivers, answered when this is delivered."""

    position: Position
    effective: Epoch
    root: bool
    sources: tuple[SourceId, ...]
    waiting: dict[int, Parcel] = field(default_factory=dict)
    tails: dict[PartitionId, Position] = field(default_factory=dict)


class Taken(NamedTuple):
    """A source whose ROUTED record is in the log. `tails` is None until it is delivered."""

    effective: Epoch
    tails: Tails | None


class Routes:
    def __init__(self, partition: PartitionId) -> None:
        self._partition = partition
        self._taken: dict[SourceId, Taken] = {}
        self._consignments: dict[Position, Consignment] = {}
        self._last: dict[tuple[PartitionId, Epoch], Parcel] = {}  # by receiver and epoch

    # The log ------------------------------------------------------------------------------------------------------

    def replayed(self, position: Position, record: Record) -> None:
        """A valid DATA or ROUTED record of the log that is being opened."""
        sources = [SourceId.of(source) for source in record.sources]
        self.landed(position, Epoch(record.effective), record.time_ms, sources, record.outbox, record.kind == DATA)

    def landed(
        self,
        position: Position,
        effective: Epoch,
        time_ms: int,
        sources: Sequence[SourceId],
        outbox: Sequence[bytes],
        root: bool,
    ) -> tuple[SourceId, ...]:
        """A record is in the log. Returns those of its sources that are delivered by that."""
        if not sources and not outbox:
            return ()
        tails = {self._partition: position}
        for source in sources:
            self._taken[source] = Taken(effective, None if outbox else tails)
        if not outbox:
            return tuple(sources)
        made = self._consignments[position] = Consignment(position, effective, root, tuple(sources), tails=tails)
        for index, payload in enumerate(outbox):
            self._add(made, index, time_ms, payload)
        return ()

    def _add(self, to: Consignment, index: int, time_ms: int, outbox: bytes) -> None:
        source = SourceId(self._partition, to.position, index)
        target = PartitionId(decode_outbox(outbox).partition)
        line = (target, to.effective)
        parcel = Parcel(source, target, to.effective, time_ms, outbox, before=self._last.get(line))
        to.waiting[index] = self._last[line] = parcel

    # Answers ------------------------------------------------------------------------------------------------------

    def delivered(self, source: SourceId, tails: Tails) -> tuple[SourceId, ...]:
        """A parcel is delivered. Returns the sources that are delivered by that."""
        consignment = self._consignments.get(source.position)
        parcel = consignment.waiting.pop(source.entry, None) if consignment is not None else None
        if consignment is None or parcel is None:
            return ()
        parcel.answered, parcel.before = True, None
        for partition, tail in tails.items():
            consignment.tails[partition] = max(tail, consignment.tails.get(partition, Position(0)))
        if consignment.waiting:
            return ()
        del self._consignments[source.position]
        for own in consignment.sources:
            self._taken[own] = Taken(consignment.effective, consignment.tails)
        return consignment.sources

    def taken(self, source: SourceId) -> Taken | None:
        return self._taken.get(source)

    # Time ---------------------------------------------------------------------------------------------------------

    @property
    def undelivered(self) -> Epoch | None:
        """The lowest epoch of a write with consequences that are not in the log yet (X4)."""
        return min((one.effective for one in self._consignments.values() if one.root), default=None)

    def parcels(self) -> Iterator[Parcel]:
        """Those that are not answered, oldest record first."""
        for consignment in self._consignments.values():
            yield from consignment.waiting.values()

    def parcels_of(self, position: Position) -> Iterable[Parcel]:
        consignment = self._consignments.get(position)
        return consignment.waiting.values() if consignment is not None else ()

    def closed(self, epoch: Epoch) -> None:
        """What is closed is delivered, whether or not the answers have come."""
        for source in [source for source, taken in self._taken.items() if taken.effective <= epoch]:
            del self._taken[source]
        for position in [at for at, one in self._consignments.items() if one.effective <= epoch]:
            del self._consignments[position]
        for line in [line for line in self._last if line[1] <= epoch]:
            del self._last[line]

    # Checkpoints --------------------------------------------------------------------------------------------------

    def rows(self) -> list[Any]:
        """[sources taken: [partition, position, index, effective, tails or nil]], [consignments: [position, effective,
        root, sources, tails, [index, time_ms, outbox] of what is not answered]]."""
        taken = [
            [*source, one.effective, None if one.tails is None else list(one.tails.items())]
            for source, one in self._taken.items()
        ]
        sent = [
            [
                one.position,
                one.effective,
                one.root,
                [list(source) for source in one.sources],
                list(one.tails.items()),
                [[index, parcel.time_ms, parcel.outbox] for index, parcel in one.waiting.items()],
            ]
            for one in self._consignments.values()
        ]
        return [taken, sent]

    def load(self, rows: list[Any]) -> None:
        taken, sent = rows
        for partition, position, index, effective, tails in taken:
            source = SourceId(PartitionId(partition), Position(position), index)
            self._taken[source] = Taken(Epoch(effective), None if tails is None else _tails(tails))
        for position, effective, root, sources, tails, entries in sent:
            own = tuple(SourceId(PartitionId(at), Position(where), index) for at, where, index in sources)
            made = Consignment(Position(position), Epoch(effective), root, own, tails=_tails(tails))
            for index, time_ms, outbox in entries:
                self._add(made, index, time_ms, outbox)
            self._consignments[made.position] = made


def _tails(plain: Iterable[Sequence[int]]) -> dict[PartitionId, Position]:
    return {PartitionId(partition): Position(position) for partition, position in plain}
