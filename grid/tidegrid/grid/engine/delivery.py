"""What another partition's record brings here (rule X): an entry of its outbox, decoded, while it waits for a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.engine.write import PER_WRITE_BYTES
from tidegrid.grid.log.record import DELETE, EVENT, MERGE, PUT, Section, SourceId, decode_outbox, decode_section
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import Epoch, PartitionId


class Delivery(NamedTuple):
    """`size`: what its rows weigh in a record. `triggered`: it sets off triggers here."""

    source: SourceId
    effective: Epoch
    time_ms: int
    depth: int
    sections: Sequence[Section]
    size: int
    triggered: bool


def delivery(
    source: SourceId, partition: PartitionId, effective: Epoch, time_ms: int, outbox: bytes, catalog: Catalog
) -> Delivery:
    """`catalog` is that of the effective epoch. Raises FormatError: not what a node of this grid sends to `partition`."""
    entry = decode_outbox(outbox)
    sections = [decode_section(payload, numbered=False) for payload in entry.sections]
    size, triggered = 0, False
    for section in sections:
        known = catalog.maps.get(section.map)
        if known is None or not known.spec.derived or entry.partition != partition:
            raise FormatError(f"outputs to {section.map!r} in partition {entry.partition} were sent to {partition}")
        allowed = (PUT, DELETE, MERGE) if known.spec.stateful else (EVENT,)
        places = known.partitioner.many(section.keys)
        if section.ops.strip(bytes(allowed)) or places.count(partition) != len(places):
            raise FormatError(
                f"an output to {section.map!r} does not belong to partition {partition}, or has a strange op"
            )
        size += sum(map(len, section.keys)) + sum(map(len, section.values)) + PER_WRITE_BYTES * len(section.keys)
        triggered = triggered or (catalog.runtime is not None and catalog.runtime.program(section.map) is not None)
    return Delivery(source, effective, time_ms, entry.depth, sections, size, triggered)


def seed_of(source: SourceId) -> int:
    """What is delivered has no version number of its own to draw random numbers by."""
    partition, position, entry = source
    return (position << 48) ^ (partition << 24) ^ (entry + 1)
