"""A frame: the writes and outputs of one partition that become durable together, as columns, while they are computed.

Lifecycle: computed (stamped, and from then in flight for every promise), then landed at a position, or failed and
undone. Until it lands nothing outside the partition sees it; the partition's own next frame and triggers do, through
`changes`. A frame in which every write was refused has no payload: its answers wait for the frame before it.
"""

from __future__ import annotations

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
    """The rows of one section in the making."""

    __slots__ = ("causes", "keys", "ops", "runs", "schema", "values", "versions")

    def __init__(self, schema: int = 0) -> None:
        self.keys: list[bytes] = []
        self.values: list[bytes] = []
        self.ops = bytearray()
        self.versions: list[int] = []
        self.causes: list[tuple[Columns, int]] = []  # of outputs: the columns and row of the write
        self.schema = schema
        self.runs: list[tuple[RequestRun, list[int]]] = []  # of writes: request ids with versions


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
        base: dict[int, int] = {}
        rows = 0
        runs: list[RequestRun] = []
        for (name, schema), columns in self.writes.items():
            if not columns.keys:
                continue
            base[id(columns)] = rows
            rows += len(columns.keys)
            runs.extend(run for run, _ in columns.runs)
            self._add(name, columns, (), schema)
        write_sections = len(self.sections)
        for name, columns in self.outputs.items():
            self._add(name, columns, [base[id(write)] + row for write, row in columns.causes], columns.schema)
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

    def _add(self, name: str, columns: Columns, causes: list[int] | tuple[()], schema: int) -> None:
        self.maps.append(name)
        self.sections.append(
            encode_section(name, columns.keys, columns.values, bytes(columns.ops), columns.versions, causes, schema)
        )
