"""What another partition's record brings here (rule X): an entry of its outbox, decoded, while it waits for a frame."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.engine.write import PER_WRITE_BYTES, section_bytes
from tidegrid.grid.log.record import DELETE, EVENT, MERGE, PUT, SourceId, decode_outbox, decode_section
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import Epoch, PartitionId


class Rows(NamedTuple):
    """A section of it, in plain columns."""

    map: str
    schema: int
    keys: Sequence[bytes]
    values: Sequence[bytes]
    ops: bytes


Line = tuple[PartitionId, Epoch]
"""What one partition sends here in one epoch: nobody in it is overtaken."""


class Delivery(NamedTuple):
    """`size`: what its rows weigh in a record, `framing`: what its sections do. `triggered`: it sets off triggers here."""

    source: SourceId
    effective: Epoch
    time_ms: int
    depth: int
    sections: Sequence[Rows]
    size: int
    framing: int
    triggered: bool

    @property
    def line(self) -> Line:
        return self.source.partition, self.effective


class Early:
    """Deliveries that have come before what goes before them (routes.py). Nobody is lost by letting go of one."""

    def __init__(self) -> None:
        self._after: dict[SourceId, Delivery] = {}
        self.bytes = 0

    def keep(self, after: SourceId, one: Delivery) -> None:
        self.take(after)
        self._after[after] = one
        self.bytes += one.size

    def take(self, after: SourceId) -> Delivery | None:
        """What waits for this one."""
        found = self._after.pop(after, None)
        self.bytes -= found.size if found is not None else 0
        return found

    def closed(self, epoch: Epoch) -> None:
        for after in [after for after, one in self._after.items() if one.effective <= epoch]:
            self.take(after)

    def clear(self) -> None:
        self._after.clear()
        self.bytes = 0


def delivery(
    source: SourceId, partition: PartitionId, effective: Epoch, time_ms: int, outbox: bytes, catalog: Catalog
) -> Delivery:
    """`catalog` is that of the effective epoch. Raises FormatError: not what a node of this grid sends to `partition`."""
    entry = decode_outbox(outbox)
    sections: list[Rows] = []
    size, framing, triggered = 0, 0, False
    for payload in entry.sections:
        section = decode_section(payload, numbered=False)
        name, ops, keys, values = section.map, section.ops, list(section.keys), list(section.values)
        known = catalog.maps.get(name)
        if known is None or not known.spec.derived or entry.partition != partition:
            raise FormatError(f"outputs to {name!r} in partition {entry.partition} were sent to {partition}")
        places = known.partitioner.many(keys)
        if ops.strip(_STATEFUL if known.spec.stateful else _EVENTS) or places.count(partition) != len(places):
            raise FormatError(f"an output to {name!r} does not belong to partition {partition}, or has a strange op")
        sections.append(Rows(name, section.schema, keys, values, ops))
        size += sum(map(len, keys)) + sum(map(len, values)) + PER_WRITE_BYTES * len(keys)
        framing += section_bytes(name)
        triggered = triggered or (catalog.runtime is not None and catalog.runtime.program(name) is not None)
    return Delivery(source, effective, time_ms, entry.depth, sections, size, framing, triggered)


def alike(first: Delivery, waiting: Iterable[Delivery]) -> Sequence[Delivery]:
    """What may share a frame: of one epoch, and setting nothing off, so that it depends on nothing else."""
    if first.triggered:
        return (first,)
    found: list[Delivery] = []
    left: set[Line] = set()
    for one in waiting:
        if one.effective != first.effective:
            continue
        if one.triggered or (left and one.line in left):
            left.add(one.line)
        else:
            found.append(one)
    return found


def without(waiting: deque[Delivery], taken: set[SourceId]) -> deque[Delivery]:
    """Those that are left, where the taken ones are at the head as a rule."""
    found = 0
    while waiting and waiting[0].source in taken:
        waiting.popleft()
        found += 1
    return waiting if found == len(taken) else deque(one for one in waiting if one.source not in taken)


_STATEFUL: Final = bytes((PUT, DELETE, MERGE))
_EVENTS: Final = bytes((EVENT,))


def origin_of(source: SourceId) -> bytes:
    """Of the names of its rows."""
    return "delivered {}/{}/{}".format(*source).encode()
