"""Computing a redrive: the triggers in force run on parked writes again, and what they make is stamped now.

A trigger sees the write as it was written: key, value, schema, version, the value before it and its wall time. All
else is of today: the code, the epoch, other keys and reference maps. So the outputs are of the redrive's epoch, which
is open; what is closed stays as it is.

Such a frame is computed with nothing else on its way in the partition, so that the tables and what is parked are the
truth: nothing is redriven twice, and no newer version of a key is overlooked.
"""

from __future__ import annotations

from collections.abc import Mapping

from tidegrid.grid.engine.catalog import Catalog
from tidegrid.grid.engine.compute import STOPPED_BEFORE, References
from tidegrid.grid.engine.frame import RECORD_BYTES, Frame, Redriving
from tidegrid.grid.engine.made import Made
from tidegrid.grid.engine.parking import ParkedWrite, Parking, redriven
from tidegrid.grid.engine.placing import Placing, failure_of
from tidegrid.grid.engine.redrive import DROPPED, FAILED, GONE, REDRIVEN, SUPERSEDED, Outcome, RedriveRequest
from tidegrid.grid.engine.write import PER_WRITE_BYTES
from tidegrid.grid.log.record import DELETE, Failure
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.store.table import Table
from tidegrid.triggers import schemas
from tidegrid.triggers.runtime import FrameContext, Output, Rejection, Routed, Session
from tidegrid.triggers.session import overran

REDRIVEN_BYTES = 32  # what an id weighs in a record


class Sees:
    """What the triggers of one parked write look up: the partition as it is, and the value before the write."""

    def __init__(
        self, write: ParkedWrite, tables: Mapping[str, Table], ref_epoch: Epoch, references: References
    ) -> None:
        self._write = write
        self._tables = tables
        self._ref_epoch = ref_epoch
        self._references = references

    def get(self, map_name: str, key: bytes) -> bytes | None:
        if (map_name, key) == (self._write.map, self._write.key):
            return self._write.previous
        table = self._tables.get(map_name)
        version = table.latest(key) if table is not None else None
        return version[0] if version is not None else None

    def reference(self, map_name: str, key: bytes) -> bytes | None:
        return self._references.get(map_name, key, self._ref_epoch)


