"""The log of one partition as a replay reads it: its valid records in order, and what they say of parked writes and of
deliveries.

Validity is as in Recovery (protocol, section 1): an OPEN counts if its term is higher than the current one, any other
record if its term is the current one. What is parked, and what a redrive runs again, is taken from the same records as
a live partition takes it, so it comes to the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tidegrid.grid.engine.parking import ParkedId, ParkedWrite, Parking
from tidegrid.grid.log.entry import LogRecord
from tidegrid.grid.log.record import DATA, OPEN, ROUTED, Record, SourceId, decode_record, decode_section
from tidegrid.grid.model.ids import Epoch, Position, Term
from tidegrid.grid.model.limits import Limits

RowName = tuple[str, bytes, int]
"""Of a delivered row among those of its source: map, key, and how many rows of that map and key came before it."""


class LoggedRecord(NamedTuple):
    """A DATA or ROUTED record that counts. `parked`: numbers of its writes, or delivered rows, that it parks.
    `redriven`: parked writes that it ran again, with success; one of them at most has outputs to other partitions."""

    position: Position
    record: Record
    parked: frozenset[int]
    redriven: tuple[ParkedWrite, ...]


class Arrival(NamedTuple):
    """Where the outputs of one source have come to lie in this log. `nth`: of the sources of that record. `parked`: those of
    its rows that are."""

    source: SourceId
    effective: Epoch
    position: Position
    time_ms: int
    ref_epoch: Epoch
    nth: int
    parked: dict[RowName, ParkedId]


def valid_records(records: Iterable[LogRecord]) -> Iterator[tuple[Position, Record]]:
    """DATA and ROUTED records that count. `records` begin with the log. Raises FormatError."""
    term = Term(0)
    for item in records:
        record = decode_record(item.payload)
        if record.kind == OPEN:
            term = max(term, Term(record.term))
        elif record.term == term and record.kind in (DATA, ROUTED):
            yield item.position, record


def logged(records: Iterable[LogRecord], limits: Limits) -> Iterator[LoggedRecord]:
    """Raises FormatError."""
    parking = Parking(limits)
    for position, record in valid_records(records):
        if not record.failures and not record.redriven:
            yield LoggedRecord(position, record, _NONE, ())
            continue
        redriven: list[ParkedWrite] = []
        still = {failure.row for failure in record.failures}
        for row, done in enumerate(record.redriven):
            found = parking.get(ParkedId(Position(done.position), done.row))
            if found is not None and not done.dropped and row not in still:
                redriven.append(found)
        parking.landed(position, Epoch(record.effective), record)
        parked = (row for row in still if parking.get(ParkedId(position, row)) is not None)
        yield LoggedRecord(position, record, _NONE if record.redriven else frozenset(parked), tuple(redriven))


def arrivals(item: LoggedRecord) -> Iterator[Arrival]:
    """The sources of a ROUTED record."""
    record, held = item.record, _held(item)
    for index, source in enumerate(record.sources):
        yield Arrival(
            SourceId.of(source),
            Epoch(record.effective),
            item.position,
            record.time_ms,
            Epoch(record.ref_epoch),
            index,
            held.get(index, {}),
        )


def _held(item: LoggedRecord) -> dict[int, dict[RowName, ParkedId]]:
    """Parked rows by the index of their source."""
    found: dict[int, dict[RowName, ParkedId]] = {}
    if not item.parked:
        return found
    number, before = 0, defaultdict[tuple[int, str, bytes], int](int)
    for payload in item.record.sections[: item.record.write_sections]:
        section = decode_section(payload)
        for key, cause in zip(section.keys, section.causes, strict=True):
            nth = before[cause, section.map, key]
            before[cause, section.map, key] = nth + 1
            if number in item.parked:
                found.setdefault(cause, {})[section.map, key, nth] = ParkedId(item.position, number)
            number += 1
    return found


_NONE: frozenset[int] = frozenset()
