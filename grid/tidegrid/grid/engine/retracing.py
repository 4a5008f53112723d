"""Which trigger made an output, of those that could have: the deployment of that day is run again on the logged row, and
what comes out is held against what is in the log.

The state is what the triggers saw, as exactly as memory has it: tables as of just before the record, with the rows of the
record that came before; of what was delivered, as of its epoch (rule X6); reference maps as of the epoch that the record
names. What memory no longer has makes the answer "cannot be told", never a guess: an output counts as found only if the
same bytes come out again.

Invariant: nothing of the node changes. `retrace` runs authors' code and never raises for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tidegrid.grid.engine.compute import References
from tidegrid.grid.engine.delivery import origin_of
from tidegrid.grid.engine.lineage import RecordView, RowAt
from tidegrid.grid.log.record import DELETE, SourceId, write_names
from tidegrid.grid.model.errors import EpochTooOldError
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.store.table import Table
from tidegrid.triggers.deployment import TriggerSpec
from tidegrid.triggers.rejection import Rejection
from tidegrid.triggers.runtime import BoundMap, FrameContext, Session
from tidegrid.triggers.seeded import WriteName, named_by_key
from tidegrid.triggers.tracing import Emission, Tracing, Unseen
from tidegrid.v1.grid_pb2 import LineageRow, LineageStep, TriggerRun


class Then:
    """A `triggers.context.State` as of one row of a record. `tables` None: they are at another node.

    `missing`: why the look-ups cannot be answered, once one could not; `elsewhere`: another node could.
    `whole_frame`: rows of other sections of the record count as before this one; their order is not in the log.
    """

    def __init__(
        self, view: RecordView, tables: Mapping[str, Table] | None, references: References, whole_frame: bool
    ) -> None:
        self.missing = ""
        self.elsewhere = False
        self.at = RowAt(0, 0)
        self._view = view
        self._tables = tables
        self._references = references
        self._whole_frame = whole_frame

    def get(self, map_name: str, key: bytes, /) -> bytes | None:
        if self._tables is None:
            self.elsewhere = True
            raise self._unknown(f"the triggers look up {map_name!r}, which is at the owner of that partition")
        table = self._tables.get(map_name)
        if table is None:
            return None
        effective = Epoch(self._view.record.effective)
        try:
            if self._view.routed:
                seen = table.as_of(key, effective)
                return seen[0] if seen is not None else None
        except EpochTooOldError:
            raise self._past(map_name, effective) from None
        found, value = self._in_frame(map_name, key)
        if found:
            return value
        chain = table.chain(key)
        mine = (effective, self._view.place.position)
        for value, _, stamp in reversed(chain):
            if stamp[:2] < mine:
                return value
        if effective <= table.horizon and not (chain and chain[0][1] == 1):
            raise self._past(map_name, effective)
        return None

    def reference(self, map_name: str, key: bytes, /) -> bytes | None:
        epoch = Epoch(self._view.record.ref_epoch)
        if epoch > self._references.through:
            raise self._unknown(f"this node's copy of {map_name!r} is not as far as epoch {epoch:,}; try again")
        try:
            return self._references.get(map_name, key, epoch)
        except EpochTooOldError:
            raise self._past(map_name, epoch) from None

    def _in_frame(self, map_name: str, key: bytes) -> tuple[bool, bytes | None]:
        """What the record itself had written to the key before this row."""
        sections, at = self._view.sections, self.at
        own = sections[at.section]
        same_key = own.map == map_name and own.keys[at.row] == key
        best: tuple[int, bytes | None] | None = None
        for index, section in enumerate(sections[: self._view.record.write_sections]):
            if section.map != map_name:
                continue
            for row, other in enumerate(section.keys):
                if other != key:
                    continue
                version = section.versions[row]
                if same_key:
                    before = version < own.versions[at.row]
                else:
                    before = row < at.row if index == at.section else self._whole_frame
                if before and (best is None or version > best[0]):
                    best = version, None if section.ops[row] == DELETE else section.values[row]
        return (False, None) if best is None else (True, best[1])

    def _past(self, map_name: str, epoch: Epoch) -> Unseen:
        return self._unknown(
            f"the triggers look up {map_name!r} as of epoch {epoch:,}, which is past the history in memory"
        )

    def _unknown(self, why: str) -> Unseen:
        self.missing = self.missing or why
        return Unseen(why)


def retrace(
    step: LineageStep,
    view: RecordView,
    tracing: Tracing,
    tables: Mapping[str, Table] | None,
    references: References,
    seed: int,
) -> None:
    """Fills in the triggers of a step, or why they cannot be told, and which could have been."""
    cause = step.cause
    del step.triggers[:], step.candidates[:]
    step.untold, step.elsewhere = "", False
    program = tracing.program(cause.map)
    if program is None:
        step.untold = f"the code in force at epoch {step.effective:,} has no trigger on {cause.map!r}"
        return
    if program.reach.isolated:
        step.untold = "it runs in worker processes, and is not run again here"
    for whole_frame in (False, True) if not program.reach.isolated else ():
        state = Then(view, tables, references, whole_frame)
        emissions = _run(step, view, tracing, program, state, seed)
        if isinstance(emissions, Rejection):
            step.untold = f"run again, the write is refused: {emissions.message}"
            continue
        found = _match(step, emissions, tracing)
        if found is not None:
            step.triggers.extend(told(emission) for emission in found.chain())
            step.untold = ""
            return
        if state.missing:
            step.untold, step.elsewhere = state.missing, state.elsewhere
            break
        step.untold = "run again, the triggers put out something else; do they keep to the contract?"
    step.candidates.extend(_named(spec) for spec in tracing.candidates(cause.map, step.made.map, cause.schema))


def _run(
    step: LineageStep, view: RecordView, tracing: Tracing, program: BoundMap, state: Then, seed: int
) -> Sequence[Emission] | Rejection:
    record, at = view.record, view.numbered(step.cause_number)
    frame = FrameContext(
        partition=view.place.partition,
        epoch=Epoch(record.effective),
        time_ms=record.time_ms,
        ref_epoch=Epoch(record.ref_epoch),
        seed=seed,
    )
    session = tracing.bind(frame, state)
    found = activated(session, view, tracing, program, state, at, name_of(view, at))
    session.end()
    return found


def name_of(view: RecordView, at: RowAt) -> WriteName:
    """Deliveries that set something off have their record to themselves (engine/partition.py)."""
    if not view.routed:
        return write_names(view.record)[view.number(at)]
    origin = origin_of(SourceId.of(view.record.sources[0]))
    return named_by_key(origin, view.sections[at.section].keys[: at.row + 1])[-1]


def activated(
    session: Session,
    view: RecordView,
    tracing: Tracing,
    program: BoundMap,
    state: Then,
    at: RowAt,
    name: WriteName,
) -> Sequence[Emission] | Rejection:
    state.at = at
    row = view.row(at)
    value = None if row.op == DELETE else row.value
    return tracing.run(session, program, row.op, row.key, value, 0 if view.routed else row.version, name, row.schema)


def _match(step: LineageStep, emissions: Sequence[Emission], tracing: Tracing) -> Emission | None:
    made = step.made
    alike = [at for at, one in enumerate(emissions) if (one.map, one.key) == (made.map, made.key)]
    if step.occurrence >= len(alike):
        return None
    at = alike[step.occurrence]
    found = emissions[at]
    same = (found.op, found.value or b"") == (made.op, made.value)
    return found if same and tracing.complete_before(at, made.map) else None


def told(emission: Emission) -> TriggerRun:
    told = _named(emission.trigger)
    told.yielded_line = emission.line
    told.output.CopyFrom(LineageRow(map=emission.map, key=emission.key, op=emission.op, value=emission.value or b""))
    return told


def _named(spec: TriggerSpec) -> TriggerRun:
    return TriggerRun(name=spec.name, module=spec.module, line=spec.line)