class RedriveComputation:
    def __init__(
        self,
        frame: Frame,
        request: RedriveRequest,
        parking: Parking,
        tables: Mapping[str, Table],
        catalog: Catalog,
        references: References,
        seed: int,
        limits: Limits,
        made: Made | None = None,
    ) -> None:
        """`made`: what worker processes have made of the first one, if that is isolated."""
        self._made = made
        self._frame = frame
        self._parking = parking
        self._tables = tables
        self._catalog = catalog
        self._references = references
        self._seed = seed
        self._limits = limits
        self._placing = Placing(frame, None, tables, catalog, limits)
        self._redriving = frame.redriving = Redriving(request, request.next_row)
        self._room = limits.record_bytes_max - RECORD_BYTES - catalog.output_sections_bytes

    def run(self) -> None:
        """As many of the request's writes as one frame takes; the first one always goes in. None comes after one with
        outputs to other partitions: what is delivered there together is then of one write, as in a replay."""
        request, redriving = self._redriving.request, self._redriving
        for of in request.ids[request.next_row :]:
            write = self._parking.get(of)
            if write is None:
                redriving.outcomes.append(Outcome(of, GONE))
            elif request.drop:
                redriving.done.append(redriven(of, dropped=True))
                redriving.outcomes.append(Outcome(of, DROPPED))
                self._frame.size += REDRIVEN_BYTES
            elif self._isolated(write) and (self._made is None or redriving.done):
                break
            elif not request.force and superseded(write, self._tables.get(write.map)):
                redriving.outcomes.append(Outcome(of, SUPERSEDED, _SUPERSEDED))
            elif not self._run(write):
                break
            if len(redriving.done) >= self._limits.frame_writes_max or self._frame.outbox:
                break

    def _isolated(self, write: ParkedWrite) -> bool:
        """It runs in a worker process, so it is the first one, of which there is the answer, or has to wait."""
        request, table = self._redriving.request, self._tables.get(write.map)
        runtime = self._catalog.runtime
        program = runtime.program(write.map) if runtime is not None else None
        return program is not None and program.reach.isolated and runs_again(request, write, table, self._catalog)

    def _run(self, write: ParkedWrite) -> bool:
        """False: it goes into the next frame."""
        frame, redriving = self._frame, self._redriving
        at = len(redriving.done)
        result, routed = self._activate(write)
        failure: Failure | None = None
        if isinstance(result, Rejection):
            failure = failure_of(at, result)
            weight = failure.ByteSize() + PER_WRITE_BYTES
        else:
            weight = sum(len(key) + len(out or b"") + PER_WRITE_BYTES for _, _, key, out in result)
            weight += self._placing.routed_weight(routed)
        if frame.size + weight + REDRIVEN_BYTES > self._room:
            if redriving.done:
                return False
            text = f"the outputs weigh {weight:,} bytes, more than a record has room for; emit less at a time"
            failure = Failure(row=at, trigger=write.trigger, module=write.module, line=write.line, message=text)
            weight = failure.ByteSize() + PER_WRITE_BYTES
        frame.size += weight + REDRIVEN_BYTES
        redriving.done.append(redriven(write.id))
        if failure is not None:
            frame.failures.append(failure)
            redriving.outcomes.append(Outcome(write.id, FAILED, failure.message))
            return True
        assert isinstance(result, list)
        self._placing.put_outputs(result, at)
        self._placing.put_routed(routed, at)
        redriving.outcomes.append(Outcome(write.id, REDRIVEN))
        return True

    def _activate(self, write: ParkedWrite) -> tuple[list[Output] | Rejection, list[Routed]]:
        """Where no trigger is on its map any more, nothing comes of it."""
        runtime, frame = self._catalog.runtime, self._frame
        program = runtime.program(write.map) if runtime is not None else None
        if runtime is None or program is None:
            return [], []
        unhandled = schemas.unhandled_schema(program, write.schema)
        if unhandled is not None:
            return _unhandled(write, unhandled.message), []
        version = 0 if write.routed else write.version
        session: Session | Made
        if self._made is not None and program.reach.isolated:
            session = self._made
        else:
            context = frame_context(write, frame.partition, frame.effective, self._references.changed, self._seed)
            session = runtime.bind(context, Sees(write, self._tables, frame.ref_epoch, self._references))
        result = session.activate(program, write.op, write.key, write.value, version, write.id.write_name, write.schema)
        if result is None:
            result = overran(program, program.triggers[0].spec, write.key, STOPPED_BEFORE)
        routed = list(session.routed)
        session.end()
        return result, routed


def frame_context(write: ParkedWrite, partition: PartitionId, epoch: Epoch, changed: Epoch, seed: int) -> FrameContext:
    return FrameContext(partition, epoch, write.time_ms, changed, seed)


def runs_again(request: RedriveRequest, write: ParkedWrite, table: Table | None, catalog: Catalog) -> bool:
    """Whether its triggers are asked at all."""
    runtime = catalog.runtime
    program = runtime.program(write.map) if runtime is not None else None
    if program is None or request.drop or (not request.force and superseded(write, table)):
        return False
    return schemas.unhandled_schema(program, write.schema) is None


def superseded(write: ParkedWrite, table: Table | None) -> bool:
    """Whether there is a later version of its key: outputs of the older one would go over those of the newer."""
    if table is None:
        return False  # a stream
    latest = table.latest(write.key)
    if latest is None:  # reclaimed, with a delete that came last; perhaps another one than this
        return write.op != DELETE
    _, number, (epoch, position, _) = latest
    return (epoch, position, number) > (write.effective, write.id.position, write.version)


def _unhandled(write: ParkedWrite, message: str) -> Rejection:
    return Rejection(write.trigger, write.module, write.line, "", message, message, True)


_SUPERSEDED = "a later version of its key has been written; --force redrives it all the same, --drop forgets it"
