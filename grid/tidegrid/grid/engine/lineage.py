"""Where a row comes from, as the partition logs say it: from an output to the write that caused it, from what was
delivered to the record that sent it, and on, back to the raw write.

    walk = Walk(place, map, key, version)
    while walk.wanted is not None: walk.give(the record at that place, or None)      the shell reads the logs
    walk.lineage                                                                      steps, the nearest first

A step ends at a row of a record that set off triggers. Which of them ran is in no log: retracing.py finds it.

    an output        its cause: the row of the same record that set it off
    a delivered row  its cause: the source; the n-th row of a map and source here is the n-th row of that section there
    a raw write      the end

Records are told apart by place alone: a source names a record that was in its log when it was sent (rule X1).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from tidegrid.grid.log.record import ROUTED, Record, Section, SourceId, decode_outbox, decode_record, decode_section
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import PartitionId, Position
from tidegrid.v1.grid_pb2 import Lineage, LineageRow, LineageStep

STEPS_MAX: Final = (
    64  # a chain is bounded by Limits.chain_depth_max; a log that says otherwise is not followed for ever
)


class Place(NamedTuple):
    """Of a record."""

    partition: PartitionId
    position: Position


class RowAt(NamedTuple):
    """A row of a record: the index of its section, and its own in there."""

    section: int
    row: int


class RecordView:
    """A DATA or ROUTED record, decoded. Raises FormatError."""

    def __init__(self, place: Place, payload: bytes) -> None:
        self.place = place
        self.record: Record = decode_record(payload)
        self.sections: list[Section] = [decode_section(section) for section in self.record.sections]

    @property
    def routed(self) -> bool:
        return self.record.kind == ROUTED

    def find(self, map_name: str, key: bytes, version: int) -> RowAt | None:
        for index, section in enumerate(self.sections):
            if section.map == map_name:
                for row, (other, number) in enumerate(zip(section.keys, section.versions, strict=True)):
                    if number == version and other == key:
                        return RowAt(index, row)
        return None

    def caused(self, at: RowAt) -> bool:
        """By a trigger on another row of this record."""
        return at.section >= self.record.write_sections

    def number(self, at: RowAt) -> int:
        """Of a write or a delivered row: counted through all of them, as causes and failures name them."""
        return sum(len(section.keys) for section in self.sections[: at.section]) + at.row

    def numbered(self, number: int) -> RowAt:
        """Raises FormatError."""
        left = number
        for index, section in enumerate(self.sections[: self.record.write_sections]):
            if left < len(section.keys):
                return RowAt(index, left)
            left -= len(section.keys)
        raise FormatError(f"record {self.place.position} of partition {self.place.partition} has no row {number}")

    def row(self, at: RowAt) -> LineageRow:
        return _row(self.sections[at.section], at.row)


def _row(section: Section, row: int) -> LineageRow:
    return LineageRow(
        map=section.map,
        key=section.keys[row],
        op=section.ops[row],
        value=section.values[row],
        version=section.versions[row] if section.versions else 0,
        schema=section.schema,
    )


class _Sent(NamedTuple):
    """A row of the outbox of a record that is still to be read: row `nth` of a section of an entry."""

    entry: int
    map: str
    schema: int
    nth: int


class Walk:
    """`wanted`: the record to read next. `views`: those that were read, for retracing.py."""

    def __init__(self, place: Place, map_name: str, key: bytes, version: int) -> None:
        self.wanted: Place | None = place
        self.lineage = Lineage(partition=place.partition, position=place.position)
        self.views: dict[Place, RecordView] = {}
        self._begin: tuple[str, bytes, int] = map_name, key, version
        self._sent: _Sent | None = None

    def give(self, payload: bytes | None) -> None:
        """The record at `wanted`; None: it is not there."""
        place, self.wanted = self.wanted, None
        assert place is not None
        try:
            if payload is None:
                raise FormatError(f"there is no record {place.position} in the log of partition {place.partition}")
            view = self.views[place] = RecordView(place, payload)
            if self._sent is None:
                self._start(view)
            else:
                self._cross(view, self._sent)
        except (FormatError, IndexError) as error:
            self.lineage.broken = error.message if isinstance(error, FormatError) else f"record {place} does not fit"

    def _start(self, view: RecordView) -> None:
        lineage, record = self.lineage, view.record
        lineage.stamp, lineage.effective, lineage.time_ms = record.stamp, record.effective, record.time_ms
        at = view.find(*self._begin)
        if at is None:
            raise FormatError(
                f"record {view.place.position} of partition {view.place.partition} has no such row of {self._begin[0]!r}"
            )
        lineage.row.CopyFrom(view.row(at))
        if view.caused(at):
            section = view.sections[at.section]
            self._follow(view, section.causes[at.row], lineage.row, _occurrence(section, at.row), None)
            return
        number = view.number(at)
        lineage.failures.extend(failure for failure in record.failures if failure.row == number)
        if view.routed:
            lineage.delivered = True
            self._arrived(view, at)

    def _cross(self, view: RecordView, sent: _Sent) -> None:
        """From a delivered row to its record's like in the record that sent it."""
        entry = decode_outbox(view.record.outbox[sent.entry])
        for payload in entry.sections:
            section = decode_section(payload, numbered=False)
            if section.map == sent.map and section.schema == sent.schema:
                made = _row(section, sent.nth)
                self._follow(view, section.causes[sent.nth], made, _occurrence(section, sent.nth), sent.entry)
                return
        raise FormatError(f"entry {sent.entry} of record {view.place.position} sends nothing to {sent.map!r}")

    def _follow(self, view: RecordView, number: int, made: LineageRow, occurrence: int, entry: int | None) -> None:
        record, at = view.record, view.numbered(number)
        self.lineage.steps.append(
            LineageStep(
                partition=view.place.partition,
                position=view.place.position,
                stamp=record.stamp,
                effective=record.effective,
                time_ms=record.time_ms,
                cause=view.row(at),
                cause_number=number,
                delivered=view.routed,
                made=made,
                occurrence=occurrence,
                entry=entry,
            )
        )
        if len(self.lineage.steps) >= STEPS_MAX:
            raise FormatError(f"the log tells of more than {STEPS_MAX} steps, which no trigger can make")
        if view.routed:
            self._arrived(view, at)

    def _arrived(self, view: RecordView, at: RowAt) -> None:
        section = view.sections[at.section]
        index = section.causes[at.row]
        source = SourceId.of(view.record.sources[index])
        nth = list(section.causes[: at.row]).count(index)
        self._sent = _Sent(source.entry, section.map, section.schema, nth)
        self.wanted = Place(source.partition, source.position)


def _occurrence(section: Section, row: int) -> int:
    """Of several outputs of one cause to one key: which one it is."""
    cause, key = section.causes[row], section.keys[row]
    return sum(section.causes[other] == cause and section.keys[other] == key for other in range(row))
