"""A frame: the writes and outputs of one partition that become durable together, as columns, while they are computed.

Outputs to other partitions go into its outbox, an entry for each of them. A *routed* frame has, in place of writes, what
such entries of other records bring here: the deliveries. A *redriving* one has none of either: its outputs are those of
parked writes.

Lifecycle: computed (stamped, and from then in flight for every promise), then landed at a position, or failed and
undone. Until it lands nothing outside the partition sees it; the partition's own next frame and triggers do, through
`changes`. A frame in which every write was refused has no payload: its answers wait for the frame before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from tidegrid.grid.engine.delivery import Delivery
from tidegrid.grid.engine.redrive import Outcome, RedriveRequest
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.log.record import (
    DATA,
    ROUTED,
    Failure,
    Redriven,
    RequestRun,
    SourceId,
    encode_data,
    encode_outbox,
    encode_routed,
    encode_section,
)
from tidegrid.grid.model.errors import GridError
from tidegrid.grid.model.ids import Epoch, PartitionId, Term

RECORD_BYTES: Final = 128
RUN_BYTES: Final = 48
"""What a record and a run of request ids weigh at most beside their content; rows have PER_WRITE_BYTES."""


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
        self.causes: list[int] = []  # of outputs: the number of the write; of what is delivered: its source
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
    parked: dict[int, str] | None = None


@dataclass(slots=True)
class Consigned:
    """Outputs to one other partition. `depth`: of the deepest, how many triggers lie behind it."""

    depth: int = 0
    columns: dict[str, Columns] = field(default_factory=dict)


@dataclass(slots=True)
class Redriving:
    """The rows `begin`.. of a redrive as this frame decides them. `done`: what the record says of parked writes."""

    request: RedriveRequest
    begin: int
    outcomes: list[Outcome] = field(default_factory=list)
    done: list[Redriven] = field(default_factory=list)


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
    turns: list[tuple[tuple[str, int], int]] = field(default_factory=list)  # (section, count) as they were accepted
    outputs: dict[str, Columns] = field(default_factory=dict)
    outbox: dict[PartitionId, Consigned] = field(default_factory=dict)
    deliveries: list[Delivery] = field(default_factory=list)  # of a routed frame, all of one effective epoch
    failures: list[Failure] = field(
        default_factory=list
    )  # of triggers, on writes that are parked and on what was delivered
    parked_bytes: int = 0  # what the parked writes weigh in memory
    redriving: Redriving | None = None
    size: int = 0  # of the rows
    framing: int = (
        RECORD_BYTES  # an upper bound of what the record weighs beside its rows, sections of outputs left out
    )
    count: int = 0  # writes
    output_count: int = 0
    maps: list[str] = field(default_factory=list)
    sections: list[bytes] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)  # the outbox, serialised
    payload: bytes | None = None
    loan: Loan | None = None

    @property
    def kind(self) -> int:
        return ROUTED if self.deliveries else DATA

    @property
    def effective(self) -> Epoch:
        """At which epoch readers see it: that of its stamp, or of what it delivers."""
        return self.deliveries[0].effective if self.deliveries else self.stamp

    @property
    def sources(self) -> list[SourceId]:
        return [delivery.source for delivery in self.deliveries]

    def seal(self, *, stamped: bool = True) -> None:
        """Serialises sections and record, each once; a record that is lent gets its stamp from the coordinator."""
        redriven = self.redriving.done if self.redriving is not None else ()
        if not self.count and not redriven:
            return
        order: list[int] = []  # the numbers of the writes as they come in the record
        runs: list[RequestRun] = []
        for (name, _), columns in self.writes.items():
            if columns.keys:
                order += columns.numbers
                runs.extend(run for run, _ in columns.runs)
                self._add(name, columns, columns.causes)
        write_sections = len(self.sections)
        turns = self._turns() if write_sections > 1 else ()
        place = {number: at for at, number in enumerate(order)} if write_sections > 1 else None
        for name, columns in self.outputs.items():
            self._add(name, columns, _placed(columns.causes, place))
        for partition, consigned in sorted(self.outbox.items()):
            sections = [
                _section(name, columns, _placed(columns.causes, place)) for name, columns in consigned.columns.items()
            ]
            self.entries.append(encode_outbox(partition, consigned.depth, list(consigned.columns), sections))
        for failure in self.failures:
            failure.row = failure.row if place is None else place[failure.row]
        stamp = self.stamp if stamped else Epoch(0)
        if not self.deliveries:
            self.payload = encode_data(
                self.partition,
                self.term,
                stamp,
                self.ref_epoch,
                self.time_ms,
                runs,
                self.maps,
                self.sections,
                write_sections,
                self.entries,
                turns,
                self.failures,
                redriven,
            )
            return
        self.payload = encode_routed(
            self.partition,
            self.term,
            stamp,
            self.effective,
            self.ref_epoch,
            self.time_ms,
            self.sources,
            self.maps,
            self.sections,
            write_sections,
            self.entries,
            self.failures,
        )

    def _turns(self) -> list[int]:
        section = {key: at for at, key in enumerate(key for key, columns in self.writes.items() if columns.keys)}
        flat: list[int] = []
        for key, count in self.turns:
            if flat and flat[-2] == section[key]:
                flat[-1] += count
            else:
                flat += (section[key], count)
        return flat

    def _add(self, name: str, columns: Columns, causes: Sequence[int]) -> None:
        self.maps.append(name)
        self.sections.append(_section(name, columns, causes))


def _section(name: str, columns: Columns, causes: Sequence[int]) -> bytes:
    return encode_section(
        name, columns.keys, columns.values, bytes(columns.ops), columns.versions, causes, columns.schema
    )


def _placed(causes: Sequence[int], place: dict[int, int] | None) -> Sequence[int]:
    return causes if place is None else [place[number] for number in causes]
