"""Computing a frame: conditions, triggers and version numbers for the writes that wait, row by row; or, for a routed
frame, for what other partitions have sent here.

The base of each row is what the partition will hold once everything before it has landed: this frame's rows so far,
then the frame in flight, then the table. Nothing here changes the partition: the frame that comes out is applied when
it has landed, or dropped.

Triggers on what is delivered run by the code of its effective epoch, and see direct maps as of it (rule X6); the
partition delivers only what it can add nothing to, at or below that epoch, so that is the same in every replay. They
cannot reject: a write elsewhere is accepted. What fails is written down in the record, as is a write that is parked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from tidegrid.grid.engine.admission import unhandled_schema
from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.engine.delivery import Delivery, Rows, origin_of
from tidegrid.grid.engine.frame import RUN_BYTES, Change, Columns, Frame, Portion
from tidegrid.grid.engine.made import Made
from tidegrid.grid.engine.parking import Parking, parked_bytes
from tidegrid.grid.engine.placing import Placing, failure_of
from tidegrid.grid.engine.write import PER_WRITE_BYTES, WriteRequest, section_bytes
from tidegrid.grid.log.record import DELETE, Failure, RequestRun
from tidegrid.grid.model.errors import (
    ConflictError,
    GridError,
    InvalidValueError,
    RejectedError,
    TooLargeError,
    TriggerSuspendedError,
)
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.values import check_value
from tidegrid.grid.store.table import Table
from tidegrid.triggers.runtime import BoundMap, FrameContext, Output, Rejection, Session
from tidegrid.triggers.seeded import named_by_key
from tidegrid.triggers.session import overran


class References(Protocol):
    """The node's copies of the reference maps."""

    @property
    def through(self) -> Epoch:
        """They contain everything at or below this closed epoch, and look-ups read as of it."""
        ...

    @property
    def changed(self) -> Epoch:
        """They have not changed after this epoch: what was read as of it holds as of `through`."""
        ...

    def get(self, map_name: str, key: bytes, as_of: Epoch) -> bytes | None: ...


SOURCE_BYTES: Final = 32
STOPPED_BEFORE: Final = "its worker process was stopped before it: other rows took it longer than their budget"


