"""A grid in virtual time: one seeded source of chance, one queue of events, the logs, the network and its nodes.

Nothing runs at the same time as anything else, and nothing is random but through `chance`; so a run is a function of
its options alone. The judge hears of every record before anybody else does.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence

from tidegrid.grid.log.entry import Entry
from tidegrid.grid.log.memory_state import MemoryLogState
from tidegrid.grid.model.ids import CONTROL_LOG, Incarnation, NodeId, PartitionId, Position
from tidegrid.grid.model.maps import KeyField, MapSpec
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.declarations import spec_message
from tidegrid.grid.ring.folding import fold_records
from tidegrid.grid.ring.messages import Envelope
from tidegrid.grid.ring.ownership import moved_view, next_view, view_without
from tidegrid.triggers.loader import load_modules
from tidegrid.triggers.runtime import TriggerRuntime
from tidegrid.v1.control_pb2 import ControlRecord, Deploy, GridCreated, MapDeclared, Module

from tests.simulation.clients import Client
from tests.simulation.content import Keys, source
from tests.simulation.followers import Follower
from tests.simulation.generations import Regenerations, Regenerator
from tests.simulation.grouping import GroupClient
from tests.simulation.holding import HoldClient
from tests.simulation.judge import Judge, Violation
from tests.simulation.options import LIMITS, Options
from tests.simulation.process import Process, fold_control
from tests.simulation.redriving import Redriver
from tests.simulation.regeneration import check_regeneration

GRID_ID = b"0123456789abcdef"
TRACE_KEPT = 400


class World:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.faults = options
        self.chance = random.Random(options.seed)
        self._compact_chance = random.Random(options.seed)  # of its own: runs by seed are what they were without it
        self._isolation_chance = random.Random(options.seed + 1)
        self.runtimes: dict[bytes, TriggerRuntime] = {}  # of workers, by code
        self.now = 0.0
        self.log = MemoryLogState(gap_seed=options.seed + 1, record_bytes_max=LIMITS.record_bytes_max)
        self.keys = Keys(options.partitions)
        self.judge = Judge(self.keys)
        self.truth = ControlState()
        self.trace: deque[tuple[float, str, tuple[object, ...]]] = deque(maxlen=TRACE_KEPT)
        self.codes = 0
        self.extra_maps: list[tuple[str, Position]] = []
        self.storm = True
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0
        self.cut_until: dict[frozenset[NodeId], float] = {}
        self.processes: dict[NodeId, Process] = {}
        created = GridCreated(
            grid_id=GRID_ID, partitions=options.partitions, limit=options.limit, session_epochs=options.session_epochs
        )
        self.declare(ControlRecord(created=created))
        self.deploy()
        self.processes = {NodeId(number): Process(self, NodeId(number)) for number in range(options.nodes)}
        self.clients = [Client(self, number) for number in range(options.clients)]
        self.clients += [GroupClient(self, options.clients + number) for number in range(options.group_clients)]
        self.holders = [HoldClient(self, number) for number in range(options.hold_clients)]
        self.redrivers = [Redriver(self, number) for number in range(options.redrivers)]
        self.judge.generations = Regenerations(self.judge, self.truth.generations)
        self.regenerator = Regenerator(self, options.regenerate_rate)
        self.followers = [Follower(self, number) for number in range(options.followers)]

    # Time and chance --------------------------------------------------------------------------------------------

    @property
    def time_ms(self) -> int:
        return 1_000_000 + int(self.now * 1000)

    def later(self, delay: float, action: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._events, (self.now + delay, self._sequence, action))

    def soon(self, mean: float, action: Callable[[], None]) -> None:
        self.later(self.chance.expovariate(1 / mean), action)

    def happens(self, probability: float) -> bool:
        return probability > 0 and self.chance.random() < probability

    def compact_now_and_then(self) -> None:
        rate = self.options.compact_rate
        if rate > 0 and self.storm:
            self.later(self._compact_chance.expovariate(rate), self._compact)

    def _compact(self) -> None:
        """The control log, up to what every live node has read: it still says the same, from its beginning."""
        self.compact_now_and_then()
        through = min(
            (one.node.control.position for one in self.processes.values() if one.node), default=self.truth.position
        )
        saved = self.log.compact(CONTROL_LOG, self.compacted_to(through), fold_records)
        self.note("the control log is compacted up to %s: %s bytes less", through, saved)
        if fold_control(self.log) != self.truth:
            raise Violation("the compacted control log says something else")

    def compacted_to(self, read_by_all: Position) -> Position:
        return read_by_all

    def every(self, rate: float, action: Callable[[], None]) -> None:
        """While the storm lasts, about `rate` times a second."""
        if rate > 0:

            def again() -> None:
                if self.storm:
                    action()
                    self.soon(1 / rate, again)

            self.soon(1 / rate, again)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = end

    def note(self, text: str, *facts: object) -> None:
        self.trace.append((self.now, text, facts))

    # The logs ---------------------------------------------------------------------------------------------------

    def append(self, entry: Entry) -> Position:
        """Raises as the log does."""
        return self.append_all((entry,))[0]

    def append_all(self, entries: Sequence[Entry]) -> Sequence[Position]:
        """All of them at once, or none. Raises as the log does."""
        positions = self.log.append(entries)
        for entry, position in zip(entries, positions, strict=True):
            self._appended(entry, position)
        self.judge.check_groups()
        return positions

    def _appended(self, entry: Entry, position: Position) -> None:
        self.judge.appended(entry, position)
        if entry.log == CONTROL_LOG:
            record = ControlRecord.FromString(entry.payload)
            self.note("control %s: %s", position, record)
            self.truth.apply(position, record)
            for process in self.processes.values():
                process.control_grew()
        else:
            self.note("log %s: position %s, stamp %s", entry.log, position, entry.epoch)

    def declare(self, record: ControlRecord) -> None:
        """As an operator does who knows the end of the control log."""
        self.append(Entry(CONTROL_LOG, self.truth.position, self.truth.closed, record.SerializeToString()))

    def deploy(self) -> None:
        self.codes += 1
        apart = self._isolation_chance.random() < self.options.isolated
        modules = [("module", source(self.codes, "process" if apart else "inline"))]
        deployment = load_modules(modules, self.truth.declared)
        self.declare(
            ControlRecord(
                deploy=Deploy(
                    hash=deployment.hash,
                    modules=[Module(name=name, source=text) for name, text in modules],
                    maps=[spec_message(spec) for spec in deployment.maps],
                )
            )
        )

    def declare_map(self) -> None:
        name = f"extra{len(self.extra_maps)}"
        spec = MapSpec(name, key=(KeyField("group"), KeyField("item", "int")))
        self.declare(ControlRecord(map=MapDeclared(spec=spec_message(spec))))
        self.extra_maps.append((name, self.truth.position))
        self.chance.choice(self.clients).learn(self.truth.position, self.truth.closed)

    # The network ------------------------------------------------------------------------------------------------

    def deliver(self, sender: NodeId, to: NodeId, envelope: Envelope) -> None:
        if self.happens(self.faults.loss) or self.now < self.cut_until.get(frozenset((sender, to)), 0.0):
            return
        data = envelope.to_bytes()
        for _ in range(1 + self.happens(self.faults.double)):
            self.soon(self.faults.message_delay, lambda: self.processes[to].receive(Envelope.from_bytes(data)))

    def cut(self) -> None:
        """Two nodes, or one and all others, do not hear each other for a while."""
        nodes = list(self.processes)
        one = self.chance.choice(nodes)
        others = nodes if self.happens(0.5) else [self.chance.choice(nodes)]
        until = self.now + self.chance.expovariate(1 / self.options.pause)
        self.note("node %s is cut off from %s until %.3f", one, others, until)
        for other in others:
            self.cut_until[frozenset((one, other))] = until

    # Views out of the blue: nobody was asked, nobody is dead ------------------------------------------------------

    def move(self) -> None:
        members = list(self.truth.view.members)
        if members:
            partition = PartitionId(self.chance.randrange(self.options.partitions))
            self.declare(ControlRecord(view=moved_view(self.truth, {partition: self.chance.choice(members)})))

    def suspect(self) -> None:
        members = list(self.truth.view.members)
        if len(members) > 1:
            self.declare(ControlRecord(view=view_without(self.truth, [self.chance.choice(members)])))

    def owner(self, partition: int) -> Process | None:
        owner = self.truth.view.owners.get(PartitionId(partition))
        return self.processes[owner.node] if owner is not None else None

    # A run ------------------------------------------------------------------------------------------------------

    def play(self) -> None:
        options = self.options
        for process in self.processes.values():
            process.incarnation = Incarnation(1)
        members = [process.member for process in self.processes.values()]
        self.declare(ControlRecord(view=next_view(self.truth, members)))
        for process in self.processes.values():
            process.incarnation = Incarnation(0)
            process.start()
        for client in self.clients:
            client.start()
        for holder in self.holders:
            holder.start()
        for follower in self.followers:
            follower.start()
        for redriver in self.redrivers:
            redriver.start()
        self.regenerator.start()
        self.every(options.map_rate, self.declare_map)
        self.every(options.deploy_rate, self.deploy)
        self.every(options.crash_rate, lambda: self.chance.choice(list(self.processes.values())).crash())
        self.every(options.pause_rate, lambda: self.chance.choice(list(self.processes.values())).pause())
        self.every(options.cut_rate, self.cut)
        self.every(options.move_rate, self.move)
        self.every(options.suspicion_rate, self.suspect)
        self.every(options.checkpoint_rate, lambda: self.chance.choice(list(self.processes.values())).checkpoint())
        self.compact_now_and_then()
        self.every(options.audit_rate, lambda: self.chance.choice(list(self.processes.values())).audit())
        self.run(options.seconds)
        self.calm()

    def calm(self) -> None:
        """Faults stop and nothing new is asked for: everything is answered, closed and followed within a bound."""
        self.storm = False
        for fault in (
            "loss",
            "double",
            "client_loss",
            "client_double",
            "storage_full",
            "no_answer",
            "log_failure",
            "worker_loss",
            "slow_workers",  # a group with triggers has to be made within one epoch (docs/groups.md)
        ):
            self.faults = self.faults.without(fault)
        self.cut_until.clear()
        for process in self.processes.values():
            process.paused_until = min(process.paused_until, self.now)
            if process.node is not None:
                process.node.suspensions.resume()  # as an operator would, or what is parked never ends
        bound = 12.0
        step = 0.1
        while bound > 0 and (waits := self._unfinished()):
            self.run(step)
            bound -= step
        waits = self._unfinished()
        if waits:
            raise Violation(f"I10: {waits}")
        for process in self.processes.values():
            process.check_all()
        check_regeneration(self)

    def _unfinished(self) -> str:
        """What is still to come, in words."""
        for process in self.processes.values():
            if not process.open:
                return f"node {process.me} is not open"
            assert process.node is not None
            if not process.node.drained or any(one.deliveries for one in process.node.partitions.values()):
                return f"node {process.me} has something under way"
            if process.node.tenure.membership.misplaced(self.truth):
                return f"node {process.me} has partitions that belong elsewhere"
        for client in self.clients:
            if client.outstanding:
                return f"client {client.number} waits for {list(client.outstanding.values())[:2]}"
        if self.truth.closed < self.judge.highest_stamp:
            return f"closed is {self.truth.closed}, stamped is {self.judge.highest_stamp}"
        if self.truth.activation_pending:
            return "an activation is pending"
        for process in self.processes.values():
            if process.node is not None and process.node.control.position != self.truth.position:
                return f"node {process.me} has not read the control log to its end"
        for follower in self.followers:
            apart = len({self.truth.view.owners[number].node for number in follower.partitions}) > 1
            if follower.after < self.truth.closed and not apart:
                return f"follower {follower.number} is at {follower.after}, closed is {self.truth.closed}"
        return ""
