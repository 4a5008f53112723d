"""What a write must pass before it is queued, and what request memory says of it.

`check` is free of state: limits, key and value well-formedness, the map's kind, the partition. `admit` asks request
memory: a batch of new sequences (nearly every batch) goes on whole; one that overlaps what is known is taken apart
into rows that are answered now, rows that join a batch still on its way, and runs that go on by themselves.
"""

from __future__ import annotations

from tidegrid.grid.engine.catalog import Catalog, MapEntry
from tidegrid.grid.engine.requests import NAMED_SESSION, RequestMemory, Session
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.log.record import DELETE, EVENT, PUT
from tidegrid.grid.model.errors import (
    BusyError,
    ConfigurationError,
    DerivedMapError,
    InvalidKeyError,
    InvalidValueError,
    TooLargeError,
    UnknownSchemaError,
    WrongKindError,
)
from tidegrid.grid.model.ids import Epoch
from tidegrid.grid.model.keys import check_key
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.model.maps import MapKind
from tidegrid.grid.model.values import are_values, check_value
from tidegrid.triggers import schemas


def check(request: WriteRequest, catalog: Catalog, limits: Limits) -> None:
    """Raises a CallerError when the batch as a whole cannot be taken; a bad row fails alone (`request.errors`)."""
    entry = catalog.map(request.map)
    count = len(request.keys)
    if count == 0 or request.first_sequence < 1:
        raise InvalidValueError("a batch has at least one write, and its sequences begin with 1")
    if count > limits.batch_writes_max:
        raise TooLargeError.of("batch", count, limits.batch_writes_max, "writes")
    if len(request.values) != count or len(request.ops) not in (0, count):
        raise InvalidValueError("a batch's keys, values and ops are columns of equal length")
    if entry.spec.derived:
        raise DerivedMapError.of(request.map)
    _check_ops(request, entry)
    if request.conditions and (not entry.spec.stateful or any(row >= count for row in request.conditions)):
        raise WrongKindError(
            f"map {request.map!r} keeps no versions to compare with: it is a stream", map=request.map, kind="stream"
        )
    if request.conditions and request.session[:1] == bytes((NAMED_SESSION,)):
        # Refusals of a named session are not remembered, so a late copy of one that was refused could hold.
        raise InvalidValueError("writes under a named session have no conditions: use a session of the client's own")
    program = catalog.runtime.program(request.map) if catalog.runtime is not None else None
    _check_rows(request, entry, program is not None, limits)
    unhandled = schemas.unhandled_schema(program, request.schema) if program is not None else None
    if unhandled is not None:  # by row: those that request memory knows were handled by the code of their day
        request.errors = dict.fromkeys(range(count), unhandled)


def unhandled_schema(request: WriteRequest, catalog: Catalog) -> UnknownSchemaError | None:
    """Triggers wait for writes to this map, but none for those of this schema number."""
    program = catalog.runtime.program(request.map) if catalog.runtime is not None else None
    return schemas.unhandled_schema(program, request.schema) if program is not None else None


def _check_ops(request: WriteRequest, entry: MapEntry) -> None:
    if entry.spec.kind is MapKind.STREAM:
        if request.ops and request.ops.strip(bytes((PUT, EVENT))):
            raise WrongKindError(
                f"map {request.map!r} is a stream: its events cannot be deleted", map=request.map, kind="stream"
            )
        request.ops = bytes((EVENT,)) * len(request.keys)
    elif not request.ops:
        request.ops = bytes((PUT,)) * len(request.keys)
    elif request.ops.strip(bytes((PUT, DELETE))):
        raise InvalidValueError("ops are 1 (put) and 2 (delete)")


def _check_rows(request: WriteRequest, entry: MapEntry, triggered: bool, limits: Limits) -> None:
    """Bad rows get their error and are out; wrong routing is the whole batch's fault.

    `triggered`: what triggers read is checked where it is decoded for them (compute.py).
    """
    partitions = entry.partitioner.many(request.keys)
    if partitions.count(request.partition) != len(partitions):
        raise ConfigurationError(
            f"a key of map {request.map!r} does not belong to partition {request.partition}; hash it as docs/formats.md says"
        )
    match, key_max = entry.pattern.fullmatch, limits.key_bytes_max
    if (
        max(map(len, request.keys)) <= key_max
        and all(map(match, request.keys))
        and (triggered or (DELETE not in request.ops and are_values(request.values, limits)))
    ):
        return  # nearly always; otherwise it is told for each row
    for row, (key, value, op) in enumerate(zip(request.keys, request.values, request.ops, strict=True)):
        try:
            if len(key) > key_max:
                raise TooLargeError.of("key", len(key), key_max)
            if match(key) is None:
                check_key(key)
                raise InvalidKeyError(f"map {request.map!r} wants a key of ({entry.key_text})", map=request.map)
            if op != DELETE and not triggered:
                check_value(value, limits)
        except (InvalidKeyError, TooLargeError, InvalidValueError) as error:
            request.errors[row] = error


def admit(request: WriteRequest, memory: RequestMemory, epoch: Epoch, limits: Limits) -> list[WriteRequest]:
    """The requests to queue: mostly `request` itself. Rows that need no computing are answered or joined.

    Raises OutcomeUnknownError, BusyError.
    """
    session = memory.admit(request.session, epoch, request.lowest_unanswered)
    first, count = request.first_sequence, len(request.keys)
    waiting = sum(last - first + 1 for first, last, _ in session.pending)
    if waiting + count > limits.session_writes_max:
        raise BusyError.of("the session's window of unanswered writes", limits.session_writes_max)
    if first > session.highest and first >= session.lowest and not request.errors:
        _register(session, request)
        return [request]
    bad = request.errors
    request.errors = {}
    todo: list[WriteRequest] = []
    begin = None
    for row in range(count + 1):
        new = False
        if row < count:
            known = session.look_up(first + row)
            if known.state == "accepted":
                request.answer_row(row, known.version, known.epoch, None, True)
            elif known.state == "pending":
                known.pending.joiners.append((request, row, first + row - known.pending.first_sequence, True))
            elif known.state == "refused" or row in bad:
                request.answer_row(row, 0, Epoch(0), known.error or bad[row], False)
            else:
                new = True
        if new and begin is None:
            begin = row
        elif not new and begin is not None:
            part = request.part(begin, row)
            begin = None
            _register(session, part)
            todo.append(part)
    return todo


def _register(session: Session, request: WriteRequest) -> None:
    last = request.first_sequence + len(request.keys) - 1
    session.pending.append((request.first_sequence, last, request))
    session.highest = max(session.highest, last)
