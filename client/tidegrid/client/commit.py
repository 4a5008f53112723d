"""Brings commit groups to a node that coordinates them, again and again until their deadline, exactly once.

    named (a group id, sequences at every partition) -> attempt at one node -> stored | refused
        ^                                                  |-- an error that may pass: another attempt, elsewhere
        '-- its session had expired, nothing lost          '-- no answer: the same node, until that attempt is over

A group has one coordinator at a time: owners that change in between may tell two of them different things. So a node
that took a request and did not answer is asked again, and another one only after the deadline that the attempt was
given; which is short, since a node that has died is waited for as long. All attempts bear the same names, and owners
know by them what is in their logs.

Groups have a session of their own, with sequences per partition (`session.py`). Invariant: a group's sequences are
open until its outcome is known or given up, and are never used again.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from tidegrid.client.batch import not_sent
from tidegrid.client.dispatcher import Dispatcher, backoff, closed_error
from tidegrid.client.entry import Ack
from tidegrid.client.errors import ELSEWHERE, NOT_STORED, error_of
from tidegrid.client.map import Map
from tidegrid.client.session import Sequences, Sessions
from tidegrid.grid.model.errors import (
    DeadlineError,
    FormatError,
    GridError,
    GroupRefusedError,
    OutcomeUnknownError,
    PeerError,
    Refusal,
)
from tidegrid.grid.model.ids import Epoch, PartitionId
from tidegrid.grid.model.keys import decode_key
from tidegrid.grid.model.partitioner import Partitioner
from tidegrid.v1 import control_pb2, grid_pb2

ATTEMPT_SECONDS: Final = 2.0
GRACE_SECONDS: Final = 0.25  # for the node to say itself that it is late, and for the way there
GROUP_ID_BYTES: Final = 16


class GroupWrite(NamedTuple):
    """`condition`: the version that the key has to be at, 0: absent. `schema` None: that of the map."""

    map: Map
    key: bytes
    value: bytes
    op: int
    condition: int | None
    schema: int | None


class _Part:
    """Consecutive writes to one partition and map. `at` says which of the group's they are."""

    __slots__ = ("at", "first", "map", "partition", "schema", "sequences")

    def __init__(self, map_name: str, partition: PartitionId, schema: int) -> None:
        self.map = map_name
        self.partition = partition
        self.schema = schema
        self.at: list[int] = []
        self.sequences: Sequences | None = None
        self.first = 0

    def name(self, sequences: Sequences) -> None:
        """New sequences, in place of the old ones."""
        self.give_up_name()
        self.sequences, self.first = sequences, sequences.take(len(self.at))

    def give_up_name(self) -> None:
        if self.sequences is not None:
            self.sequences.answered(self.first)


class Commits:
    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._sessions = Sessions()
        self._partition_of: dict[int, Callable[[bytes], PartitionId]] = {}  # by affinity
        self._loop = asyncio.get_running_loop()

    async def commit(self, writes: Sequence[GroupWrite], until: float) -> tuple[Epoch, tuple[Ack, ...]]:
        """The epoch of all, and what each is told, in order; `until` is a time of the event loop.

        Raises GroupRefusedError, UnknownMapError, DerivedMapError, TooLargeError, OutcomeUnknownError, DeadlineError.
        """
        parts = await self._split(writes)
        attempts = _Attempts(self._dispatcher, parts, until)
        try:
            renew: set[bytes] = set()
            while True:
                self._name(parts, renew)
                try:
                    reply = await attempts.run(_request(writes, parts))
                except OutcomeUnknownError:
                    # An expired session is no loss where no other attempt can have reached a node. It happens to a
                    # client that was idle for long.
                    if attempts.lost or renew:
                        raise
                    renew = {part.sequences.session for part in parts if part.sequences is not None}
                    continue
                return self._outcome(writes, parts, reply)
        finally:
            for part in parts:
                part.give_up_name()

    async def _split(self, writes: Sequence[GroupWrite]) -> list[_Part]:
        """As few parts as keep the order within each partition."""
        specs = {of: await of.spec() for of in dict.fromkeys(write.map for write in writes)}
        parts: list[_Part] = []
        last: dict[PartitionId, _Part] = {}
        for at, write in enumerate(writes):
            spec = specs[write.map]
            partition_of = self._partition_of.get(spec.affinity)
            if partition_of is None:
                partition_of = Partitioner(len(self._dispatcher.partitions), spec.affinity).of
                self._partition_of[spec.affinity] = partition_of
            partition = partition_of(write.key)
            schema = spec.schema if write.schema is None else write.schema
            part = last.get(partition)
            if part is None or (part.map, part.schema) != (spec.name, schema):
                part = last[partition] = _Part(spec.name, partition, schema)
                parts.append(part)
            part.at.append(at)
        return parts

    def _name(self, parts: Sequence[_Part], renew: set[bytes]) -> None:
        routing = self._dispatcher.routing
        assert routing is not None
        self._sessions.session_epochs = max(1, routing.session_epochs)
        epoch = Epoch(self._dispatcher.causality.epoch)
        for part in parts:
            sequences = self._sessions.of(part.partition, epoch)
            if sequences.session in renew:
                sequences = self._sessions.of(part.partition, epoch, renew=sequences.session)
            part.name(sequences)

    def _outcome(
        self, writes: Sequence[GroupWrite], parts: Sequence[_Part], reply: grid_pb2.CommitReply
    ) -> tuple[Epoch, tuple[Ack, ...]]:
        lengths = [len(part.at) for part in parts]
        if reply.errors and all(e.batch < len(parts) and e.row < lengths[e.batch] for e in reply.errors):
            found = sorted((parts[error.batch].at[error.row], error.error) for error in reply.errors)
            raise GroupRefusedError.of(
                [Refusal(writes[at].map.name, decode_key(writes[at].key), error_of(error)) for at, error in found]
            )
        if not reply.epoch or [len(answer.versions) for answer in reply.versions] != lengths:
            raise FormatError(
                "the node's answer does not fit the group; are client and node of compatible versions? The outcome is unknown"
            )
        epoch = Epoch(reply.epoch)
        versions = [0] * len(writes)
        for part, answer in zip(parts, reply.versions, strict=True):
            for at, version in zip(part.at, answer.versions, strict=True):
                versions[at] = version
        texts: dict[int, str] = {}
        for one in reply.parked:
            if one.batch < len(parts) and one.row < lengths[one.batch]:
                texts[parts[one.batch].at[one.row]] = one.message
        return epoch, tuple(Ack(version, epoch, False, texts.get(at)) for at, version in enumerate(versions))