class Computation:
    """One frame in the making. `add` takes a request as far as there is room and says whether there was."""

    def __init__(
        self,
        frame: Frame,
        base: Frame | None,
        tables: Mapping[str, Table],
        catalog: Catalog,
        references: References,
        seed: int,
        limits: Limits,
        parking: Parking,
        made: Made | None = None,
    ) -> None:
        """`made`: what worker processes have made of the rows, in place of triggers that run here."""
        self.frame = frame
        self._made = made
        self.placing = Placing(frame, base, tables, catalog, limits)
        self._base = base
        self._tables = tables
        self._catalog = catalog
        self._references = references
        self._limits = limits
        self._parking = parking
        self._seed = seed
        self._session: Session | Made | None = made

    def _bound(self) -> Session | Made:
        """The triggers' session of this frame; a frame of plain writes needs none."""
        if self._session is None:
            assert self._catalog.runtime is not None
            frame = self.frame
            context = FrameContext(
                partition=frame.partition,
                epoch=frame.effective,
                time_ms=frame.time_ms,
                ref_epoch=self._references.changed,
                seed=self._seed,
            )
            self._session = self._catalog.runtime.bind(context, self)
        return self._session

    def end(self) -> None:
        """The frame is as full as it gets: nothing here refers back to it any more, so it goes when it is done with."""
        if self._session is not None:
            self._session.end()
            self._session = None

    # What triggers see -------------------------------------------------------------------------------------------

    def get(self, map_name: str, key: bytes) -> bytes | None:
        """Latest value, with this frame's rows and those of the frame in flight; of a routed frame, as of its epoch."""
        if self.frame.deliveries:
            table = self._tables.get(map_name)
            seen = table.as_of(key, self.frame.effective) if table is not None else None
            return seen[0] if seen is not None else None
        found = self._change(map_name, key)
        if found is not None:
            return found[1]
        table = self._tables.get(map_name)
        version = table.latest(key) if table is not None else None
        return version[0] if version is not None else None

    def reference(self, map_name: str, key: bytes) -> bytes | None:
        return self._references.get(map_name, key, self.frame.ref_epoch)

    # Rows --------------------------------------------------------------------------------------------------------

    def add(self, request: WriteRequest) -> bool:
        frame, name = self.frame, request.map
        catalog, limits = self._catalog, self._limits
        program = catalog.runtime.program(name) if catalog.runtime is not None else None
        columns = frame.writes.get((name, request.schema))
        if columns is None:
            columns = frame.writes[(name, request.schema)] = Columns(request.schema)
            frame.framing += section_bytes(name)
        frame.framing += RUN_BYTES
        begin = request.next_row
        end = min(len(request.keys), begin + limits.frame_writes_max - frame.count)
        keys, values, ops = request.keys[begin:end], request.values[begin:end], request.ops[begin:end]
        room = limits.record_bytes_max - frame.framing - catalog.output_sections_bytes - frame.size
        weight = sum(map(len, keys)) + sum(map(len, values)) + PER_WRITE_BYTES * len(keys)
        errors: dict[int, GridError] = {}
        parked: dict[int, str] | None = None
        versions: list[int] = []
        if begin and (unhandled := unhandled_schema(request, catalog)) is not None:  # code changed in its midst
            errors = dict.fromkeys(range(begin, end), unhandled)
        elif program is None and not request.conditions and weight <= room and DELETE not in ops:
            versions = self._number(name, keys, values)
            frame.size += weight
        else:
            before = len(frame.failures)
            versions = self._decide(request, program, keys, values, ops, room, errors)
            if len(frame.failures) > before:
                parked = _parked_rows(frame.failures[before:], frame.count, begin, errors)
        done = len(versions) + len(errors)
        if len(versions) < len(keys):
            kept = [row for row in range(done) if begin + row not in errors]
            keys, values, ops = (
                [keys[row] for row in kept],
                [values[row] for row in kept],
                bytes(ops[row] for row in kept),
            )
        columns.add_writes(keys, values, ops, versions, frame.count)
        if versions:
            frame.turns.append(((name, request.schema), len(versions)))
        frame.count += len(versions)
        frame.framing += RUN_BYTES * len(errors)
        if done:
            answers = list(versions)
            for row in sorted(errors):
                answers.insert(row - begin, 0)
            frame.portions.append(Portion(request, begin, answers, errors, parked))
            _note_runs(columns, request, begin, answers, errors)
        request.next_row = begin + done
        return request.next_row == len(request.keys)

    def _number(self, name: str, keys: Sequence[bytes], values: Sequence[bytes]) -> list[int]:
        """The versions of plain puts, which nothing can refuse."""
        if not self._catalog.map(name).spec.stateful:
            return [1] * len(keys)
        fresh, older, table = self.placing.layers(name)
        versions: list[int] = []
        for key, value, stored in zip(keys, values, stored_versions(table, keys), strict=True):
            known = fresh.get(key) or older.get(key)
            version = (stored if known is None else known[0]) + 1
            fresh[key] = (version, value)
            versions.append(version)
        return versions

    def _decide(
        self,
        request: WriteRequest,
        program: BoundMap | None,
        keys: Sequence[bytes],
        values: Sequence[bytes],
        ops: bytes,
        room: int,
        errors: dict[int, GridError],
    ) -> list[int]:
        """Row by row: conditions, triggers, and whether it still fits. Returns the versions of the accepted rows;
        what is refused goes into `errors`, what is parked into the frame's failures, and what no longer fits is left for
        the next frame."""
        frame, limits, name, schema = self.frame, self._limits, request.map, request.schema
        stateful = self._catalog.map(name).spec.stateful
        fresh, older, table = self.placing.layers(name)
        conditions = request.conditions or _NO_CONDITIONS
        session = self._bound() if program is not None else None
        size, ordinal = 0, frame.count
        origin, first = request.session, request.first_sequence
        versions: list[int] = []
        row = request.next_row - 1
        for key, value, op, stored in zip(keys, values, ops, stored_versions(table, keys), strict=True):
            row += 1
            known = fresh.get(key) or older.get(key)
            version = stored if known is None else known[0]
            if row in conditions and (refusal := self._refuses(name, key, version, conditions[row])):
                errors[row] = refusal
                continue
            version += 1
            weight = len(key) + len(value) + PER_WRITE_BYTES
            outputs: list[Output] | None = None
            failure: Failure | None = None
            if session is not None:
                assert program is not None
                if op == DELETE:
                    result = session.activate(program, op, key, None, version, (origin, first + row), schema)
                else:
                    try:
                        decoded = check_value(value, limits)
                    except (InvalidValueError, TooLargeError) as error:
                        errors[row] = error
                        continue
                    result = session.activate(program, op, key, value, version, (origin, first + row), schema, decoded)
                if result is None:
                    break
                if type(result) is Rejection:
                    if not result.parks:
                        errors[row] = rejected(result)
                        continue
                    failure = self._failure(ordinal + len(versions), result, name, key, value)
                    if failure is None:
                        errors[row] = unparkable(result, self._limits)
                        self._leave_rest()
                        continue
                    weight += failure.ByteSize() + PER_WRITE_BYTES
                else:
                    assert type(result) is list
                    outputs = result
                    for _, _, out_key, out_value in outputs:
                        weight += len(out_key) + PER_WRITE_BYTES
                        if out_value is not None:
                            weight += len(out_value)
                if session.routed:
                    weight += self.placing.routed_weight(session.routed)
            if size + weight > room - RUN_BYTES * len(errors):
                if size or frame.size:
                    break
                errors[row] = TooLargeError.of("record (a write with its outputs)", weight, room)
                self._leave_rest()
                continue
            size += weight
            if failure is not None:
                frame.failures.append(failure)
                frame.parked_bytes += parked_bytes(key, value, failure.previous, failure.message)
            if stateful:
                fresh[key] = (version, None if op == DELETE else value)
            if outputs:
                self.placing.put_outputs(outputs, ordinal + len(versions))
            if session is not None and session.routed:
                self.placing.put_routed(session.routed, ordinal + len(versions))
            versions.append(version)
        frame.size += size
        return versions

    def _leave_rest(self) -> None:
        """A row is refused for want of room. In a worker process those after it, of whichever request, took it for stored."""
        if self._made is not None:
            self._made.leave_rest()

    def _failure(self, number: int, result: Rejection, name: str, key: bytes, value: bytes) -> Failure | None:
        """Of a write that is parked, before it changes anything; None: there is no room for it."""
        frame, base = self.frame, self._base
        stateful = self._catalog.map(name).spec.stateful
        previous = self.get(name, key) if stateful else None
        failure = failure_of(number, result, previous)
        writes, size = len(frame.failures) + 1, frame.parked_bytes
        if base is not None:
            writes, size = writes + len(base.failures), size + base.parked_bytes
        size += parked_bytes(key, value, previous, failure.message)
        return failure if self._parking.has_room(writes, size) else None

    def _change(self, name: str, key: bytes) -> Change | None:
        fresh = self.frame.changes.get(name)
        if fresh is not None and (found := fresh.get(key)) is not None:
            return found
        if self._base is not None and (older := self._base.changes.get(name)) is not None:
            return older.get(key)
        return None

    def _refuses(self, name: str, key: bytes, version: int, expected: int) -> ConflictError | None:
        """A tombstone counts as absent, and still answers to its version number."""
        current = version if self.get(name, key) is not None else 0
        if expected == current or (expected and expected == version):
            return None
        return ConflictError.of(expected, current)

    # Deliveries --------------------------------------------------------------------------------------------------

    def deliver(self, delivery: Delivery) -> bool:
        """Takes a delivery whole, if there is room; the first one always goes in."""
        frame = self.frame
        weight = delivery.size + delivery.framing + SOURCE_BYTES
        if frame.deliveries and frame.framing + frame.size + weight > self._limits.record_bytes_max:
            return False
        frame.deliveries.append(delivery)
        frame.size += weight
        for section in delivery.sections:
            first = self._take_in(section, len(frame.deliveries) - 1)
            program = self._catalog.runtime.program(section.map) if self._catalog.runtime is not None else None
            if program is not None:
                self._set_off(program, section, delivery, first)
        return True

    def _take_in(self, section: Rows, source: int) -> int:
        """The rows of a section, as rows of the frame's own; returns the number of the first."""
        frame, (name, schema, keys, values, ops) = self.frame, section
        columns = frame.writes.get((name, schema))
        if columns is None:
            columns = frame.writes[(name, schema)] = Columns(schema)
        versions = [1] * len(keys)
        if self._catalog.map(name).spec.stateful:
            fresh, older, table = self.placing.layers(name)
            versions = stored_versions(table, keys)
            for at, (key, value, op) in enumerate(zip(keys, values, ops, strict=True)):
                known = fresh.get(key) or older.get(key)
                version = versions[at] = (versions[at] if known is None else known[0]) + 1
                fresh[key] = (version, None if op == DELETE else value)
        first = frame.count
        columns.add_writes(keys, values, ops, versions, first)
        columns.causes += [source] * len(keys)
        frame.count += len(keys)
        return first

    def _set_off(self, program: BoundMap, section: Rows, delivery: Delivery, first: int) -> None:
        """Triggers on what was delivered. They have the record to themselves but for the delivery (partition.py)."""
        frame, session = self.frame, self._bound()
        room = self._limits.record_bytes_max - frame.framing - self._catalog.output_sections_bytes
        schema, depth = section.schema, delivery.depth
        names = named_by_key(origin_of(delivery.source), section.keys)
        for row, (key, value, op, name) in enumerate(
            zip(section.keys, section.values, section.ops, names, strict=True)
        ):
            body = None if op == DELETE else value
            result = session.activate(program, op, key, body, 0, name, schema, depth=depth)
            if result is None:
                result = overran(program, program.triggers[0].spec, key, STOPPED_BEFORE)
            if type(result) is Rejection:
                self.placing.note_failure(failure_of(first + row, result))
                continue
            assert type(result) is list
            weight = PER_WRITE_BYTES * len(result)
            for _, _, out_key, out in result:
                weight += len(out_key) + (len(out) if out is not None else 0)
            if session.routed:
                weight += self.placing.routed_weight(session.routed)
            if frame.size + weight > room:
                text = f"the outputs weigh {weight:,} bytes more than the record has room for; emit less at a time"
                self.placing.note_failure(Failure(row=first + row, message=text))
                continue
            frame.size += weight
            if result:
                self.placing.put_outputs(result, first + row)
            if session.routed:
                self.placing.put_routed(session.routed, first + row)


