"""Whoever looks after what is parked in the simulated grid: lists it, redrives some of it, drops some; asks again, and
others too, when no answer comes. Messages are lost and doubled as for other clients.

It draws from a chance of its own.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tidegrid.grid.engine.intake import Carry
from tidegrid.grid.engine.parking import ParkedId
from tidegrid.grid.engine.redrive import ParkedRequest, RedriveRequest
from tidegrid.grid.model.ids import Epoch, PartitionId, Position

from tests.simulation.clients import PATIENCE, arrive
from tests.simulation.violation import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

AGAIN_MAX = 4


class Redriver:
    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self._chance = random.Random(world.options.seed * 31 + number)
        self._known: list[tuple[int, ParkedId]] = []  # also what is gone by now
        self.told = 0

    def start(self) -> None:
        rate = self.world.options.redrive_rate
        if rate > 0 and self.world.storm:
            self.world.later(self._chance.expovariate(rate), self._act)

    def _act(self) -> None:
        self.start()
        if self._known and self._chance.random() < 0.5:
            self._redrive()
        else:
            self._list(PartitionId(self._chance.randrange(self.world.options.partitions)))

    def _list(self, partition: PartitionId) -> None:
        after = ParkedId(Position(0), 0)

        def answered(request: ParkedRequest) -> None:
            ever = self.world.judge.parked.rows[partition]
            for write in request.writes:
                row = ever.get((write.id.position, write.id.row))
                if row is None or (row.map, row.key) != (write.map, write.key):
                    raise Violation(f"parked: {write} is listed in {partition}, the log says {row}")
                if (partition, write.id) not in self._known:
                    self._known.append((partition, write.id))

        name = self._chance.choice(("", "", "raw", "spread"))
        self._send(partition, lambda: ParkedRequest(partition, name, after, self._chance.choice((1, 4, 100)), answered))

    def _redrive(self) -> None:
        chance = self._chance
        partition, _ = chance.choice(self._known[-8:] if chance.random() < 0.7 else self._known)
        ids = [of for number, of in self._known if number == partition]
        chosen = chance.sample(ids, min(len(ids), chance.choice((1, 1, 3, 9))))
        if chance.random() < 0.5:
            chosen = ids[-3:]
        force, drop = chance.random() < 0.2, chance.random() < 0.1
        if force:
            self.world.judge.parked.forced |= {(partition, (int(of.position), of.row)) for of in chosen}
        self._ask(partition, chosen, force, drop, 0)

    def _ask(self, partition: int, ids: list[ParkedId], force: bool, drop: bool, tries: int) -> None:
        done = False

        def answered(request: RedriveRequest) -> None:
            nonlocal done
            if request.error is None:
                done = True
                if [outcome.id for outcome in request.outcomes] != ids[: len(request.outcomes)]:
                    raise Violation(f"parked: asked for {ids}, told of {request.outcomes}")
            elif request.outcomes:
                raise Violation(f"parked: an error and outcomes: {request.error}, {request.outcomes}")
            for outcome in request.outcomes:
                self.told += 1
                self.world.judge.parked.told(partition, outcome)

        def again() -> None:
            if not done and self.world.storm and tries < AGAIN_MAX:
                self._ask(partition, ids, force, drop, tries + 1)

        self._send(partition, lambda: RedriveRequest(PartitionId(partition), ids, force, drop, answered))
        self.world.later(PATIENCE, again)

    def _send(self, partition: int, make: object) -> None:
        world = self.world
        process = world.owner(partition)
        if process is None or process.node is None:
            return
        life = process.life
        for _ in range(1 + (self._chance.random() < world.faults.client_double)):
            if self._chance.random() >= world.faults.client_loss:
                request = make()  # type: ignore[operator]
                carry = Carry(b"", Position(0), Epoch(0))
                delay = self._chance.expovariate(1 / world.options.client_delay)
                world.later(delay, lambda request=request, carry=carry: arrive(process, life, request, carry))
