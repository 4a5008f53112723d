"""What nodes say to each other, as values, and the bytes of it (proto/tidegrid/v1/ring.proto).

An envelope says who sent it, for which grid, in which view, and what its sender has seen of time (rule J). All of it
is untrusted input: decoding checks the form, the ring the content. Any message may be lost, late, or doubled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from tidegrid.grid.model.errors import FormatError
from tidegrid.grid.model.ids import Epoch, Incarnation, NodeId, PartitionId, Position
from tidegrid.grid.ring.token import NO_EPOCH, Token
from tidegrid.v1 import control_pb2, grid_pb2, ring_pb2

VISITED_MAX: Final = 4096  # a ring is 100 nodes at most; this bounds what a forged token costs


@dataclass(frozen=True, slots=True)
class TokenMessage:
    token: Token


@dataclass(frozen=True, slots=True)
class TokenReceived:
    """Acknowledges one hop."""

    round: int
    generation: int


@dataclass(frozen=True, slots=True)
class Wake:
    """To the origin: somebody has something to close, or waits for epoch `want` (0: for any)."""

    want: Epoch = NO_EPOCH


RingMessage = TokenMessage | TokenReceived | Wake
GroupMessage = (
    ring_pb2.Borrow | ring_pb2.Lent | ring_pb2.Declined | ring_pb2.Settled | ring_pb2.SettledReceived | ring_pb2.Settle
)
Body = RingMessage | ring_pb2.ReferenceRequest | ring_pb2.ReferenceReply | GroupMessage | ring_pb2.Routed


@dataclass(frozen=True, slots=True)
class Envelope:
    grid_id: bytes
    control: Position
    epoch: Epoch
    view: Position
    sender: NodeId
    incarnation: Incarnation
    body: Body

    def to_message(self) -> ring_pb2.NodeMessage:
        message = ring_pb2.NodeMessage(
            carry=grid_pb2.Carry(grid_id=self.grid_id, control=self.control, epoch=self.epoch),
            view=self.view,
            sender=self.sender,
            sender_incarnation=self.incarnation,
        )
        match self.body:
            case TokenMessage(token):
                message.view = token.view
                message.token.CopyFrom(token_message(token))
            case TokenReceived(round_, generation):
                message.token_received.round = round_
                message.token_received.generation = generation
            case Wake(want):
                message.wake.SetInParent()
                message.wake.want = want
            case ring_pb2.ReferenceRequest() as request:
                message.reference_request.CopyFrom(request)
            case ring_pb2.ReferenceReply() as reply:
                message.reference_reply.CopyFrom(reply)
            case other:
                getattr(message, _FIELDS[type(other)]).CopyFrom(other)
        return message

    def to_bytes(self) -> bytes:
        return self.to_message().SerializeToString()

    @classmethod
    def from_bytes(cls, data: bytes) -> Envelope:
        """Raises FormatError."""
        try:
            return cls.from_message(ring_pb2.NodeMessage.FromString(data))
        except DecodeError as error:
            raise FormatError(
                f"a message between nodes does not parse ({error}); is the peer another program?"
            ) from error

    @classmethod
    def from_message(cls, message: ring_pb2.NodeMessage) -> Envelope:
        """Raises FormatError: no body, or one that this version does not know."""
        return cls(
            message.carry.grid_id,
            Position(message.carry.control),
            Epoch(message.carry.epoch),
            Position(message.view),
            NodeId(message.sender),
            Incarnation(message.sender_incarnation),
            _body(message),
        )


_FIELDS: Final = {
    ring_pb2.Borrow: "borrow",
    ring_pb2.Lent: "lent",
    ring_pb2.Declined: "declined",
    ring_pb2.Settled: "settled",
    ring_pb2.SettledReceived: "settled_received",
    ring_pb2.Settle: "settle",
    ring_pb2.Routed: "routed",
}


def _body(message: ring_pb2.NodeMessage) -> Body:
    kind = message.WhichOneof("body")
    if kind == "token":
        return TokenMessage(token_from(message.token, message.carry.grid_id, Position(message.view)))
    if kind == "token_received":
        return TokenReceived(message.token_received.round, message.token_received.generation)
    if kind == "wake":
        return Wake(Epoch(message.wake.want))
    if kind == "reference_request":
        return message.reference_request
    if kind == "reference_reply":
        return message.reference_reply
    if kind is not None and kind in _FIELDS.values():
        body: GroupMessage | ring_pb2.Routed = getattr(message, kind)
        return body
    raise FormatError("a message between nodes has no body that this version knows; use one version on all nodes")


def token_message(token: Token) -> ring_pb2.Token:
    """Grid id and view travel in the envelope."""
    return ring_pb2.Token(
        round=token.round,
        generation=token.generation,
        intro=token.intro,
        floor=token.floor,
        visited=sorted(token.visited),
        passed=sorted(token.passed),
        tails=[control_pb2.Tail(partition=p, position=t) for p, t in sorted(token.tails.items())],
        origin=token.origin,
        reference_epoch=token.reference_epoch,
        busy=token.busy,
    )


def token_from(message: ring_pb2.Token, grid_id: bytes, view: Position) -> Token:
    """Raises FormatError."""
    if max(len(message.visited), len(message.passed)) > VISITED_MAX:
        raise FormatError(f"a token names more than {VISITED_MAX} nodes, which is more than a ring has")
    return Token(
        grid_id,
        view,
        message.round,
        message.generation,
        Epoch(message.intro),
        Epoch(message.floor),
        NodeId(message.origin),
        frozenset(NodeId(node) for node in message.visited),
        frozenset(NodeId(node) for node in message.passed),
        {PartitionId(tail.partition): Position(tail.position) for tail in message.tails},
        Epoch(message.reference_epoch),
        message.busy,
    )
