"""Between the engine's values and protobuf messages: errors, carries, reads, and what writes and groups are answered."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

from tidegrid.grid.engine.group import GroupRequest
from tidegrid.grid.engine.history import HistoryPage
from tidegrid.grid.engine.intake import Carry, Request
from tidegrid.grid.engine.node import Node
from tidegrid.grid.engine.parking import ParkedId
from tidegrid.grid.engine.reads import ReadRequest, ScanRequest
from tidegrid.grid.engine.redrive import ParkedRequest, RedriveRequest
from tidegrid.grid.engine.write import WriteRequest
from tidegrid.grid.log.record import DELETE, PUT
from tidegrid.grid.model.error_message import error_message as error_message
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.v1 import errors_pb2, grid_pb2


def carry_message(node: Node) -> grid_pb2.Carry:
    """What this node has seen of time, for everything it says (rule J)."""
    return grid_pb2.Carry(grid_id=node.control.grid_id, control=node.control.position, epoch=node.epoch)


def carry_of(message: grid_pb2.Carry) -> Carry:
    return Carry(message.grid_id, Position(message.control), Epoch(message.epoch))


def read_request(
    map_name: str,
    keys: list[bytes],
    asked: grid_pb2.ReadBatch | grid_pb2.GetRequest,
    reply_to: Callable[[Request], None],
) -> ReadRequest:
    return ReadRequest(
        map_name, keys, Epoch(asked.as_of), Epoch(asked.at_least), reply_to, at_once=asked.at_once,
        staleness_ms_max=asked.staleness_ms_max, linearizable=asked.linearizable,
        generation=asked.generation if isinstance(asked, grid_pb2.ReadBatch) else 0,
        seen_at=Epoch(asked.seen_at if isinstance(asked, grid_pb2.ReadBatch) else 0),
    )  # fmt: skip


def scan_request(asked: grid_pb2.ScanRequest, rows_max: int, reply_to: Callable[[Request], None]) -> ScanRequest:
    return ScanRequest(
        asked.map, PartitionId(asked.partition), asked.begin, asked.end or None, min(asked.rows_max or rows_max, rows_max),
        asked.reverse, Epoch(asked.as_of), Epoch(asked.at_least), reply_to, at_once=asked.at_once,
        staleness_ms_max=asked.staleness_ms_max, linearizable=asked.linearizable, generation=asked.generation,
        seen_at=Epoch(asked.seen_at),
    )  # fmt: skip


def write_answer(request: WriteRequest) -> grid_pb2.WriteAnswer:
    answer = grid_pb2.WriteAnswer(versions=request.versions, repeated_at=request.repeated)
    epochs = request.epochs
    if epochs and epochs[0] == epochs[-1] and not request.errors:
        answer.epochs.append(epochs[0])  # stamps never decrease, so all in between are equal too
        answer.epoch_counts.append(len(epochs))
        if request.repeated:
            del answer.epochs[:], answer.epoch_counts[:]
    if not answer.epochs:
        for epoch, run in groupby(epochs):
            answer.epochs.append(epoch)
            answer.epoch_counts.append(sum(1 for _ in run))
    messages: dict[int, errors_pb2.Error] = {}
    for row in sorted(request.errors):
        error = request.errors[row]
        message = messages.get(id(error))
        if message is None:
            message = messages[id(error)] = error_message(error)
        answer.errors.append(grid_pb2.IndexedError(index=row, error=message))
    if request.parked is not None:
        answer.parked.extend(grid_pb2.IndexedText(index=row, text=text) for row, text in request.parked.items())
    return answer


def commit_reply(carry: grid_pb2.Carry, request: GroupRequest) -> grid_pb2.CommitReply:
    reply = grid_pb2.CommitReply(carry=carry, epoch=request.epoch)
    if request.error is not None:
        reply.error.CopyFrom(error_message(request.error))
    for (batch, row), error in sorted(request.errors.items(), key=lambda found: found[0]):
        reply.errors.add(batch=batch, row=row, error=error_message(error))
    for (batch, row), text in sorted(request.parked.items()):
        reply.parked.add(batch=batch, row=row, message=text)
    reply.versions.extend(grid_pb2.CommitVersions(versions=versions) for versions in request.versions)
    return reply


def parked_reply(carry: grid_pb2.Carry, request: ParkedRequest) -> grid_pb2.ParkedReply:
    if request.error is not None:
        return grid_pb2.ParkedReply(carry=carry, error=error_message(request.error))
    writes = [
        grid_pb2.ParkedWrite(
            partition=request.partition, id=_parked_id(write.id), map=write.map, key=write.key, op=write.op, schema=write.schema,
            version=write.version, epoch=write.effective, time_ms=write.time_ms, routed=write.routed, trigger=write.trigger,
            module=write.module, line=write.line, message=write.message, tries=write.tries, superseded=superseded,
        )
        for write, superseded in zip(request.writes, request.superseded, strict=True)
    ]  # fmt: skip
    return grid_pb2.ParkedReply(carry=carry, writes=writes, more=request.more)


def redrive_request(asked: grid_pb2.RedriveRequest, reply_to: Callable[[Request], None]) -> RedriveRequest:
    ids = [parked_id(of) for of in asked.ids]
    return RedriveRequest(PartitionId(asked.partition), ids, asked.force, asked.drop, reply_to)


def redrive_reply(carry: grid_pb2.Carry, request: RedriveRequest) -> grid_pb2.RedriveReply:
    if request.error is not None:
        return grid_pb2.RedriveReply(carry=carry, error=error_message(request.error))
    outcomes = [
        grid_pb2.RedriveOutcome(id=_parked_id(of), outcome=word, message=message, epoch=epoch)
        for of, word, message, epoch in request.outcomes
    ]
    return grid_pb2.RedriveReply(carry=carry, outcomes=outcomes)


def parked_id(message: grid_pb2.ParkedId) -> ParkedId:
    return ParkedId(Position(message.position), message.row)


def _parked_id(of: ParkedId) -> grid_pb2.ParkedId:
    return grid_pb2.ParkedId(position=of.position, row=of.row)


def read_answer(request: ReadRequest) -> grid_pb2.ReadAnswer:
    if request.error is not None:
        return grid_pb2.ReadAnswer(error=error_message(request.error))
    return grid_pb2.ReadAnswer(
        values=request.values, versions=request.versions, epochs=request.epochs, times_ms=request.times_ms,
        generation=request.generation,
    )  # fmt: skip


def history_reply(carry: grid_pb2.Carry, page: HistoryPage) -> grid_pb2.HistoryReply:
    versions = page.versions
    return grid_pb2.HistoryReply(
        carry=carry,
        values=[value or b"" for value, _, _ in versions],
        ops=bytes(DELETE if value is None else PUT for value, _, _ in versions),
        versions=[number for _, number, _ in versions],
        epochs=[stamp[0] for _, _, stamp in versions],
        times_ms=[stamp[2] for _, _, stamp in versions],
        after=page.cursor.epoch,
        position=page.cursor.position,
        more=page.more,
    )
