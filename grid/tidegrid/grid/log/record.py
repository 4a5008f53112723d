"""Records of a partition log: how a frame becomes bytes, and back.

The format is `tidegrid.v1.Record` (docs/formats.md). A record holds *sections*, the changes of one map each as
columns of equal length; a section is serialised once, alone, and its bytes serve the log, subscribers and replicas.
The first `write_sections` sections are the raw writes, the others the outputs that they caused; request ids are runs
over the writes in section order. Outputs to other partitions are in the outbox, an entry each; a ROUTED record holds
such entries as delivered, in place of the writes. Writes to several maps lie in several sections; `turns` says in which
order they were computed. Failures name the rows whose triggers failed (engine/parking.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Final, NamedTuple

from google.protobuf.message import DecodeError
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position, Term
from tidegrid.v1.record_pb2 import DATA, FILL, OPEN, ROUTED, Failure, Outbox, Record, Redriven, Section, Source

PUT: Final = 1
DELETE: Final = 2
EVENT: Final = 3
MERGE: Final = 4

__all__ = [
    "DATA",
    "DELETE",
    "EVENT",
    "FILL",
    "MERGE",
    "OPEN",
    "PUT",
    "ROUTED",
    "Failure",
    "Outbox",
    "Record",
    "Redriven",
    "RequestRun",
    "Section",
    "SourceId",
    "decode_outbox",
    "decode_record",
    "decode_section",
    "encode_data",
    "encode_fill",
    "encode_open",
    "encode_outbox",
    "encode_routed",
    "encode_section",
    "rows_in_turn",
    "stamped",
    "write_names",
]


class RequestRun(NamedTuple):
    """Consecutive sequences of one session: the ids of so many writes."""

    session: bytes
    first_sequence: int
    length: int


class SourceId(NamedTuple):
    """Names what one record sends to one other partition: entry `entry` of the outbox of the record at `position`."""

    partition: PartitionId
    position: Position
    entry: int

    @classmethod
    def of(cls, message: Source) -> SourceId:
        return cls(PartitionId(message.partition), Position(message.position), message.index)

    def message(self) -> Source:
        return Source(partition=self.partition, position=self.position, index=self.entry)


def encode_section(
    map_name: str,
    keys: Sequence[bytes],
    values: Sequence[bytes],
    ops: bytes,
    versions: Sequence[int],
    causes: Sequence[int] = (),
    schema: int = 0,
) -> bytes:
    return Section(
        map=map_name, keys=keys, values=values, ops=ops, versions=versions, causes=causes, schema=schema
    ).SerializeToString()


def decode_section(payload: bytes, *, numbered: bool = True) -> Section:
    """Raises FormatError when the bytes do not parse or the columns differ in length. An outbox has no versions yet."""
    try:
        section = Section.FromString(payload)
    except DecodeError as error:
        raise FormatError(f"a section does not parse: {error}") from error
    count = len(section.keys)
    if (
        len(section.values) != count
        or len(section.ops) != count
        or len(section.versions) != (count if numbered else 0)
        or len(section.causes) not in (0, count)
    ):
        raise FormatError(f"a section of map {section.map!r} has columns of different lengths")
    return section


def encode_data(
    partition: PartitionId,
    term: Term,
    stamp: Epoch,
    ref_epoch: Epoch,
    time_ms: int,
    runs: Sequence[RequestRun],
    maps: Sequence[str],
    sections: Sequence[bytes],
    write_sections: int,
    outbox: Sequence[bytes] = (),
    turns: Sequence[int] = (),
    failures: Sequence[Failure] = (),
    redriven: Sequence[Redriven] = (),
) -> bytes:
    return Record(
        kind=DATA,
        partition=partition,
        term=term,
        stamp=stamp,
        effective=stamp,
        ref_epoch=ref_epoch,
        time_ms=time_ms,
        sessions=[run.session for run in runs],
        first_sequences=[run.first_sequence for run in runs],
        counts=[run.length for run in runs],
        maps=maps,
        sections=sections,
        write_sections=write_sections,
        outbox=outbox,
        turns=turns,
        failures=failures,
        redriven=redriven,
    ).SerializeToString()


def encode_routed(
    partition: PartitionId,
    term: Term,
    stamp: Epoch,
    effective: Epoch,
    ref_epoch: Epoch,
    time_ms: int,
    sources: Sequence[SourceId],
    maps: Sequence[str],
    sections: Sequence[bytes],
    delivered_sections: int,
    outbox: Sequence[bytes],
    failures: Sequence[Failure],
) -> bytes:
    """Outputs of records elsewhere, then what they set off here."""
    return Record(
        kind=ROUTED,
        partition=partition,
        term=term,
        stamp=stamp,
        effective=effective,
        ref_epoch=ref_epoch,
        time_ms=time_ms,
        sources=[source.message() for source in sources],
        maps=maps,
        sections=sections,
        write_sections=delivered_sections,
        outbox=outbox,
        failures=failures,
    ).SerializeToString()


def encode_outbox(partition: PartitionId, depth: int, maps: Sequence[str], sections: Sequence[bytes]) -> bytes:
    return Outbox(partition=partition, depth=depth, maps=maps, sections=sections).SerializeToString()


def decode_outbox(payload: bytes) -> Outbox:
    """Raises FormatError."""
    try:
        outbox = Outbox.FromString(payload)
    except DecodeError as error:
        raise FormatError(f"an entry of an outbox does not parse: {error}") from error
    if len(outbox.maps) != len(outbox.sections):
        raise FormatError(f"an entry of an outbox names {len(outbox.maps)} maps for {len(outbox.sections)} sections")
    return outbox


def rows_in_turn(record: Record) -> Iterator[tuple[int, int]]:
    """(section, row in it) of every write of a DATA record, in the order in which they were computed.

    That is the order in which triggers saw one another's writes, so it is the one to replay them in.
    """
    turns = list(record.turns)
    if not turns:
        turns = [0, len(decode_section(record.sections[0]).keys)] if record.write_sections else []
    taken = [0] * record.write_sections
    for section, count in zip(turns[::2], turns[1::2], strict=True):
        for row in range(taken[section], taken[section] + count):
            yield section, row
        taken[section] += count


def write_names(record: Record) -> list[tuple[bytes, int]]:
    """(session, sequence) of every write of a DATA record, in section order."""
    names: list[tuple[bytes, int]] = []
    for session, first, count in zip(record.sessions, record.first_sequences, record.counts, strict=True):
        names += zip(repeat(session, count), range(first, first + count), strict=True)
    return names


def encode_open(
    partition: PartitionId, term: Term, stamp: Epoch, node: NodeId, incarnation: Incarnation, time_ms: int
) -> bytes:
    return Record(
        kind=OPEN,
        partition=partition,
        term=term,
        stamp=stamp,
        effective=stamp,
        node=node,
        incarnation=incarnation,
        time_ms=time_ms,
    ).SerializeToString()


def encode_fill(partition: PartitionId, term: Term, stamp: Epoch, time_ms: int) -> bytes:
    return Record(
        kind=FILL, partition=partition, term=term, stamp=stamp, effective=stamp, time_ms=time_ms
    ).SerializeToString()


def stamped(record: bytes, epoch: Epoch) -> bytes:
    """A record that was encoded without its stamp (0), with it: protobuf takes what is appended for the field's value."""
    return record + Record(stamp=epoch, effective=epoch).SerializeToString()


def decode_record(payload: bytes) -> Record:
    """Raises FormatError."""
    try:
        record = Record.FromString(payload)
    except DecodeError as error:
        raise FormatError(f"a record does not parse: {error}") from error
    if len(record.maps) != len(record.sections) or record.write_sections > len(record.sections):
        raise FormatError(
            f"a record of partition {record.partition} names {len(record.maps)} maps for {len(record.sections)} sections"
        )
    if not len(record.sessions) == len(record.first_sequences) == len(record.counts):
        raise FormatError(f"a record of partition {record.partition} has request columns of different lengths")
    return record
