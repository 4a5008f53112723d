"""Routed outputs between the nodes (rule X): parcels go to the owner of their partition until it says "delivered".

    sender    a record with an outbox landed --> Deliver, said again with patience --Delivered--> done, perhaps with more
    receiver  Deliver --closed by then, or delivered--> Delivered
                      --known, or no room, or not the owner--> silence: it comes again
                      --before its turn--> kept until then
                      --else--> queued; its ROUTED record lands, what that sends on is delivered --> Delivered

Messages get lost, and a link that is flooded loses the oldest. So what is said again is said in portions, and who has
waited longest comes first: everybody has a turn, however much there is. In the same way what has to wait until the
epoch rises does not keep out what has to be in the log before it can.

X1: nothing is said of a record before it is in the log. X3: "delivered" goes up only when the whole subtree is in the
log, and carries its tails (X7), which the next token takes along. Acknowledging on arrival would let the token pass
while the consequences are still on their way. What this node has to say to itself is taken in the same step, without a message.

Prior art: the acker of Storm, which tracks a tree of tuples to its last leaf; here the root waits for its children.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from tidegrid.grid.engine.catalogs import Catalogs
from tidegrid.grid.engine.delivery import Delivery, delivery
from tidegrid.grid.engine.frame import Frame
from tidegrid.grid.engine.partition import Partition
from tidegrid.grid.engine.routes import Parcel, Tails
from tidegrid.grid.log.record import DATA, SourceId
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import Epoch, NodeId, PartitionId, Position
from tidegrid.grid.model.limits import Limits
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.ownership import PartitionState
from tidegrid.v1 import control_pb2, ring_pb2

PATIENCE_SECONDS: Final = 0.5  # until a parcel is said again; twice as long each time
PATIENCE_SECONDS_MAX: Final = 2.0

SAID_AGAIN_BYTES: Final = 1024 * 1024  # to one node in one go
PACE_SECONDS: Final = 0.05  # between two of them
_FRAMING_BYTES: Final = 64  # of a parcel or an answer in a letter
LETTER_BYTES: Final = 256 * 1024  # one that is longer has one parcel

Letters = list[tuple[NodeId, ring_pb2.Routed]]


class Answer(NamedTuple):
    """A parcel is delivered."""

    source: SourceId
    tails: Tails


class Routing:
    """`me` is this node. `partitions` are the write path's. `deliver` hands a delivery to one of them."""

    def __init__(
        self,
        me: NodeId,
        control: ControlState,
        partitions: Mapping[PartitionId, Partition],
        catalogs: Catalogs,
        limits: Limits,
        deliver: Callable[[Partition], None],
    ) -> None:
        self._me = me
        self._control = control
        self._partitions = partitions
        self._catalogs = catalogs
        self._limits = limits
        self._deliver = deliver
        self._due: float | None = None  # when the next parcel is to be said again
        self._letters: Letters = []
        self._open: dict[NodeId, tuple[ring_pb2.Routed, int]] = {}  # the last letter to each, and its bytes
        self._own: deque[Parcel | Answer] = deque()  # for this node itself
        self.tails: dict[PartitionId, Position] = {}  # of what others told to be delivered, above the last close

    def take(self, epoch: Epoch) -> Letters:
        """What is to be said to others now. `epoch` is this node's."""
        own = self._own
        while own:
            one = own.popleft()
            if isinstance(one, Answer):
                self._answered(one.source, one.tails)
            else:
                self._came(one.source, one.target, one.effective, one.time_ms, one.outbox, one.after, epoch)
        letters, self._letters = self._letters, []
        self._open.clear()
        return letters

    # What happens here --------------------------------------------------------------------------------------------

    def landed(self, now: float, partition: Partition, frame: Frame, position: Position) -> None:
        """A frame is in the log. Its outbox is registered in the same step: the floor is held without a gap."""
        if not frame.deliveries and not frame.entries:
            return
        root = frame.kind == DATA
        done = partition.routes.landed(position, frame.effective, frame.time_ms, frame.sources, frame.entries, root)
        self._answer(partition, done)
        for parcel in partition.routes.parcels_of(position):
            self._say(now, parcel)

    def opened(self, now: float, partition: Partition) -> None:
        """Its log has been replayed: what it sent and is not known to be delivered is said again (O3), and what is for it."""
        for other in self._partitions.values():
            if other.serving:
                for parcel in other.routes.parcels():
                    if other is partition or parcel.target == partition.id:
                        parcel.due = now
        self._say_again(now)

    def closed(self) -> None:
        self.tails = {number: tail for number, tail in self.tails.items() if tail > self._control.tails.get(number, 0)}

    def view_applied(self, now: float) -> None:
        """Receivers may have moved: everything is said again."""
        for partition in self._partitions.values():
            if partition.serving:
                for parcel in partition.routes.parcels():
                    parcel.due, parcel.tries = now, 0
        self._say_again(now)

    def time_passed(self, now: float) -> None:
        if self._due is not None and now >= self._due:
            self._say_again(now)

    def _say_again(self, now: float) -> None:
        """What is due, as far as it goes into one go. What is left was due first when the next one comes."""
        self._due = None
        due: list[Parcel] = []
        for partition in self._partitions.values():
            for parcel in partition.routes.parcels() if partition.serving else ():
                if parcel.due <= now:
                    due.append(parcel)
                else:
                    self._remind(parcel.due)
        said: dict[NodeId | None, int] = {}
        for parcel in sorted(due, key=_due):
            owner = self._control.view.owners.get(parcel.target)
            to = owner.node if owner is not None and owner.node != self._me else None
            if to is not None and said.get(to, 0) >= SAID_AGAIN_BYTES:
                self._remind(now + PACE_SECONDS)
                continue
            said[to] = said.get(to, 0) + len(parcel.outbox)
            self._say(now, parcel)

    def deadline(self) -> float | None:
        return self._due

    def _say(self, now: float, parcel: Parcel) -> None:
        parcel.due = now + min(PATIENCE_SECONDS * 2**parcel.tries, PATIENCE_SECONDS_MAX)
        parcel.tries = min(parcel.tries + 1, 8)
        self._remind(parcel.due)
        owner = self._control.view.owners.get(parcel.target)
        if owner is None:
            return
        if owner.node == self._me:
            self._own.append(parcel)
        else:
            self._letter(owner.node, len(parcel.outbox)).deliver.add(
                source=parcel.source.message(),
                effective=parcel.effective,
                time_ms=parcel.time_ms,
                outbox=parcel.outbox,
                partition=parcel.target,
                after=parcel.after.message() if parcel.after is not None else None,
            )

    def _letter(self, to: NodeId, size: int) -> ring_pb2.Routed:
        """One to this node with room for as many bytes."""
        letter, taken = self._open.get(to, (None, 0))
        if letter is None or taken + size > LETTER_BYTES:
            letter, taken = ring_pb2.Routed(), 0
            self._letters.append((to, letter))
        self._open[to] = letter, taken + size + _FRAMING_BYTES
        return letter

    def _remind(self, due: float) -> None:
        self._due = due if self._due is None else min(self._due, due)

    # What others say ----------------------------------------------------------------------------------------------

    def received(self, letter: ring_pb2.Routed, epoch: Epoch) -> None:
        """`epoch` is this node's, raised to the carried one."""
        for parcel in letter.deliver:
            self._parcel(parcel, epoch)
        for answer in letter.delivered:
            tails = {PartitionId(tail.partition): Position(tail.position) for tail in answer.tails}
            self._answered(SourceId.of(answer.source), tails)

    def _parcel(self, message: ring_pb2.Deliver, epoch: Epoch) -> None:
        source, number = SourceId.of(message.source), PartitionId(message.partition)
        after = SourceId.of(message.after) if message.HasField("after") else None
        self._came(source, number, Epoch(message.effective), message.time_ms, message.outbox, after, epoch)

    def _came(
        self,
        source: SourceId,
        number: PartitionId,
        effective: Epoch,
        time_ms: int,
        outbox: bytes,
        after: SourceId | None,
        epoch: Epoch,
    ) -> None:
        """X2, at the receiver."""
        partition = self._partitions.get(number)
        if partition is None or partition.state is not PartitionState.OPEN or effective > epoch:
            return
        taken = partition.routes.taken(source)
        if effective <= self._control.closed:
            self._reply(partition, source, {})
        elif taken is not None:
            if taken.tails is not None:
                self._reply(partition, source, taken.tails)
        elif source not in partition.delivering:
            due = after is None or after in partition.delivering or partition.routes.taken(after) is not None
            # What came early may not keep out what it waits for, nor what waits for the epoch what the epoch waits for.
            held = partition.delivery_bytes + (0 if due else partition.early.bytes)
            if held > self._limits.delivery_bytes_max * (2 if effective < epoch else 1):
                return
            catalog = self._catalogs.at(effective)
            try:
                made = delivery(source, number, effective, time_ms, outbox, catalog)
            except FormatError:
                return  # no node of this grid says that
            if due:
                self._queue(partition, made)
            elif after is not None:
                partition.early.keep(after, made)

    def _queue(self, partition: Partition, made: Delivery) -> None:
        """With what has waited for it."""
        following: Delivery | None = made
        while following is not None:
            source = following.source
            if source not in partition.delivering and partition.routes.taken(source) is None:
                partition.deliver(following)
            following = partition.early.take(source)
        self._deliver(partition)

    def _answered(self, source: SourceId, tails: Tails) -> None:
        """Stable, so it does not matter how often it is said, or how late."""
        partition = self._partitions.get(source.partition)
        if partition is None or not partition.serving:
            return
        known = self._control.tails
        for number, tail in tails.items():
            if tail > max(self.tails.get(number, 0), known.get(number, 0)):
                self.tails[number] = tail
        self._answer(partition, partition.routes.delivered(source, tails))

    def _answer(self, partition: Partition, sources: Iterable[SourceId]) -> None:
        for source in sources:
            taken = partition.routes.taken(source)
            assert taken is not None and taken.tails is not None
            self._reply(partition, source, taken.tails)

    def _reply(self, partition: Partition, source: SourceId, tails: Tails) -> None:
        """To whoever owns the source's partition by now: it is the one that says it again."""
        owner = self._control.view.owners.get(source.partition)
        if owner is None:
            return
        if owner.node == self._me:
            self._own.append(Answer(source, tails))
        else:
            self._letter(owner.node, 0).delivered.add(
                source=source.message(),
                partition=partition.id,
                tails=[control_pb2.Tail(partition=number, position=tail) for number, tail in tails.items()],
            )


def _due(parcel: Parcel) -> float:
    return parcel.due
