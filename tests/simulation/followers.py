"""A follower of one map: a cursor that survives nodes, fed as runtime/feeding.py does it.

What it has got is checked against the judge at every mark: everything up to it, once, in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tidegrid.grid.engine.feed import LogMerge, recent_entries
from tidegrid.grid.engine.feed_entry import FeedEntry
from tidegrid.grid.engine.node import Node
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.switching import difference, pause_at, switch_after
from tidegrid.grid.log.record import PUT, decode_section
from tidegrid.grid.model.errors import EpochTooOldError
from tidegrid.grid.model.ids import Epoch, PartitionId, partition_log
from tidegrid.grid.ring.generations import Switch

from tests.simulation.content import STREAMS, TABLES
from tests.simulation.judge import Violation

if TYPE_CHECKING:
    from tests.simulation.world import World

Content = tuple[list[bytes], list[bytes], bytes, list[int]]
"""Keys, values, ops, versions."""

READ_BYTES = 700
MESSAGE_BYTES = 300


class Follower:
    def __init__(self, world: World, number: int) -> None:
        self.world, self.number = world, number
        self.map = world.chance.choice(TABLES + STREAMS)
        partitions = range(world.options.partitions)
        chosen = world.chance.sample(partitions, world.chance.randint(1, min(2, len(partitions))))
        self.partitions = sorted(PartitionId(number) for number in chosen)
        self.after = Epoch(0)
        self.taken = 0
        self._buffer: list[FeedEntry] = []  # above the last mark
        self._merge: LogMerge | None = None
        self._node: Node | None = None
        self._due = False
        self.switches = 0
        self._switched_at: set[int] = set()

    def start(self) -> None:
        for process in self.world.processes.values():
            process.listeners.append(self._soon)

    def _soon(self) -> None:
        if not self._due:
            self._due = True
            slow = self.world.storm and self.world.happens(0.1)
            self.world.soon(0.4 if slow else 0.003, self._step)

    def _step(self) -> None:
        self._due = False
        node = self._node
        if self.world.storm and self.world.happens(0.02):
            node = None
        serving = self._serving(node)
        if not serving:
            node = self._connect()
            serving = self._serving(node)
            if node is None or not serving:
                return
        if self._merge is not None:
            try:
                self._read_log(self._merge)
            except EpochTooOldError:
                if not self._may_be_late(node):
                    raise
                self._merge = None
        else:
            through = node.closes.next_after(self.after)
            if through is None and self.after < node.control.closed:
                through = node.control.closed
            if through is None:
                return
            try:
                self._go_on(node, serving, through)
            except EpochTooOldError:
                if not self._may_be_late(node):
                    raise
                self.after, self._merge, self._buffer = node.control.closed, None, []  # as from a snapshot
        self._soon()

    def _may_be_late(self, node: Node) -> bool:
        """Of a map with a fold, or of one that was switched, states are needed: of before the horizon, and of generations
        that were dropped, there are none."""
        world, known = self.world, node.control.generations
        dropped = set(world.judge.generations.numbers(self.map)) - set(known.kept(self.map))
        switched = known.switch_after(self.map, self.after) is not None
        behind = self.after < max(world.truth.horizon, node.control.horizon)
        return bool(dropped) or (behind and (self.map == "sums" or switched))

    def _switched(self, serving: list[Partition], switch: Switch, before: int) -> None:
        found: dict[int, dict[bytes, bytes | None]] = {}
        for (entry,) in difference(serving, switch, before):
            if (entry.effective, entry.position) != (switch.acts_at, 0):
                raise Violation(f"I9: a switch at {switch.acts_at} came as {entry[:3]}")
            keys, values, ops, _ = _content(entry.section)
            rows = found.setdefault(entry.partition, {})
            rows.update((key, value if op == PUT else None) for key, value, op in zip(keys, values, ops, strict=True))
        for partition in serving:
            wanted = self.world.judge.generations.difference(self.map, partition.id, switch.acts_at)
            if found.get(partition.id, {}) != wanted:
                raise Violation(f"I9: {switch} came to {partition.id} as {found.get(partition.id)}, not {wanted}")
        self.switches += 1
        self._switched_at.add(switch.acts_at)

    def _go_on(self, node: Node, serving: list[Partition], through: Epoch) -> None:
        generations = node.control.generations
        through = pause_at(generations, self.map, self.after, through)
        switch = switch_after(generations, self.map, self.after)
        if switch is not None:
            self._switched(serving, switch, generations.at(self.map, self.after))
        entries = recent_entries(serving, self.map, self.after, through, generations.at(self.map, through))
        if entries is not None:
            self._take(entries, through)
        else:
            self._merge = LogMerge(
                serving,
                self.map,
                self.after,
                pause_at(generations, self.map, self.after, node.control.closed),
                node.control,
            )
            self._read_log(self._merge)

    def _connect(self) -> Node | None:
        """To a node that serves all its partitions, the rightful owner or one that has not heard yet; after its last mark."""
        self._node, self._merge, self._buffer = None, None, []
        for process in self.world.processes.values():
            if self._serving(process.node):
                self._node = process.node
        return self._node

    def _serving(self, node: Node | None) -> list[Partition]:
        """Its partitions there; none unless that node lives and serves all of them."""
        if node is None or all(process.node is not node for process in self.world.processes.values()):
            return []
        found = [node.partitions.get(number) for number in self.partitions]
        serving = [partition for partition in found if partition is not None and partition.serving]
        return serving if len(serving) == len(self.partitions) else []

    def _read_log(self, merge: LogMerge) -> None:
        log = self.world.log
        while (need := merge.needs()) is not None:
            partition, position = need
            name = partition_log(partition)
            after = log.position_before(name, self.after) if position is None else position
            merge.give(partition, after, log.read(name, after, READ_BYTES))
        entries = merge.take(MESSAGE_BYTES)
        self._take(entries, merge.mark)
        if merge.mark >= merge.through:
            self._merge = None

    def _take(self, entries: list[FeedEntry], mark: Epoch) -> None:
        if mark < self.after:
            raise Violation(f"follower {self.number}: mark {mark} after {self.after}")
        if mark > self.world.truth.closed:
            raise Violation(f"follower {self.number}: mark {mark}, closed is {self.world.truth.closed}")
        switches = self.world.truth.generations.switches(self.map)
        for switch in switches:
            if self.after < switch.acts_at <= mark and switch.acts_at not in self._switched_at:
                raise Violation(f"I9: follower {self.number} of {self.map} has not been told of {switch}")
        self._buffer.extend(entries)
        due = [entry for entry in self._buffer if entry.effective <= mark]
        self._buffer = [entry for entry in self._buffer if entry.effective > mark]
        found = [(entry.effective, int(entry.partition), int(entry.position), _content(entry.section)) for entry in due]
        wanted = self._wanted(self.after, mark)
        if found != wanted:
            raise Violation(
                f"I9: follower {self.number} of {self.map} from {self.after} to {mark} got "
                f"{[entry[:3] for entry in found]}, the log has {[entry[:3] for entry in wanted]}"
            )
        self.taken += len(found)
        self.after = mark

    def _wanted(self, after: Epoch, mark: Epoch) -> list[tuple[int, int, int, Content]]:
        entries: list[tuple[int, int, int, Content]] = []
        for partition in self.partitions:
            entries += [
                (epoch, owner, position, self._wanted_content(epoch, position, section))
                for epoch, owner, position, section in self.world.judge.feeds[self.map, partition]
                if after < epoch <= mark
            ]
        return sorted(entries, key=lambda entry: entry[:3])

    def _wanted_content(self, epoch: int, position: int, payload: bytes) -> Content:
        """Of the map with a fold not the operands, but what they led to."""
        keys, values, ops, versions = _content(payload)
        if self.map == "sums":
            judge = self.world.judge
            values, ops = [], bytes((PUT,)) * len(keys)
            for key, number in zip(keys, versions, strict=True):
                (state,) = (
                    one.value or b""
                    for one in judge.generations.chain("sums", key, judge.generations.seen("sums", epoch))
                    if (one.epoch, one.position, one.number) == (epoch, position, number)
                )
                values.append(state)
        return keys, values, ops, versions


def _content(payload: bytes) -> Content:
    section = decode_section(payload)
    return list(section.keys), list(section.values), section.ops, list(section.versions)
