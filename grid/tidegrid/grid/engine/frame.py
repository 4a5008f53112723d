"""A frame: the writes and outputs of one partition that become durable together, as columns, while they are computed.

Lifecycle: computed (stamped, and from then in flight for every promise), then landed at a position, or failed and
undone. Until it lands nothing outside the partition sees it; the partition's own next frame and triggers do, through
`changes`. A frame in which every write was refused has no payload: its answers wait for the frame before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.log.record import RequestRun, encode_data, encode_section
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch, PartitionId, Term

RECORD_BYTES: Final = 128
RUN_BYTES: Final = 48
"""What a record and a run of request ids weigh at most beside their content; rows have PER_WRITE_BYTES."""


def section_bytes(name: str) -> int:
    """What one more section weighs at most beside its rows. Its map is named in the record too."""
    return 2 * len(name.encode()) + 48


Change = tuple[int, bytes | None]
"""(version, value; None for a delete)"""


class Columns:
    """The rows of one section in the making. The writes of a frame are numbered as they were accepted, over all sections."""

    __slots__ = ("causes", "keys", "numbers", "ops", "runs", "schema", "values", "versions")

    def __init__(self, schema: int = 0) -> None:
        self.keys: list[bytes] = []
        self.values: list[bytes] = []
        self.ops = bytearray()
        self.versions: list[int] = []
        self.numbers: list[int] = []  # of writes
        self.causes: list[int] = []  # of outputs: the number of the write
        self.schema = schema
        self.runs: list[tuple[RequestRun, list[int]]] = []  # of writes: request ids with versions

    def add_writes(
        self, keys: Sequence[bytes], values: Sequence[bytes], ops: bytes, versions: Sequence[int], number: int
    ) -> None:
        """Writes, the first of which has this number."""
        self.keys += keys
        self.values += values
        self.ops += ops
        self.versions += versions
        self.numbers += range(number, number + len(keys))


@dataclass(slots=True)
class Portion:
    """Rows begin.. of a request as this frame answers them."""

    request: WriteRequest
    begin: int
    versions: list[int]
    errors: dict[int, GridError]


@dataclass(slots=True)
class Loan:
    """The frame was computed for a commit group, and its slot is lent to the group's coordinator (rule G)."""

    group: bytes
    attempt: int
    reply: Any
    heard_at: float
    contended: bool = False


@dataclass(slots=True)
class Frame:
    partition: PartitionId
    term: Term
    stamp: Epoch
    time_ms: int
    ref_epoch: Epoch
    portions: list[Portion] = field(default_factory=list)
    changes: dict[str, dict[bytes, Change]] = field(default_factory=dict)
    writes: dict[tuple[str, int], Columns] = field(default_factory=dict)  # by (map, schema)
    outputs: dict[str, Columns] = field(default_factory=dict)
    size: int = 0  # of the rows
    framing: int = (
        RECORD_BYTES  # an upper bound of what the record weighs beside its rows, sections of outputs left out
    )
    count: int = 0  # writes
    output_count: int = 0
    maps: list[str] = field(default_factory=list)
    sections: list[bytes] = field(default_factory=list)
    payload: bytes | None = None
    loan: Loan | None = None

    def seal(self, *, stamped: bool = True) -> None:
        """Serialises sections and record, each once; a record that is lent gets its stamp from the coordinator."""
        if not self.count:
            return
        order: list[int] = []  # the numbers of the writes as they come in the record
        runs: list[RequestRun] = []
        for (name, _), columns in self.writes.items():
            if columns.keys:
                order += columns.numbers
                runs.extend(run for run, _ in columns.runs)
                self._add(name, columns, ())
        write_sections = len(self.sections)
        place = {number: at for at, number in enumerate(order)} if write_sections > 1 and self.outputs else None
        for name, columns in self.outputs.items():
            causes = columns.causes if place is None else [place[number] for number in columns.causes]
            self._add(name, columns, causes)
        self.payload = encode_data(
            self.partition,
            self.term,
            self.stamp if stamped else Epoch(0),
            self.ref_epoch,
            self.time_ms,
            runs,
            self.maps,
            self.sections,
            write_sections,
        )

    def _add(self, name: str, columns: Columns, causes: Sequence[int]) -> None:
        self.maps.append(name)
        self.sections.append(
            encode_section(
                name, columns.keys, columns.values, bytes(columns.ops), columns.versions, causes, columns.schema
            )
        )