class _Attempts:
    """Of one group. `lost`: one went out and was not answered, so that only the owners know its outcome."""

    def __init__(self, dispatcher: Dispatcher, parts: Sequence[_Part], until: float) -> None:
        self.lost = False
        self._dispatcher = dispatcher
        self._partitions = [part.partition for part in parts]
        self._until = until
        self._loop = asyncio.get_running_loop()
        self._held: control_pb2.Member | None = None  # who may still be at it
        self._held_until = 0.0
        self._avoided: set[int] = set()  # nodes that could not do it
        self._problem: GridError | None = None

    async def run(self, message: grid_pb2.CommitRequest) -> grid_pb2.CommitReply:
        """An answer that is final: what was stored, or which writes were refused. Raises what refuses the whole."""
        tries = 0
        while True:
            started = self._loop.time()
            if started >= self._until:
                raise self._late()
            if self._dispatcher.closing:
                raise self._late() if self.lost else closed_error()
            if self._held is not None and started >= self._held_until:
                await self._let_go(self._held)
                continue
            member = self._held or self._coordinator()
            # Asked again, a node has no more time than it was given at first.
            over = min(self._until, self._held_until if self._held is not None else started + ATTEMPT_SECONDS)
            reply = await self._ask(member, message, over)
            if reply is not None:
                self._dispatcher.causality.observe(reply.carry)
                if not reply.HasField("error"):
                    return reply
                self._answered(member, error_of(reply.error))
            pause = backoff(tries)
            tries += 1
            await asyncio.sleep(max(0.0, min(pause, self._until - self._loop.time())))
            if reply is None or isinstance(self._problem, ELSEWHERE):
                await self._dispatcher.refresh_quietly(last=member.address)

    async def _ask(
        self, member: control_pb2.Member, message: grid_pb2.CommitRequest, over: float
    ) -> grid_pb2.CommitReply | None:
        """None: no answer came."""
        self._dispatcher.causality.stamp(message.carry)
        seconds = over - self._loop.time()
        message.deadline_ms = max(1, int(seconds * 1_000))
        try:
            reply = await self._dispatcher.transport.call(member, "Commit", message, seconds + GRACE_SECONDS)
            assert isinstance(reply, grid_pb2.CommitReply)
            return reply
        except PeerError as problem:
            self._problem = problem
            if problem.fields.get("reached", True) is False:
                self._avoided.add(member.node)
            else:
                self.lost = True
                self._held, self._held_until = member, over
            return None

    async def _let_go(self, member: control_pb2.Member) -> None:
        """Its time is over: it does not begin to append any more."""
        await asyncio.sleep(max(0.0, min(self._held_until + GRACE_SECONDS, self._until) - self._loop.time()))
        self._avoided.add(member.node)
        self._held = None

    def _answered(self, member: control_pb2.Member, error: GridError) -> None:
        """The attempt is over. Raises the error unless it may pass."""
        self._held = None
        if not isinstance(error, (*ELSEWHERE, *NOT_STORED, DeadlineError)):
            raise error
        self._problem = error
        if not isinstance(error, NOT_STORED):
            self._avoided.add(member.node)

    def _coordinator(self) -> control_pb2.Member:
        """Who owns most of the group's partitions, unless it could not do it."""
        dispatcher = self._dispatcher
        owners = [dispatcher.lane(partition).member for partition in self._partitions]
        most = Counter(owner.node for owner in owners)
        owners.sort(key=lambda owner: -most[owner.node])
        others = dispatcher.routing.members if dispatcher.routing is not None else ()
        for member in (*owners, *others):
            if member.node not in self._avoided:
                return member
        self._avoided.clear()
        return owners[0]

    def _late(self) -> GridError:
        if self.lost:
            return DeadlineError(
                "no answer within the deadline, so it is unknown whether the group was stored: all of it was, or nothing. "
                "To find out, read one of its keys with `get`. Or commit it again with `if_version` or `if_absent` on a "
                "key, which cannot double it"
            )
        if isinstance(self._problem, DeadlineError):
            return self._problem  # of the node, which knows what it waited for
        return not_sent(self._problem, "nothing of the group was stored")


def _request(writes: Sequence[GroupWrite], parts: Sequence[_Part]) -> grid_pb2.CommitRequest:
    message = grid_pb2.CommitRequest(group=os.urandom(GROUP_ID_BYTES))
    for part in parts:
        rows = [writes[at] for at in part.at]
        assert part.sequences is not None
        batch = message.writes.add(
            partition=part.partition,
            session=part.sequences.session,
            first_sequence=part.first,
            lowest_unanswered=part.sequences.lowest_unanswered,
            map=part.map,
            keys=[write.key for write in rows],
            values=[write.value for write in rows],
            ops=bytes(write.op for write in rows),
            schema=part.schema,
        )
        for row, write in enumerate(rows):
            if write.condition is not None:
                batch.conditions.add(index=row, version=write.condition)
    return message
