"""Clients of the simulated grid that hold history: while a hold lives, no read as of what it holds is ever refused.

A hold lives from its answer until it expires, its client sends a release, or what it holds outgrows the memory for it;
a client that has sent a move believes in the new epoch from then on. Messages are lost, late and doubled, as for other
clients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tidegrid.grid.engine.hold import HoldRequest
from tidegrid.grid.engine.intake import Carry
from tidegrid.grid.engine.reads import ReadRequest
from tidegrid.grid.model.errors import EpochTooNewError, EpochTooOldError, GridError, HoldLostError
from tidegrid.grid.model.ids import BEFORE_FIRST, Epoch, Position

from tests.simulation import auditor
from tests.simulation.clients import PATIENCE, arrive
from tests.simulation.content import TABLES
from tests.simulation.judge import Violation

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

HOLD_MS = 600
ACTS = 40.0  # a second


class Held(NamedTuple):
    name: str
    epoch: Epoch
    taken: Position
    expires_ms: int


class HoldClient:
    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self._held: Held | None = None
        self._moved: tuple[Position, Epoch] = BEFORE_FIRST, Epoch(0)  # the last move that was sent, answered or not
        self.control, self.epoch = BEFORE_FIRST, Epoch(0)
        self._names = 0
        self._asked_at = -1.0  # and not answered; -1: nothing is

    @property
    def held(self) -> Held | None:
        if self._held is not None and self._held.taken in self.world.judge.too_large:
            self._held = None
        return self._held

    @held.setter
    def held(self, held: Held | None) -> None:
        self._held = held

    def start(self) -> None:
        self.world.every(ACTS, self._act)

    def _act(self) -> None:
        world, chance, held = self.world, self.world.chance, self.held
        if held is not None and world.time_ms >= held.expires_ms:
            held = self.held = None
        dice = chance.random()
        if held is not None and dice < 0.7:
            self._read(held)
        elif self._asked_at >= 0 and world.now < self._asked_at + PATIENCE:
            pass
        elif held is None:
            closed = world.truth.closed
            self._names += dice < 0.5  # else it asks again for what it has perhaps been given
            self._ask(f"{self.number}.{self._names}", Epoch(max(0, closed - chance.choice((0, 0, 2, 8)))))
        elif dice < 0.85:
            self._ask(held.name, Epoch(0), taken=held.taken)
        elif dice < 0.93:
            moved = Epoch(held.epoch + chance.randint(0, 4))
            self.held, self._moved = held._replace(epoch=moved), (held.taken, moved)
            self._ask(held.name, moved, taken=held.taken)
        else:
            self.held = None
            self._names += 1
            self._ask(held.name, Epoch(0), taken=held.taken, release=True)

    def _ask(self, name: str, epoch: Epoch, *, taken: Position = BEFORE_FIRST, release: bool = False) -> None:
        world = self.world
        process = world.chance.choice(list(world.processes.values()))
        if process.node is None:
            return
        life, self._asked_at = process.life, world.now
        before = self.held if taken and not release else None

        def answered(request: HoldRequest) -> None:
            self._check(name, epoch, before, request.error)
            if request.error is None and not release and process.node is not None:
                self._given(name, request, process, life)

        carry = Carry(b"", self.control, self.epoch)
        for _ in range(1 + world.happens(world.faults.client_double)):
            if not world.happens(world.faults.client_loss):
                request = HoldRequest(name, str(self.number), epoch, HOLD_MS, answered, taken=taken, release=release)
                world.soon(world.options.client_delay, lambda request=request: arrive(process, life, request, carry))

    def _given(self, name: str, request: HoldRequest, process: Process, life: int) -> None:
        world = self.world
        assert process.node is not None
        control, given = process.node.control.position, Held(name, request.epoch, request.taken, request.expires_ms)

        def arrives() -> None:
            if process.life != life:
                return
            self._asked_at = -1.0
            self.control = max(self.control, control)
            held = self.held
            if held is not None and held.taken == given.taken:
                self.held = held._replace(expires_ms=max(held.expires_ms, given.expires_ms))
            elif held is None and name == f"{self.number}.{self._names}":
                taken, epoch = self._moved
                self.held = given._replace(epoch=max(given.epoch, epoch)) if taken == given.taken else given

        if not world.happens(world.faults.client_loss):
            world.soon(world.options.client_delay, arrives)

    def _check(self, name: str, epoch: Epoch, before: Held | None, error: GridError | None) -> None:
        """At the node, at this instant."""
        world = self.world
        if isinstance(error, EpochTooOldError) and epoch >= world.judge.horizon:
            raise Violation(f"H: hold {name} of {epoch} was refused, the horizon is {world.judge.horizon}: {error}")
        alive = before is not None and self.held is not None and self.held.taken == before.taken
        if isinstance(error, HoldLostError) and before is not None and alive and world.time_ms < before.expires_ms:
            raise Violation(f"H: {before} is lost at {world.time_ms}: {error}")
        if error is not None and error.code == "INTERNAL":
            raise Violation(f"H: {error}")

    def _read(self, held: Held) -> None:
        world, chance = self.world, self.world.chance
        name = chance.choice(TABLES)
        key = world.keys.encode(chance.choice(world.keys.all_of(name)))
        process = world.owner(world.keys.partition(name, key))
        if process is None or process.node is None:
            return
        as_of = Epoch(max(1, held.epoch + chance.choice((0, 0, 1))))

        def answered(request: ReadRequest) -> None:
            now = self.held
            if isinstance(request.error, EpochTooOldError):
                if (
                    now is not None
                    and now.taken == held.taken
                    and now.epoch <= as_of
                    and world.time_ms < now.expires_ms
                ):
                    raise Violation(f"H: a read as of {as_of} was refused, held is {now}: {request.error}")
            elif isinstance(request.error, EpochTooNewError) and as_of <= world.truth.closed:
                raise Violation(f"H: {request.error}")
            elif request.error is None:
                assert process.node is not None
                auditor.check_read(world.judge, request, process.node.control.closed)

        request = ReadRequest(name, [key], as_of, Epoch(0), answered)
        carry, life = Carry(b"", self.control, self.epoch), process.life
        world.soon(world.options.client_delay, lambda: arrive(process, life, request, carry))
        if chance.random() < 0.3:
            self.epoch = max(self.epoch, world.truth.closed)
