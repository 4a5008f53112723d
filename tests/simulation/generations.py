"""Other generations of the derived maps: declared, switched to and dropped at random, and what each has to hold.

A base is whatever the world makes up: some of the versions of before, with values of its own. What readers and followers
see of it, and of the switch, is what is judged here; that a base is what today's triggers make of the raw writes is
judged where it is made.
"""

from __future__ import annotations

import random
from bisect import insort
from typing import TYPE_CHECKING, Final, NamedTuple

from tidegrid.grid.engine.table_chunks import table_chunks
from tidegrid.grid.model.ids import Epoch, PartitionId, Position
from tidegrid.grid.model.stamp import Stamp
from tidegrid.grid.ring.generations import FIRST, Generations
from tidegrid.v1.control_pb2 import ControlRecord, Drop, Generation, MapGeneration, Switch

from tests.simulation.content import folded, pack
from tests.simulation.judge import Judge, Operand, Version

if TYPE_CHECKING:
    from tests.simulation.world import World

MAPS: Final = ("latest", "sums")
ELSEWHERE: Final = 1 << 30  # beyond the positions of any log


class Base(NamedTuple):
    since: Epoch
    rows: dict[bytes, list[Version]]


class Regenerations:
    """What the judge knows of generations after the first."""

    def __init__(self, judge: Judge, generations: Generations) -> None:
        self._judge = judge
        self._generations = generations
        self._bases: dict[tuple[str, int], Base] = {}

    def add(self, name: str, number: int, base: Base) -> None:
        self._bases[name, number] = base

    def numbers(self, name: str) -> list[int]:
        """All that there ever were."""
        return [FIRST, *(number for map_name, number in self._bases if map_name == name)]

    def seen(self, name: str, closed: int) -> int:
        return self._generations.at(name, Epoch(closed))

    def chain(self, name: str, key: bytes, number: int, tail: int = 1 << 62) -> list[Version]:
        judge = self._judge
        if number == FIRST:
            if name == "sums":
                return judge.sums(key, tail)
            return [one for one in judge.chains[name].get(key, ()) if one.position <= tail]
        base = self._bases[name, number]
        chain = list(base.rows.get(key, ()))
        if name != "sums":
            logged = judge.chains[name].get(key, ())
            return chain + [one for one in logged if one.epoch >= base.since and one.position <= tail]
        state = chain[-1].value if chain else None
        for epoch, position, operand_number, _, value in judge.operands.get(key, ()):
            if epoch >= base.since and position <= tail:
                assert value is not None
                state = folded(judge.code_at(epoch), state, value)
                chain.append(Version(epoch, position, operand_number, state))
        return chain

    def as_of(self, name: str, key: bytes, number: int, epoch: int) -> Version | None:
        """`epoch` 0: the latest."""
        seen = [one for one in self.chain(name, key, number) if not epoch or one.epoch <= epoch]
        return seen[-1] if seen else None

    def keys(self, name: str, partition: int) -> list[bytes]:
        keys = self._judge.keys
        return [key for key in self._judge.chains[name] if keys.partition(name, key) == partition]

    def difference(self, name: str, partition: int, epoch: int) -> dict[bytes, bytes | None]:
        """What followers get of a switch that acts at `epoch`: None deletes."""
        before, after = self.seen(name, epoch - 1), self.seen(name, epoch)
        changed: dict[bytes, bytes | None] = {}
        for key in self.keys(name, partition):
            old, new = (self.as_of(name, key, number, epoch - 1) for number in (before, after))
            if (old.value if old else None) != (new.value if new else None):
                changed[key] = new.value if new else None
        return changed


class Regenerator:
    """Makes up bases, and says now and then which generation readers are to see."""

    def __init__(self, world: World, rate: float) -> None:
        self.bases: dict[tuple[str, int, str], list[bytes]] = {}
        self._world = world
        self._rate = rate
        self._chance = random.Random(world.options.seed ^ 0x9E4E)
        self._count = 0

    def start(self) -> None:
        if self._rate > 0:
            self._later()

    def _later(self) -> None:
        self._world.later(self._chance.expovariate(self._rate), self._act)

    def _act(self) -> None:
        if not self._world.storm:
            return
        self._later()
        name = self._chance.choice(MAPS)
        known = self._world.truth.generations
        if name not in self._world.truth.declared:
            return
        kept = known.kept(name)
        step = self._chance.random()
        if len(kept) < 2 or (step < 0.3 and len(kept) < 4):
            self._declare(name)
        elif step < 0.8:
            self._switch(name, self._chance.choice(kept))
        else:
            to = MapGeneration(map=name, number=self._chance.choice(kept))
            self._world.declare(ControlRecord(drop=Drop(of=[to])))

    def _switch(self, name: str, number: int) -> None:
        """To one that its owners have built, as whoever asks for it makes sure of."""
        world = self._world
        for process in world.processes.values():
            for partition in process.node.partitions.values() if process.node is not None else ():
                if partition.serving and partition.tables.generation(name, number) is None:
                    return
        to = MapGeneration(map=name, number=number)
        world.declare(ControlRecord(switch=Switch(to=[to], time_ms=world.time_ms)))

    def _declare(self, name: str) -> None:
        world, judge, chance = self._world, self._world.judge, self._chance
        self._count += 1
        since, base_name = Epoch(world.truth.closed + 1), f"base{self._count}"
        rows: dict[bytes, list[Version]] = {}
        per_partition: dict[int, list[tuple[bytes, list[tuple[bytes | None, int, Stamp]]]]] = {}
        for key, versions in judge.chains[name].items():
            last: tuple[int, int] | None = None
            for one in versions:
                if one.epoch < since and chance.random() < 0.6 and one[:2] != last:
                    last = one[:2]
                    state = [self._count, chance.randrange(1000), 1]
                    gone = name != "sums" and chance.random() < 0.2
                    value = None if gone else pack(state)
                    elsewhere = ELSEWHERE if chance.random() < 0.3 else 0  # what another partition's record led to
                    place = one.position + elsewhere
                    insort(rows.setdefault(key, []), Version(one.epoch, place, 1, value), key=_place)
            if key in rows:
                partition = judge.keys.partition(name, key)
                chain = [(one.value, one.number, (Epoch(one.epoch), Position(one.position), 0)) for one in rows[key]]
                per_partition.setdefault(partition, []).append((key, chain))
        for partition in range(world.options.partitions):
            chunks = list(table_chunks(name, per_partition.get(partition, [])))
            self.bases[base_name, PartitionId(partition), name] = chunks
        before = world.truth.generations.kept(name)
        world.declare(ControlRecord(generation=Generation(maps=[name], since=since, base=base_name)))
        (number,) = set(world.truth.generations.kept(name)) - set(before)
        judge.generations.add(name, number, Base(since, rows))


def _place(version: Version | Operand) -> tuple[int, int, int]:
    return version[:3]