def rejected(outputs: Rejection) -> RejectedError:
    return (TriggerSuspendedError if outputs.suspended else RejectedError)(
        outputs.message, trigger=outputs.trigger, line=outputs.line, key=outputs.key, failed=outputs.failed
    )


def unparkable(outputs: Rejection, limits: Limits) -> RejectedError:
    message = (
        f"{outputs.message}; it would be parked, but its partition keeps no more parked writes than {limits.parked_max:,} of "
        f"{limits.parked_bytes_max:,} bytes: mend the trigger, then `tidegrid parked redrive --all`"
    )
    return RejectedError(message, trigger=outputs.trigger, line=outputs.line, key=outputs.key, failed=True)


def _parked_rows(
    failures: Sequence[Failure], first: int, begin: int, errors: Mapping[int, GridError]
) -> dict[int, str]:
    """By row of the request, which begins at `begin` with the frame's write `first`: what is refused is no write."""
    parked: dict[int, str] = {}
    row, number = begin, first
    for failure in failures:
        while row in errors or number < failure.row:
            number += row not in errors
            row += 1
        parked[row] = failure.message
    return parked


def _note_runs(
    columns: Columns, request: WriteRequest, begin: int, answers: list[int], errors: Mapping[int, GridError]
) -> None:
    """Request ids of the accepted rows: one run, unless refused rows lie between."""
    first = begin
    for gap in [*sorted(errors), begin + len(answers)]:
        if gap > first:
            run = RequestRun(request.session, request.first_sequence + first, gap - first)
            columns.runs.append((run, answers[first - begin : gap - begin]))
        first = gap + 1


def stored_versions(table: Table | None, keys: Sequence[bytes]) -> list[int]:
    return table.latest_versions(keys) if table is not None else [0] * len(keys)


_NO_CONDITIONS: dict[int, int] = {}
