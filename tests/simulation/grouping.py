"""Clients that commit groups: over any partitions, by way of any node, again elsewhere when an answer does not come.

A group is sent to one node at a time: to the next one only after the deadline that the first was given, since two
coordinators of one group may be told different things by owners that change in between. For the same reason who asks
another one no longer listens to the first, as client/commit.py, which has one call at a time. Reads are those of all
clients, so what was acknowledged as a group has to be seen as one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tidegrid.grid.engine.group import GroupRequest
from tidegrid.grid.log.record import DELETE, PUT
from tidegrid.grid.model.errors import OutcomeUnknownError
from tidegrid.v1 import grid_pb2

from tests.simulation.clients import FINAL, Client
from tests.simulation.judge import RequestId, SentRow, Violation

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

SECONDS = 0.4


@dataclass(slots=True)
class Group:
    id: bytes
    writes: list[grid_pb2.WriteBatch]
    sent: int = 0
    open_rows: bool = True

    def ids(self) -> list[RequestId]:
        return [
            (batch.session, batch.partition, batch.first_sequence + row)
            for batch in self.writes
            for row in range(len(batch.keys))
        ]


class GroupClient(Client):
    def __init__(self, world: World, number: int) -> None:
        super().__init__(world, number)
        self._groups = 0

    def _write(self) -> None:
        if len(self.outstanding) < 2:
            self._commit()

    def _commit(self) -> None:
        world, chance = self.world, self.world.chance
        if self.epoch > self._created + world.options.session_epochs // 2:
            self._renew()
        self._groups += 1
        group = Group(struct.pack(">II", self.number, self._groups), [])
        for _ in range(chance.choice((1, 2, 2, 3, 4))):
            name = chance.choice(("raw", "raw", "plain", "plain", "notes", "prices"))
            keys, values, conditions = self._rows(name)
            partition = world.keys.partition(name, keys[0])
            first = self._next.get(partition, 1)
            self._next[partition] = first + len(keys)
            batch = grid_pb2.WriteBatch(
                partition=partition, session=self._session, first_sequence=first, map=name, keys=keys,
                values=[value or b"" for value in values], ops=bytes(DELETE if v is None else PUT for v in values),
            )  # fmt: skip
            for row, version in conditions.items():
                batch.conditions.add(index=row, version=version)
            group.writes.append(batch)
            for row, (key, value) in enumerate(zip(keys, values, strict=True)):
                request = (self._session, partition, first + row)
                world.judge.sent[request] = SentRow(name, key, value, conditions.get(row), self.epoch)
                world.judge.group_of[request] = group.id
        world.judge.groups[group.id] = group.ids()
        self.outstanding[group.id, 0, 0] = group  # type: ignore[assignment]
        self._try(group)

    def _try(self, group: Group) -> None:
        """At any node, with a deadline; then elsewhere."""
        world = self.world
        process = world.chance.choice(list(world.processes.values()))
        group.sent += 1
        sent, until, life = group.sent, world.now + SECONDS, process.life
        carry = self._carry()
        request = GroupRequest(
            group.id, group.writes, lambda request: self._group_answered(group, sent, process, life, request)
        )

        def arrives() -> None:
            if process.life == life and process.node is not None and world.now < until:
                process.submit(request, carry, until - world.now)

        if not world.happens(world.faults.client_loss):
            world.soon(world.options.client_delay, arrives)
        world.later(SECONDS * 1.01, lambda: self._again_elsewhere(group, sent))

    def _again_elsewhere(self, group: Group, sent: int) -> None:
        if group.open_rows and group.sent == sent:
            self._try(group)

    def _group_answered(self, group: Group, sent: int, process: Process, life: int, request: GroupRequest) -> None:
        """At the node, at this instant."""
        world, judge = self.world, self.world.judge
        assert process.node is not None
        if request.epoch:
            for batch, versions in zip(group.writes, request.versions, strict=True):
                for row, version in enumerate(versions):
                    judge.acknowledged(
                        (batch.session, batch.partition, batch.first_sequence + row), version, request.epoch
                    )
        elif not request.error and not request.errors:
            raise Violation(f"group {group.id.hex()} was answered with nothing")
        for (at, row), error in request.errors.items():
            batch = group.writes[at]
            alone = [other.partition for other in group.writes].count(batch.partition) == 1 == len(batch.keys)
            if alone:  # else it may have been told of the group's own writes before it
                judge.plausible((batch.session, batch.partition, batch.first_sequence + row), error)
        control, epoch = process.node.control.position, max(process.node.epoch, request.epoch)
        if world.happens(world.faults.client_loss):
            return

        def arrives() -> None:
            if process.life == life and group.open_rows and group.sent == sent:
                self.learn(control, epoch)
                self._group_settled(group, request)

        world.soon(world.options.client_delay, arrives)

    def _group_settled(self, group: Group, request: GroupRequest) -> None:
        judge = self.world.judge
        if request.epoch:
            for batch in group.writes:
                for row, key in enumerate(batch.keys):
                    where = judge.positions_of[batch.session, batch.partition, batch.first_sequence + row]
                    known = self.acknowledged.get((batch.map, key), 0)
                    self.acknowledged[batch.map, key] = max(known, where)
        elif request.errors or isinstance(request.error, FINAL):
            for name in group.ids():
                judge.told_refused(name, request.error or next(iter(request.errors.values())))
        elif not isinstance(request.error, OutcomeUnknownError):
            assert request.error is not None
            self._check_refusal(request.error)
            sent = group.sent
            self.world.soon(0.02, lambda: self._again_elsewhere(group, sent))
            return
        group.open_rows = False
        self.outstanding.pop((group.id, 0, 0), None)
