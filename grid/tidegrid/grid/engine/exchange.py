"""Reference maps between nodes: what a node asks of the owners for its copies, and what it answers as an owner.

Any message may be lost, late or doubled: requests are repeated, answers carry the request's number and offset. An
answer of several parts is put together once and kept for the asker until its next question: between two parts frames
leave memory and history is let go, and parts of two lists do not make a whole. All owners answer out of the view in
which they were asked: out of two views, a partition that has moved would be there twice, or not at all. A new view
makes the asker begin anew.
"""

from __future__ import annotations

from collections.abc import Mapping

from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.reference import Fetch, ReferenceCopies, ReferenceRow, part_of, reference_rows
from tidegrid.grid.log.record import DELETE, PUT
from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId, Position
from tidegrid.grid.ring.control import ControlState
from tidegrid.v1.ring_pb2 import ReferenceReply, ReferenceRequest, ReferenceVersions

Message = tuple[NodeId, ReferenceRequest | ReferenceReply]


class ReferenceExchange:
    def __init__(
        self, copies: ReferenceCopies, control: ControlState, me: NodeId, partitions: Mapping[PartitionId, Partition]
    ) -> None:
        self.names: frozenset[str] = frozenset()
        self._copies = copies
        self._control = control
        self._me = me
        self._partitions = partitions
        self._answers: dict[NodeId, tuple[int, list[ReferenceRow]]] = {}  # of several parts: (question, rows)

    def advance(self, now: float) -> list[Message]:
        """A close was applied, or time has passed."""
        control = self._control
        owners = {owner.node for owner in control.view.owners.values()}
        if self._copies.target < control.horizon:
            self._copies.restart()  # no owner can answer as of that any more
        fetches = self._copies.advance(now, control.closed, control.reference_epoch, sorted(owners), self._buried)
        return self._ask(now, fetches)

    def opened(self, now: float) -> list[Message]:
        """All partitions of this node are open: it can answer itself."""
        self._copies.restart()
        return self.advance(now)

    def received(
        self, now: float, sender: NodeId, view: Position, body: ReferenceRequest | ReferenceReply
    ) -> list[Message]:
        """`view`: that of the sender."""
        if isinstance(body, ReferenceRequest):
            reply = self._answer(sender, body) if view == self._control.view.position else None
            return [(sender, reply)] if reply is not None else []
        following = self._copies.received(now, sender, body.id, body.skip, _rows(body), body.next == 0)
        if following is not None:
            return self._ask(now, [following])
        return self.advance(now)

    def _ask(self, now: float, fetches: list[Fetch]) -> list[Message]:
        """My own partitions answer at once."""
        messages: list[Message] = []
        while fetches:
            fetch = fetches.pop()
            if fetch.node != self._me:
                request = ReferenceRequest(id=fetch.number, after=fetch.after, through=fetch.through, skip=fetch.skip)
                messages.append((fetch.node, request))
            elif self._all_open():
                rows = reference_rows(self._partitions, self.names, fetch.after, fetch.through)
                self._copies.received(now, self._me, fetch.number, fetch.skip, rows, complete=True)
        return messages

    def _all_open(self) -> bool:
        """Whether this node holds all that the view gives to it: before that, its answer would leave rows out."""
        mine = (number for number, owner in self._control.view.owners.items() if owner.node == self._me)
        return all(number in self._partitions and self._partitions[number].serving for number in mine)

    @property
    def _buried(self) -> Epoch:
        """Owners may have let go of tombstones up to here (store/table.py)."""
        return Epoch(max(0, self._control.horizon - self._control.session_epochs))

    def _answer(self, sender: NodeId, request: ReferenceRequest) -> ReferenceReply | None:
        """Silence unless every record up to `through` is known here (this node has applied that close itself), and
        none of them that counts as of `through`, deletes since `after` included, may have been let go."""
        if not self._all_open() or not self._control.horizon <= request.through <= self._control.closed:
            return None
        if 0 < request.after < self._buried:
            return None
        number, whole = self._answers.get(sender, (-1, []))
        if request.id < number or (request.skip and request.id != number):
            return None
        if request.id != number:
            whole = reference_rows(self._partitions, self.names, Epoch(request.after), Epoch(request.through))
            self._answers.pop(sender, None)
        rows, complete = part_of(whole, request.skip)
        if not complete:
            self._answers[sender] = (request.id, whole)
        reply = ReferenceReply(id=request.id, after=request.after, through=request.through, skip=request.skip)
        reply.next = 0 if complete else request.skip + len(rows)
        columns: ReferenceVersions | None = None
        for row in rows:
            if columns is None or columns.partition != row.partition or columns.map != row.map:
                columns = reply.maps.add(partition=row.partition, map=row.map)
            columns.keys.append(row.key)
            columns.values.append(row.value or b"")
            columns.ops += bytes((DELETE if row.value is None else PUT,))
            columns.versions.append(row.version)
            columns.epochs.append(row.stamp[0])
            columns.positions.append(row.stamp[1])
            columns.times_ms.append(row.stamp[2])
        return reply


def _rows(reply: ReferenceReply) -> list[ReferenceRow]:
    return [
        ReferenceRow(
            columns.map, PartitionId(columns.partition), key, None if op == DELETE else value, version,
            (Epoch(epoch), Position(position), time_ms),
        )
        for columns in reply.maps
        for key, value, op, version, epoch, position, time_ms in zip(
            columns.keys, columns.values, columns.ops, columns.versions, columns.epochs, columns.positions, columns.times_ms, strict=True
        )
    ]  # fmt: skip
