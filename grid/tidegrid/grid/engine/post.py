"""What this node and the others say to each other about commit groups and routed outputs: each letter to the machine
that it concerns, and the answers out again. What is for this node itself is taken in the same step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from tidegrid.grid.engine.effects import Effect, Tell
from tidegrid.grid.engine.groups import Groups
from tidegrid.grid.engine.lending import Lending
from tidegrid.grid.engine.routing import Routing
from tidegrid.grid.model.ids import Incarnation, NodeId
from tidegrid.grid.ring.control import ControlState
from tidegrid.grid.ring.messages import Body, Envelope, GroupMessage
from tidegrid.grid.ring.ring import Carried, Ring
from tidegrid.v1 import ring_pb2

Letter = GroupMessage | ring_pb2.Routed
LETTERS: Final = (
    ring_pb2.Borrow,
    ring_pb2.Lent,
    ring_pb2.Declined,
    ring_pb2.Settled,
    ring_pb2.SettledReceived,
    ring_pb2.Settle,
    ring_pb2.Routed,
)
AHEAD_MAX: Final = 256  # letters that wait for the control log to be read on


class Post:
    """`decided` is called when a frame of a group may be in the log, or never will be."""

    def __init__(
        self,
        me: NodeId,
        incarnation: Incarnation,
        control: ControlState,
        ring: Ring,
        groups: Groups,
        lending: Lending,
        routing: Routing,
        emit: Callable[[Effect], None],
        decided: Callable[[], None],
    ) -> None:
        self.now, self.time_ms = 0.0, 0
        self._me = me
        self._incarnation = incarnation
        self._control = control
        self._ring = ring
        self._groups = groups
        self._lending = lending
        self._routing = routing
        self._emit = emit
        self._decided = decided
        self._ahead: deque[Envelope] = deque(maxlen=AHEAD_MAX)

    def send(self, to: NodeId, body: Body) -> None:
        control = self._control
        envelope = Envelope(
            control.grid_id,
            control.position,
            self._ring.epoch,
            control.view.position,
            self._me,
            self._incarnation,
            body,
        )
        self._emit(Tell(to, envelope))

    def tell(self, messages: Iterable[tuple[NodeId, Body]]) -> None:
        letters = deque(messages)
        while letters:
            to, body = letters.popleft()
            if to == self._me and isinstance(body, LETTERS):
                letters.extend(self._taken(to, body))
            else:
                self.send(to, body)

    def received(self, envelope: Envelope, carried: Carried) -> None:
        """A letter, and what became of the pair that came with it. One that is ahead of this node waits for it to read
        on, if there is room: its sender says it again, but not soon."""
        if carried is Carried.TAKEN:
            self.tell(self._taken(envelope.sender, envelope.body))  # type: ignore[arg-type]
        elif carried is Carried.APPLY_FIRST:
            self._ahead.append(envelope)

    def control_applied(self) -> None:
        waiting = [self._ahead.popleft() for _ in range(len(self._ahead))]
        for envelope in waiting:
            self.received(envelope, self._ring.carry(self.now, envelope.control, envelope.epoch))

    def routed(self) -> None:
        """Says what routing has to say."""
        self.tell(self._routing.take(self._ring.epoch))

    def _taken(self, sender: NodeId, letter: Letter) -> Iterable[tuple[NodeId, Body]]:
        now, epoch = self.now, self._ring.epoch
        match letter:
            case ring_pb2.Borrow():
                letters = self._lending.borrow(now, sender, letter, epoch, self.time_ms)
                self._ring.stirred(now)
                return letters
            case ring_pb2.Settled():
                letters = self._lending.settled(now, sender, letter)
                self._decided()
                return letters
            case ring_pb2.Settle():
                self._lending.settle(now, letter)
            case ring_pb2.Lent():
                return self._groups.lent(now, sender, letter, epoch)
            case ring_pb2.Declined():
                return self._groups.declined(now, letter, epoch)
            case ring_pb2.SettledReceived():
                self._groups.received(letter)
            case ring_pb2.Routed():
                self._routing.received(letter, epoch)
                return self._routing.take(epoch)
        return ()
