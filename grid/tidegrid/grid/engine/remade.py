"""Where a row comes from that a regeneration made: no log has it, but it has the place of what it follows from.

Below its `since` a generation after the first (ring/generations.py) holds what the code in force at `since` made of the
raw writes. Such a row has the epoch, position and time of a record of the log (replaying.py):

    a DATA record here       it follows from the raw writes there, or from those that it redrove
    a ROUTED record here     it came to lie here, or was set off, with what that delivered at the time from its sources
    neither                  nothing was delivered for it at the time: a record of another partition has that position

So that code is run again over the raw writes of the record, and what comes out for the key is held against the row. What
comes out otherwise, or cannot be run, is not told: then only the raw writes are, of which it may come.

    found = Remade(row, partitions)
    while found.wanted is not None: found.give(the record at that place, or None)      the shell reads the logs
    found.tell(tracing, tables, references, seed)
    found.lineage

Invariant: as in retracing.py nothing of the node changes, authors' code runs and is not believed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tidegrid.grid.engine.compute import References
from tidegrid.grid.engine.lineage import Place, RecordView, RowAt
from tidegrid.grid.engine.retracing import Then, activated, told
from tidegrid.grid.log.record import DATA, DELETE, MERGE, PUT, SourceId, write_names
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.store.merged import Fold
from tidegrid.grid.store.table import Table
from tidegrid.grid.store.version import Version
from tidegrid.triggers import schemas
from tidegrid.triggers.rejection import Rejection
from tidegrid.triggers.runtime import FrameContext
from tidegrid.triggers.tracing import Emission, Tracing
from tidegrid.v1.grid_pb2 import Lineage, LineageRow, LineageStep

POSSIBLE_MAX: Final = 10  # raw writes that are named where it cannot be told which one it was
TablesOf = Callable[[PartitionId], Mapping[str, Table] | None]


@dataclass(frozen=True, slots=True)
class MadeRow:
    """A version below `since`. `later`: so many versions of the key have the same stamp and come after it. `before`: the
    state that it was folded onto, if that is known; `fold` None: the map has none."""

    partition: PartitionId
    map: str
    key: bytes
    value: bytes | None
    number: int
    stamp: Stamp
    later: int
    before: bytes | None
    before_known: bool
    fold: Fold | None

    @classmethod
    def of(
        cls, partition: PartitionId, name: str, key: bytes, chain: Sequence[Version], at: int, fold: Fold | None
    ) -> MadeRow:
        value, number, stamp = chain[at]
        later = sum(other[2] == stamp for other in chain[at + 1 :])
        before = chain[at - 1][0] if at else None
        return cls(partition, name, key, value, number, stamp, later, before, at > 0 or number == 1, fold)

    def is_led_to_by(self, op: int, value: bytes | None) -> bool:
        if op == MERGE:
            return self.fold is not None and self.before_known and self.fold(self.before, value or b"") == self.value
        return (value if op == PUT else None) == self.value


def older(chain: Sequence[Version], at: int, since: Epoch, horizon: Epoch) -> tuple[int, bool]:
    """How many versions lie before the `at`-th of those that memory has, and whether that is all of them.

    Numbers of a regenerated chain count from 1 below `since`; above they are those of the log, which count rows that are
    not in this generation.
    """
    _, number, stamp = chain[0]
    if not since:  # late ones have higher numbers than those after
        return max(number for _, number, _ in chain) - len(chain[at + 1 :]) - 1, True
    if stamp[0] < since:
        return at + number - 1, True
    return at, stamp[0] > horizon  # above the horizon memory has let go of none


class _Untold(Exception):
    """Why it cannot be told. Never leaves this file."""


class _Made(NamedTuple):
    """An output to the key, and the row that set it off."""

    view: RecordView
    cause: RowAt
    emission: Emission


class Remade:
    """`wanted`: the record to read next."""

    def __init__(self, row: MadeRow, partitions: int) -> None:
        self._row = row
        self._others = [PartitionId(number) for number in range(partitions) if number != row.partition]
        self._delivery: RecordView | None = None
        self._views: list[RecordView] = []  # of raw writes
        self._hops = False
        epoch, position, time_ms = row.stamp
        self._ahead = [Place(row.partition, position)]
        self.lineage = Lineage(
            partition=row.partition, position=position, stamp=epoch, effective=epoch, time_ms=time_ms, regenerated=True
        )
        op = 0 if row.fold is not None else DELETE if row.value is None else PUT
        self.lineage.row.CopyFrom(
            LineageRow(map=row.map, key=row.key, op=op, value=row.value or b"", version=row.number)
        )

    @property
    def wanted(self) -> Place | None:
        return self._ahead[0] if self._ahead else None

    def give(self, payload: bytes | None) -> None:
        """The record at `wanted`; None: it is not there."""
        place, own = self._ahead.pop(0), self._row.partition
        view = self._fitting(place, payload)
        if place.partition == own and self._delivery is None and not self._views:
            if view is None:
                self._ahead = [Place(number, place.position) for number in self._others]
            elif view.routed:
                self._delivery = view
                self.lineage.delivered = True
                self.lineage.stamp = view.record.stamp
                sources = [SourceId.of(source) for source in view.record.sources]
                self._ahead = list(dict.fromkeys(Place(one.partition, one.position) for one in sources))
            else:
                self._views.append(view)
        elif view is None or view.routed:
            self._hops = self._hops or self._delivery is not None
        else:
            self.lineage.delivered = True
            self._views.append(view)

    def _fitting(self, place: Place, payload: bytes | None) -> RecordView | None:
        """Positions are those of one log: a record of another epoch, or time, is another one."""
        epoch, _, time_ms = self._row.stamp
        if payload is None:
            return None
        try:
            view = RecordView(place, payload)
        except FormatError:
            return None
        record = view.record
        if not record.sections and not record.redriven:
            return None
        same = record.effective == epoch and (record.time_ms == time_ms or self._delivery is not None)
        return view if same and (view.routed or record.kind == DATA) else None

    # Which raw write, which trigger ----------------------------------------------------------------------------------

    def tell(self, tracing: Tracing, tables: TablesOf, references: References, seed: int) -> None:
        """Fills in the step, or why there is none and of which raw writes the row may come."""
        lineage, row = self.lineage, self._row
        try:
            self._check(tracing)
            found = self._found(tracing, tables, references, seed)
        except _Untold as why:
            lineage.broken = str(why)
            rows = self._possible(tracing)
            lineage.possible_count = len(rows)
            lineage.possible.extend(rows[:POSSIBLE_MAX])
            return
        view, record = found.view, found.view.record
        made = LineageRow(map=row.map, key=row.key, op=found.emission.op, value=found.emission.value or b"")
        lineage.row.op, lineage.row.value = made.op, made.value
        lineage.steps.append(
            LineageStep(
                partition=view.place.partition,
                position=view.place.position,
                stamp=record.stamp,
                effective=record.effective,
                time_ms=record.time_ms,
                cause=view.row(found.cause),
                cause_number=view.number(found.cause),
                made=made,
                triggers=[told(emission) for emission in found.emission.chain()],
            )
        )

    def _check(self, tracing: Tracing) -> None:
        epoch, position, _ = self._row.stamp
        if self._by_hops(tracing):
            raise _Untold(
                "it came by way of several partitions, or with what did; what a regeneration sends from one to the next is in no log"
            )
        if not self._views:
            raise _Untold(f"no record of epoch {epoch:,} with position {position:,} is in the logs to be read")
        if self._delivery is None and len(self._views) > 1:
            raise _Untold(f"{len(self._views)} partitions have a record of that epoch, time and position")
        if any(view.record.redriven for view in self._views):
            raise _Untold("the record redrove parked writes, and a redrive is not run again here")

    def _found(self, tracing: Tracing, tables: TablesOf, references: References, seed: int) -> _Made:
        why = ""
        for whole_frame in (False, True):
            made: list[_Made] = []
            missing = ""
            for view in self._views:
                state = Then(view, tables(view.place.partition), references, whole_frame)
                made += self._run(view, tracing, state, seed)
                missing = missing or state.missing
            if missing:
                raise _Untold(missing)
            at = len(made) - 1 - self._row.later
            if at >= 0 and self._row.is_led_to_by(made[at].emission.op, made[at].emission.value):
                return made[at]
            if not made:
                why = (
                    "run again over the raw writes of that record, the triggers put out nothing for this key themselves"
                )
            elif self._row.fold is not None and not self._row.before_known:
                raise _Untold("the state that it was folded onto is no longer in memory")
            else:
                why = "run again, the triggers put out something else; do they keep to the contract?"
        raise _Untold(why)

    def _run(self, view: RecordView, tracing: Tracing, state: Then, seed: int) -> list[_Made]:
        """All raw writes of a record in one session, in the order in which they were computed, as a replay runs them."""
        record, sections = view.record, view.sections
        frame = FrameContext(
            view.place.partition, Epoch(record.effective), record.time_ms, Epoch(record.ref_epoch), seed
        )
        session = tracing.bind(frame, state)
        names = write_names(record)
        parked = {failure.row for failure in record.failures}
        taken, made = [0] * len(sections), list[_Made]()
        turns = list(record.turns) or ([0, len(sections[0].keys)] if record.write_sections else [])
        for index, count in zip(turns[::2], turns[1::2], strict=True):
            first, section = taken[index], sections[index]
            taken[index] += count
            program = tracing.program(section.map)
            if program is None or schemas.unhandled_schema(program, section.schema) is not None:
                continue
            if program.reach.isolated:
                raise _Untold("the triggers run in worker processes, and are not run again here")
            for at in (RowAt(index, row) for row in range(first, first + count)):
                if view.number(at) not in parked:
                    found = activated(session, view, tracing, program, state, at, names[view.number(at)])
                    if not isinstance(found, Rejection):
                        made += [_Made(view, at, one) for one in found if (one.map, one.key) == self._of]
        session.end()
        return made

    @property
    def _of(self) -> tuple[str, bytes]:
        return self._row.map, self._row.key

    def _by_hops(self, tracing: Tracing) -> bool:
        """Whether it may follow from what came by way of another partition than that of the raw write."""
        triggers = tracing.deployment.triggers
        derived = {name for trigger in triggers for name in trigger.emits}
        return self._hops and any(self._row.map in one.emits and derived.intersection(one.on) for one in triggers)

    def _possible(self, tracing: Tracing) -> list[LineageRow]:
        """Raw writes that may set off a trigger which emits to the map; none where others may have, too."""
        redriven = any(view.record.redriven for view in self._views)
        if redriven or self._by_hops(tracing) or (self._delivery is None and len(self._views) > 1):
            return []
        return [
            view.row(RowAt(index, row))
            for view in self._views
            for index, section in enumerate(view.sections[: view.record.write_sections])
            if tracing.candidates(section.map, self._row.map, section.schema)
            for row in range(len(section.keys))
        ]
